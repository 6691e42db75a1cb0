"""The rules of who hears what and when: numbers and pure functions. The statements take the numbers as parameters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, time, timedelta
from typing import Final, Literal
from zoneinfo import ZoneInfo

from functions.core.clock import local_instant

Category = Literal["document_expiry", "filing"]
Channel = Literal["email", "in_app"]
Mode = Literal["immediate", "digest", "off"]


@dataclass(frozen=True, slots=True)
class Warnings:
    """When the people responsible for something due are warned of it.

    A warning is due when the days left have reached a milestone; the tightest one reached is the one announced.
    """

    category: Category
    milestones: tuple[int, ...]
    """Days left, widest first; negative: days overdue."""
    until: int
    """Days left at which it is too late for any warning; from there on nothing is announced."""


DOCUMENT_EXPIRY: Final = Warnings("document_expiry", milestones=(30, 14, 7, 3, 1), until=-8)
"""The last milestone is a day before the expiry. One that fell into an outage is still announced for a week: a document
that has just run out needs its people no less."""

FILING: Final = Warnings("filing", milestones=(14, 7, 3, *range(0, -8, -1)), until=-8)

DEFAULT_MODE: Final[Mapping[Channel, Mode]] = {"email": "digest", "in_app": "immediate"}

AT_ONCE_DAYS: Final = 1
"""What has no more days left than this and comes after the day's digests cannot wait for tomorrow's."""

PREFERENCE_OFF: Final = "preference off"

DIGEST_WAIT: Final = timedelta(hours=2, minutes=30)
"""Digests are planned at 08:30 local and wait for the day's planners until 11:00 at most. It is counted from when the
job was made, not to a time of day, so that a replayed or simulated day waits as long."""
FIRST_SNOOZE: Final = timedelta(seconds=15)
LONGEST_SNOOZE: Final = timedelta(minutes=10)


def snooze(runs: int) -> timedelta:
    """How long digests wait before they look again, after so many runs (1 or more): doubling."""
    return min(FIRST_SNOOZE * (1 << min(runs - 1, 10)), LONGEST_SNOOZE)


def after_quiet_hours(now: datetime, zone: ZoneInfo, quiet_from: time | None, quiet_until: time | None) -> datetime:
    """`now` (aware), or the end of the quiet hours that it falls into. They may pass midnight, and are half open."""
    if quiet_from is None or quiet_until is None:
        return now
    local = now.astimezone(zone)
    at = local.time()
    quiet = quiet_from <= at < quiet_until if quiet_from <= quiet_until else at >= quiet_from or at < quiet_until
    if not quiet:
        return now
    day = local.date() + timedelta(days=0 if at < quiet_until else 1)
    # In an autumn fold the end may come twice; the first time is enough.
    return max(now, local_instant(day, quiet_until, zone))
