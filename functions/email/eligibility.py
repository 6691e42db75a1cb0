"""Whether a mail may go out now: pure decisions over what the database knows, in the order in which they count."""

from __future__ import annotations

import re
from datetime import datetime, time, timedelta
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

from functions.core.clock import local_instant
from functions.core.outcome import Done, GiveUp, Outcome, Skipped, Snooze
from functions.email.kinds import Kind
from functions.notifications.rules import after_quiet_hours

if TYPE_CHECKING:
    from functions.email.queries import Letter

DOUBT = timedelta(minutes=30)
"""How long a Send event may take. After it, a mail without one is sent again if later events did come."""
DOUBT_STEP = timedelta(minutes=2)
DOUBT_ENDS = timedelta(hours=24)
PAUSE_STEP = timedelta(hours=1)
RECIPIENT_PER_DAY = 20
"""Routine mails to one recipient in one of the recipient's own days."""

ADDRESS = re.compile(r"[^\s@<>()\[\],;:\\\"\x00-\x1f\x7f]{1,64}@(?:[a-z0-9-]{1,63}\.)+[a-z0-9-]{2,63}", re.IGNORECASE)
"""Stricter than RFC 5321, which allows quoted parts that nobody has. ASCII domains: SES takes no other.
https://docs.aws.amazon.com/ses/latest/APIReference-V2/API_Destination.html"""
ADDRESS_LENGTH = 254

IN_DOUBT = "in_doubt: nobody knows whether the provider sent it, and 24 hours have passed"


def verdict(letter: Letter, kind: Kind) -> Outcome | None:
    """None: go on and send. `Done` where an earlier run has sent it already."""
    return (
        _impossible(letter)
        or _settled(letter)
        or (None if kind.critical else _doubtful(letter))
        or _unwanted(letter, kind)
        or (None if kind.critical else _later(letter))
    )


def next_local_day(now: datetime, zone: str) -> datetime:
    """The first instant of the next day in a zone."""
    place = ZoneInfo(zone)
    return local_instant(now.astimezone(place).date() + timedelta(days=1), time(0), place)


def _impossible(letter: Letter) -> Outcome | None:
    if letter.tenant_id is None:
        return GiveUp("a mail needs a tenant_id")
    if letter.tenant_name is None:
        return Skipped("the tenant was deleted")
    if not letter.known:
        return GiveUp(f"the tenant has no {letter.kind} with this id: deleted, or another tenant's")
    if not letter.address:
        return GiveUp(f"the {letter.kind} has no e-mail address")
    if len(letter.address) > ADDRESS_LENGTH or not ADDRESS.fullmatch(letter.address):
        return GiveUp(f"the {letter.kind}'s e-mail address is not valid")
    return None


def _settled(letter: Letter) -> Outcome | None:
    if letter.state in {"sent", "delivered", "bounced", "complained"}:
        return Done({"message": letter.state, "settled_by": "event"})
    return None


def _unwanted(letter: Letter, kind: Kind) -> Outcome | None:
    if letter.suppressed is not None:
        return Skipped(f"suppressed: the address is on the suppression list ({letter.suppressed})")
    if kind.categories and set(kind.categories) <= set(letter.switched_off):
        return Skipped("suppressed: the recipient has switched off this mail")
    return None


def _later(letter: Letter) -> Outcome | None:
    if letter.mail_paused_reason is not None:
        return Snooze(letter.now + PAUSE_STEP, f"the tenant's routine mail is paused: {letter.mail_paused_reason}")
    awake = after_quiet_hours(letter.now, ZoneInfo(letter.time_zone), letter.quiet_from, letter.quiet_until)
    if awake > letter.now:
        return Snooze(awake, "the recipient's quiet hours")
    return None


def _doubtful(letter: Letter) -> Outcome | None:
    if letter.state != "intended" or letter.intended_at is None:
        return None
    doubted = letter.now - letter.intended_at
    if doubted >= DOUBT_ENDS:
        return GiveUp(IN_DOUBT)
    if doubted < DOUBT:
        return Snooze(letter.now + DOUBT_STEP, "in doubt: waits for the provider's Send event")
    if not letter.later_events:
        return Snooze(letter.now + DOUBT_STEP, "in doubt, and no later event of the provider has come: held")
    return None
