"""What follows from how a run ended: a pure decision about the ledger's row and the message.

The ledger carries the first half out (settle), the worker the second (after the commit).
"""

from __future__ import annotations

import random
import traceback as tracebacks
from dataclasses import dataclass
from math import ceil

from functions.core.catalog import JobType
from functions.core.job import ClaimedJob, State
from functions.core.jsonb import why_not_jsonb
from functions.core.outcome import Continue, Done, GiveUp, Retry, Skipped, Snooze
from functions.core.retry import MAX_VISIBILITY_DELAY_SECONDS, Again, after_failure
from functions.db.engine import error_text
from functions.pipeline.ledger import Settlement

ERROR_LIMIT = 2_000
TRACEBACK_LIMIT = 8_000
"""Characters kept of an error and of its traceback."""


@dataclass(frozen=True, slots=True)
class Acknowledge:
    """The message has served its purpose: SQS deletes it."""


@dataclass(frozen=True, slots=True)
class HandBack:
    """The message stays in the queue and shows again after `seconds` (whole, at most 12 h)."""

    seconds: int


@dataclass(frozen=True, slots=True)
class Decision:
    """Both halves of an ending."""

    settlement: Settlement
    message: Acknowledge | HandBack


def decide(job: ClaimedJob, outcome: object, *, job_type: JobType, fifo: bool, rng: random.Random) -> Decision:
    """Decide what follows from an `Outcome`; an exception, or anything else, is the job's own failure.

    On a FIFO queue every wait goes through the ledger, so that no group is blocked (DESIGN rule 8).
    """
    if error := _not_json(outcome):
        return decide(job, error, job_type=job_type, fifo=fifo, rng=rng)
    match outcome:
        case Done(result=result):
            return Decision(Settlement(job.id, State.COMPLETED, result=result), Acknowledge())
        case Skipped(reason=reason):
            return Decision(Settlement(job.id, State.COMPLETED, result={"skipped": _clean(reason)}), Acknowledge())
        case Continue(checkpoint=checkpoint, progress=progress):
            settlement = Settlement(
                job.id, State.WAITING, "continued", resend=True, checkpoint=checkpoint, progress=progress
            )
            return Decision(settlement, Acknowledge())
        case Snooze(until=until, reason=reason):
            settlement = Settlement(job.id, State.DELAYED, "snoozed", resend=True, until=until, error=_clean(reason))
            return Decision(settlement, Acknowledge())
        case GiveUp(reason=reason):
            return _dead(job, "gave_up", "GiveUp", reason)
        case Retry(reason=reason, delay_seconds=delay):
            return _failed(job, "Retry", reason, None, delay, job_type, fifo, rng)
        case Exception():
            frames = "".join(tracebacks.format_tb(outcome.__traceback__))[-TRACEBACK_LIMIT:]
            return _failed(job, type(outcome).__name__, error_text(outcome), frames, None, job_type, fifo, rng)
        case _:
            wrong = TypeError(f"{job_type.perform} returned {type(outcome).__name__}, not an outcome")
            return decide(job, wrong, job_type=job_type, fifo=fifo, rng=rng)


def release(job: ClaimedJob, reason: str) -> Decision:
    """The run never started, or was undone through no fault of the job: at no cost, and again at once."""
    return Decision(Settlement(job.id, State.WAITING, "released", error=reason), HandBack(0))


def _not_json(outcome: object) -> Exception | None:
    """What a handler hands over to be kept must be JSON; saying so here spares its neighbours a failed settle."""
    kept = {Done: "result", Continue: "checkpoint"}.get(type(outcome))
    if kept is None:
        return None
    why = why_not_jsonb(getattr(outcome, kept))
    return TypeError(f"the {kept} of the outcome is not JSON that can be stored: {why}") if why else None


def _failed(
    job: ClaimedJob,
    error_class: str,
    error: str,
    trace: str | None,
    wanted_delay: float | None,
    job_type: JobType,
    fifo: bool,
    rng: random.Random,
) -> Decision:
    verdict = after_failure(job_type.retry, job.attempts + 1, wanted_delay=wanted_delay, rng=rng)
    if not isinstance(verdict, Again):
        return _dead(job, "failed", error_class, error, trace)
    through_ledger = fifo or verdict.delay_seconds > MAX_VISIBILITY_DELAY_SECONDS
    settlement = Settlement(
        job.id,
        State.RETRYING,
        "failed",
        counted=True,
        resend=through_ledger,
        delay_seconds=verdict.delay_seconds,
        error_class=error_class,
        error=_clean(error),
        traceback=trace and _clean(trace, TRACEBACK_LIMIT),
    )
    return Decision(settlement, Acknowledge() if through_ledger else HandBack(ceil(verdict.delay_seconds)))


def _dead(job: ClaimedJob, attempt: str, error_class: str, error: str, trace: str | None = None) -> Decision:
    # Visibility 0: the message comes straight back, until the redrive policy moves it to the dead-letter queue.
    settlement = Settlement(
        job.id,
        State.DEAD,
        attempt,
        counted=True,
        error_class=error_class,
        error=_clean(error),
        traceback=trace and _clean(trace, TRACEBACK_LIMIT),
    )
    return Decision(settlement, HandBack(0))


def _clean(text: str, limit: int = ERROR_LIMIT) -> str:
    """PostgreSQL's text holds no NUL and no half of a surrogate pair."""
    return text[:limit].encode(errors="replace").decode().replace("\x00", "?")
