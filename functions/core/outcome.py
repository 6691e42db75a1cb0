"""How a run of a job ends: the values a handler returns.

A handler returns one of these. An exception that escapes it is the job's own failure and is retried by the
policy of its type, exactly like `Retry`; its writes are rolled back.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from functions.core.job import JobRequest

LONGEST_DELAY_SECONDS = 366 * 86_400
"""Longer is a mistake in the handler's arithmetic, and may be no instant that PostgreSQL knows."""


def _check_reason(outcome: Retry | Snooze | GiveUp | Skipped) -> None:
    """Raises `TypeError` in the handler, whose line the traceback shows, and not later in its neighbours' settle."""
    reason: object = outcome.reason
    if not isinstance(reason, str):
        name = type(outcome).__name__
        raise TypeError(f"{name}.reason is text, not {reason!r}; str(error) makes text of an error")


@dataclass(frozen=True, slots=True)
class Done:
    """Finished. `result` (JSON) is kept with the job; `enqueue` is ordered in the same transaction."""

    result: Mapping[str, Any] | None = None
    enqueue: Sequence[JobRequest] = field(default=())

    def __post_init__(self) -> None:
        if not isinstance(self.enqueue, Sequence) or not all(isinstance(item, JobRequest) for item in self.enqueue):
            raise TypeError("Done.enqueue is a list of JobRequest")


@dataclass(frozen=True, slots=True)
class Skipped:
    """Finished without doing anything, and why: the reason is recorded and counted."""

    reason: str

    def __post_init__(self) -> None:
        _check_reason(self)


@dataclass(frozen=True, slots=True)
class Continue:
    """A step of a long job is done: commit it, and go on from `checkpoint` in the next delivery. Uses no attempt."""

    checkpoint: Mapping[str, Any]
    progress: float | None = None
    """Share done, 0 to 1."""
    until: datetime | None = None
    """When the next step may begin; None: at once."""

    def __post_init__(self) -> None:
        if self.until is not None and self.until.tzinfo is None:
            raise ValueError(f"Continue.until must be an aware datetime; {self.until!r} has no time zone")
        if self.progress is not None and not 0 <= self.progress <= 1:
            raise ValueError(f"Continue.progress is a share from 0 to 1, not {self.progress}")


@dataclass(frozen=True, slots=True)
class Retry:
    """This run failed. Another attempt follows unless they are used up; `delay_seconds` overrides the policy's."""

    reason: str
    delay_seconds: float | None = None

    def __post_init__(self) -> None:
        _check_reason(self)
        if self.delay_seconds is not None and not self.delay_seconds <= LONGEST_DELAY_SECONDS:
            raise ValueError(f"Retry.delay_seconds is at most a year, not {self.delay_seconds}")


@dataclass(frozen=True, slots=True)
class Snooze:
    """Not now, through no fault of the job (a rate limit, quiet hours): come back at `until`. Uses no attempt."""

    until: datetime
    reason: str

    def __post_init__(self) -> None:
        _check_reason(self)
        if self.until.tzinfo is None:
            raise ValueError(f"Snooze.until must be an aware datetime; {self.until!r} has no time zone")


@dataclass(frozen=True, slots=True)
class GiveUp:
    """No further attempt can help: the job is dead at once, with this reason."""

    reason: str

    def __post_init__(self) -> None:
        _check_reason(self)


Outcome = Done | Skipped | Continue | Retry | Snooze | GiveUp

UNDONE = (Retry, Snooze, GiveUp)
"""Endings after which the run's own writes are rolled back, since another run (or none) will make them.

A set-based handler shares one savepoint among its jobs and must not have written for a job it ends so.
"""
