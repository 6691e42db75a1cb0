"""`email.event`: what the provider reports of mails: settles doubts, keeps the suppression list, feeds the breaker."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from functions.core.job import Job
from functions.core.outcome import Done, Outcome, Skipped
from functions.email.event_payloads import EmailEvent

if TYPE_CHECKING:
    from sqlalchemy import Connection

STATES = ("intended", "sent", "rejected", "delivered", "bounced", "complained")
"""An event moves a mail on, never back: they come in any order."""
HARD = "Permanent"


@dataclass(frozen=True, slots=True)
class Fact:
    """What one event means."""

    kind: str
    """As in mail_events. A soft bounce is a `delay`: the breaker counts what SES itself counts, hard bounces."""
    state: str | None = None
    """Of the mail, if the event moves it."""
    suppress: str | None = None
    """Why its addresses are to get no more mail."""
    soft: bool = False
    addresses: tuple[str, ...] = ()
    detail: str | None = None


def perform(jobs: Sequence[Job[EmailEvent]], tx: Connection) -> list[Outcome]:
    """Take in every event of the batch: at most five statements, whatever the events."""
    from functions.email import event_queries
    from functions.email.breaker import trip

    facts = [(job, read(job.payload)) for job in jobs]
    event_queries.take_in(tx, facts)
    bad = {tenant for job, fact in facts if fact.kind in {"bounce", "complaint"} and (tenant := _tenant(job))}
    if bad:
        trip(tx, sorted(bad))
    return [
        Done({"event": fact.kind})
        if job.payload.mail.tag("job")
        else Skipped("not a mail of ours: it has no tag with a job's id")
        for job, fact in facts
    ]


def read(event: EmailEvent) -> Fact:  # noqa: PLR0911 - one return for each kind of event
    """What an event means. An unknown one, such as an opened mail, only counts."""
    match event.event_type:
        case "Send":
            return Fact("send", "sent")
        case "Delivery":
            delivered = event.delivery.recipients if event.delivery else ()
            return Fact("delivery", "delivered", addresses=_lower(delivered or event.mail.destination))
        case "Bounce" if event.bounce is not None:
            found = event.bounce
            addresses = _lower([recipient.address for recipient in found.recipients])
            detail = f"{found.kind}/{found.subtype}"
            if found.kind == HARD:
                return Fact("bounce", "bounced", "bounce", addresses=addresses, detail=detail)
            return Fact("delay", "bounced", soft=True, addresses=addresses, detail=detail)
        case "Complaint" if event.complaint is not None:
            addresses = _lower([recipient.address for recipient in event.complaint.recipients])
            return Fact("complaint", "complained", "complaint", addresses=addresses, detail=event.complaint.feedback)
        case "DeliveryDelay":
            return Fact("delay", detail=event.delay.kind if event.delay else None)
        case "Reject":
            return Fact("reject", "rejected", detail=event.reject.reason if event.reject else None)
    return Fact("other")


def _tenant(job: Job[EmailEvent]) -> str | None:
    tenant_id = job.payload.mail.tag("tenant")
    return str(tenant_id) if tenant_id else None


def _lower(addresses: Sequence[str]) -> tuple[str, ...]:
    return tuple(sorted({address.strip().lower() for address in addresses}))
