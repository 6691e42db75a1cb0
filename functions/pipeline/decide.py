"""What follows from how a run ended: a pure decision about the ledger's row and the message.

The ledger carries the first half out (settle), the worker the second (after the commit).
"""

from __future__ import annotations

import random
import traceback as tracebacks
from dataclasses import dataclass, replace
from math import ceil
from typing import Any

from functions.core.catalog import JobType
from functions.core.job import ClaimedJob, State
from functions.core.jsonb import why_not_jsonb
from functions.core.limits import LARGEST_CHECKPOINT, LARGEST_RESULT, json_size
from functions.core.outcome import Continue, Done, GiveUp, Outcome, Retry, Skipped, Snooze
from functions.core.retry import MAX_VISIBILITY_DELAY_SECONDS, Again, after_failure
from functions.db.engine import error_text
from functions.pipeline.ledger import Settlement

ERROR_CLASS_LIMIT = 200
ERROR_LIMIT = 2_000
TRACEBACK_LIMIT = 8_000
"""Characters kept of an error's class, of its text and of its traceback."""


@dataclass(frozen=True, slots=True)
class Acknowledge:
    """The message has served its purpose: SQS deletes it."""


@dataclass(frozen=True, slots=True)
class HandBack:
    """The message stays in the queue and shows again after `seconds` (whole, at most 12 h)."""

    seconds: int


@dataclass(frozen=True, slots=True)
class Released:
    """A run that was undone through no fault of the job: another transaction won, or a setting is missing."""

    reason: str
    wait_seconds: int
    """Until it is tried again."""
    grows: bool = True
    """Whether it waits twice as long each time that its message comes again."""


@dataclass(frozen=True, slots=True)
class Decision:
    """Both halves of an ending."""

    settlement: Settlement
    message: Acknowledge | HandBack


def decide(job: ClaimedJob, outcome: object, *, job_type: JobType, fifo: bool, rng: random.Random) -> Decision:
    """Decide what follows from an `Outcome`; an exception, or anything else, is the job's own failure.

    On a FIFO queue every wait goes through the ledger, so that no group is blocked (docs/architecture.md, rule 8).
    """
    found = _decide(job, outcome, job_type, fifo, rng)
    if job_type.strict and found.settlement.state not in {State.COMPLETED, State.DEAD}:
        return replace(found, settlement=replace(found.settlement, holds=True))
    return found


def _decide(job: ClaimedJob, outcome: object, job_type: JobType, fifo: bool, rng: random.Random) -> Decision:
    failure = _failure_of(outcome, job_type)
    if failure is not None:
        verdict = after_failure(job_type.retry, job.attempts + 1, wanted_delay=failure.wanted_delay, rng=rng)
        return _again(job, failure, verdict, fifo) if isinstance(verdict, Again) else _dead(job, "failed", failure)
    if isinstance(outcome, GiveUp):
        return _dead(job, "gave_up", _Failure("GiveUp", outcome.reason))
    match outcome:
        case Done(result=result):
            settlement = Settlement(job.id, State.COMPLETED, result=result, forget=job_type.forgets or None)
        case Skipped(reason=reason):
            settlement = Settlement(
                job.id, State.COMPLETED, result={"skipped": _clean(reason)}, forget=job_type.forgets or None
            )
        case Continue(checkpoint=checkpoint, progress=progress, until=until):
            settlement = Settlement(
                job.id,
                State.DELAYED if until else State.WAITING,
                "continued",
                resend=True,
                until=until,
                checkpoint=checkpoint,
                progress=progress,
            )
        case Snooze(until=until, reason=reason):
            settlement = Settlement(job.id, State.DELAYED, "snoozed", resend=True, until=until, error=_clean(reason))
        case _:
            raise AssertionError(f"unreachable: {outcome!r} is an outcome or a failure")
    return Decision(settlement, Acknowledge())


def release(job: ClaimedJob, reason: str, *, wait_seconds: int = 0) -> Decision:
    """The run never started, or was undone through no fault of the job: at no cost, and its group waits for it."""
    return Decision(
        Settlement(job.id, State.WAITING, "released", holds=True, error=_clean(reason)), HandBack(wait_seconds)
    )


def why_no_outcome(outcome: object, handler: str) -> str | None:
    """Why what a handler (a dotted string) returned is nothing that the ledger can keep, None when it is.

    Whoever asks before the handler's writes are final can undo them.
    """
    if not isinstance(outcome, Outcome):
        return f"{handler} returned {type(outcome).__name__}, not an outcome"
    return _not_kept(outcome)


def _not_kept(outcome: Outcome) -> str | None:
    """What a handler hands over to be kept must be JSON of a bounded size; else its neighbours' settle would fail."""
    match outcome:
        case Done(result=kept):
            name, largest = "result", LARGEST_RESULT
        case Continue(checkpoint=kept):
            name, largest = "checkpoint", LARGEST_CHECKPOINT
        case _:
            return None
    if kept is None:
        return None
    if why := why_not_jsonb(kept):
        return f"the {name} of the outcome is not JSON that can be stored: {why}"
    size = json_size(kept)
    return f"the {name} of the outcome has {size} bytes as text; {largest} are the most" if size > largest else None


@dataclass(frozen=True, slots=True)
class _Failure:
    """Why a run failed; `wanted_delay` is the handler's own wish, in seconds."""

    error_class: str
    error: str
    frames: str | None = None
    wanted_delay: float | None = None


def _failure_of(outcome: object, job_type: JobType) -> _Failure | None:
    if isinstance(outcome, Retry):
        return _Failure("Retry", outcome.reason, wanted_delay=outcome.delay_seconds)
    if isinstance(outcome, Exception):
        frames = "".join(tracebacks.format_tb(outcome.__traceback__))[-TRACEBACK_LIMIT:]
        return _Failure(type(outcome).__name__, error_text(outcome), frames)
    if wrong := why_no_outcome(outcome, job_type.perform):
        return _Failure("TypeError", wrong)
    return None


def _again(job: ClaimedJob, failure: _Failure, verdict: Again, fifo: bool) -> Decision:
    through_ledger = fifo or verdict.delay_seconds > MAX_VISIBILITY_DELAY_SECONDS
    settlement = _failed(
        job, State.RETRYING, "failed", failure, resend=through_ledger, delay_seconds=verdict.delay_seconds
    )
    return Decision(settlement, Acknowledge() if through_ledger else HandBack(ceil(verdict.delay_seconds)))


def _dead(job: ClaimedJob, attempt: str, failure: _Failure) -> Decision:
    # Visibility 0: the message comes straight back, until the redrive policy moves it to the dead-letter queue.
    return Decision(_failed(job, State.DEAD, attempt, failure), HandBack(0))


def _failed(job: ClaimedJob, state: State, attempt: str, failure: _Failure, **wait: Any) -> Settlement:
    return Settlement(
        job.id,
        state,
        attempt,
        counted=True,
        error_class=_clean(failure.error_class, ERROR_CLASS_LIMIT),
        error=_clean(failure.error),
        traceback=failure.frames and _clean(failure.frames, TRACEBACK_LIMIT),
        **wait,
    )


def _clean(text: str, limit: int = ERROR_LIMIT) -> str:
    """PostgreSQL's text holds no NUL and no half of a surrogate pair."""
    return text[:limit].encode(errors="replace").decode().replace("\x00", "?")
