"""What a run of the sender knows of its mail: the intent it committed, and what follows from the provider's answer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID

from functions.aws import ses
from functions.core.outcome import Done, GiveUp, Outcome, Retry, Skipped, Snooze
from functions.email.eligibility import DOUBT_STEP, IN_DOUBT
from functions.email.queries import Letter, Result

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from functions.email.kinds import Kind
    from functions.email.payloads import Attachment


class SlotMissed(Exception):
    """The worker was held up past the mail's slot; nothing was sent."""


@dataclass(frozen=True, slots=True)
class Intent:
    """A mail on its way: committed, not yet sent."""

    job_id: UUID
    tenant_id: UUID
    critical: bool
    start: float
    """When its slot is, on this process's monotonic clock."""
    mail: ses.Mail
    attachments: Sequence[Attachment]


@dataclass(frozen=True, slots=True)
class Unsettled:
    """No mail: an earlier run's intent ends with this outcome, and its row must say so in the same commit."""

    job_id: UUID
    outcome: GiveUp | Skipped


def with_row(letter: Letter, answer: Any) -> Any:
    """The answer as record() wants it, where an earlier run's intent has to end with it."""
    return (
        Unsettled(letter.job_id, answer)
        if letter.state == "intended" and isinstance(answer, GiveUp | Skipped)
        else answer
    )


def meaning(  # noqa: PLR0911 - one return for each kind of receipt
    intent: Intent | Unsettled, receipt: Any, now: datetime
) -> tuple[Result | None, Outcome]:
    """What a receipt means for the row and for the job. What was surely not sent is no intent any more."""
    job_id = intent.job_id
    if isinstance(intent, Unsettled):
        return Result(job_id, "in_doubt", error=intent.outcome.reason), intent.outcome
    match receipt:
        case str():
            return Result(job_id, "sent", provider_id=receipt), Done({"message": "sent", "provider_id": receipt})
        case SlotMissed():
            return Result(job_id, "failed", error=str(receipt)), Snooze(now, str(receipt))
        case ses.NotNow():
            later = now + timedelta(seconds=receipt.seconds)
            return Result(job_id, "failed", error=str(receipt)), Snooze(later, str(receipt))
        case ses.Refused():
            return Result(job_id, "failed", error=str(receipt)), GiveUp(str(receipt))
        case ses.InDoubt() if intent.critical:
            return None, Retry(str(receipt))
        case ses.InDoubt():
            return None, Snooze(now + DOUBT_STEP, f"in doubt: {receipt}")
        case _:
            return Result(job_id, "failed", error=str(receipt)[:500]), Retry(str(receipt))


def count_in_doubt(outcomes: Iterable[Outcome]) -> None:
    """Metric `MailsInDoubt`: mails of which nobody knows after a day whether they were sent; alarmed above 0."""
    from functions.pipeline import observe

    if found := sum(outcome == GiveUp(IN_DOUBT) for outcome in outcomes):
        tally = observe.Tally(by_service=False)
        tally.add("MailsInDoubt", found)
        tally.flush()


def end_notices(tx: Connection, kind: Kind | None, outcomes: Mapping[UUID, Any]) -> None:
    """Notices end as their mail did; those of a mail that comes again go on waiting for it."""
    if kind is not None and kind.lists is None:
        return
    from functions.notifications.queries import Ending, mark

    endings: dict[UUID, Ending] = {}
    for job_id, outcome in outcomes.items():
        if isinstance(outcome, Done):
            endings[job_id] = Ending("sent")
        elif isinstance(outcome, Skipped):
            endings[job_id] = Ending("suppressed", outcome.reason)
        elif isinstance(outcome, GiveUp):
            endings[job_id] = Ending("failed", outcome.reason)
    if endings:
        mark(tx, endings)
