"""What a job is: its states, the legal moves between them, and the record a handler receives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Generic, TypeVar
from uuid import UUID

from functions.core.limits import LONGEST_DEDUP_KEY, LONGEST_WAIT_SECONDS, why_not_correlation_id

Payload = TypeVar("Payload")

ENVELOPE_VERSION = 1
"""Of the message bodies that this release writes, and the newest it reads. Not in envelope.py: whoever only sends
(relay, sweep) would pay for pydantic."""


class State(StrEnum):
    """Where a job stands. The ledger (table `jobs`) is the truth; a queue only carries the message."""

    BLOCKED = "blocked"
    DELAYED = "delayed"
    WAITING = "waiting"
    ACTIVE = "active"
    RETRYING = "retrying"
    PAUSED = "paused"
    COMPLETED = "completed"
    CANCELLED = "cancelled"
    DEAD = "dead"


CLOSED = frozenset({State.COMPLETED, State.CANCELLED})
"""States that nothing leaves. `dead` is not one of them: a redrive revives it."""

# The one table of legal moves. The database refuses every other one (trigger `jobs_transition`), and
# tests/sql/test_transitions.py holds table `job_transitions` to this.
TRANSITIONS: Mapping[State, frozenset[State]] = {
    State.BLOCKED: frozenset({State.WAITING, State.DELAYED, State.PAUSED, State.CANCELLED, State.DEAD}),
    State.DELAYED: frozenset({State.WAITING, State.ACTIVE, State.PAUSED, State.CANCELLED}),
    State.WAITING: frozenset({State.ACTIVE, State.PAUSED, State.CANCELLED}),
    State.ACTIVE: frozenset(
        {
            State.COMPLETED,
            State.RETRYING,
            State.DELAYED,
            State.WAITING,
            State.PAUSED,
            State.CANCELLED,
            State.DEAD,
        }
    ),
    State.RETRYING: frozenset({State.ACTIVE, State.WAITING, State.PAUSED, State.CANCELLED}),
    State.PAUSED: frozenset({State.BLOCKED, State.WAITING, State.DELAYED, State.CANCELLED}),
    State.DEAD: frozenset({State.WAITING, State.CANCELLED}),
    State.COMPLETED: frozenset(),
    State.CANCELLED: frozenset(),
}


@dataclass(frozen=True, slots=True)
class ClaimedJob:
    """One job as the claim returned it, its payload not yet validated."""

    id: UUID
    type: str
    tenant_id: UUID | None
    payload: Mapping[str, Any]
    attempts: int
    """Handler starts so far that ended in the job's own failure."""
    runs: int
    """Handler starts in the job's whole life, this one included; a redrive does not reset it."""
    lost: int
    """Runs whose lease ran out unsettled; refunded, never attempts."""
    correlation_id: str
    checkpoint: Mapping[str, Any] | None
    waited_seconds: float
    """From when the job could have run to its claim."""
    group_key: str | None = None
    """Its group, on a FIFO queue: what comes after it there starts after it."""


@dataclass(frozen=True, slots=True)
class Job(Generic[Payload]):
    """What a handler receives: the claimed job with its payload as the contract's type."""

    id: UUID
    type: str
    tenant_id: UUID | None
    payload: Payload
    attempts: int
    runs: int
    correlation_id: str
    checkpoint: Mapping[str, Any] | None
    group_key: str | None = None


@dataclass(frozen=True, slots=True)
class JobRequest:
    """An order for a job. `enqueue` takes one or thousands of them in one statement.

    At most one of `run_at` (aware) and `delay_seconds` may be given. With `dedup_key` a second order for the
    same tenant, type and key creates nothing: for `dedup_window_seconds` where given, else until the first is
    finished (completed, cancelled or dead). On a FIFO queue the job's group follows from its type and payload.

    Raises `ValueError`, in one sentence, for a value beyond its limit (functions/core/limits.py).
    """

    type: str
    payload: Mapping[str, Any]
    tenant_id: UUID | None = None
    priority: int = 0
    """1 leaves the ledger before 0, 0 before -1; lanes (queues) keep urgent work apart, this orders a backlog.
    On a FIFO queue it has no effect: jobs start in the order in which they came due."""
    run_at: datetime | None = None
    delay_seconds: float | None = None
    deadline_at: datetime | None = None
    """A job that has not started by then is cancelled instead."""
    dedup_key: str | None = None
    dedup_window_seconds: float | None = None
    correlation_id: str | None = None

    def __post_init__(self) -> None:
        if why := self._refusal():
            raise ValueError(why)

    def _refusal(self) -> str | None:
        """Why the order is refused, as far as that can be said without a clock and the type's contract."""
        return (
            _why_not_tenant(self.tenant_id)
            or _why_not_priority(self.priority)
            or _why_not_wait(self.run_at, self.delay_seconds)
            or _why_not_aware("run_at", self.run_at)
            or _why_not_aware("deadline_at", self.deadline_at)
            or _why_not_key(self.dedup_key, self.dedup_window_seconds)
            or (self.correlation_id is not None and why_not_correlation_id(self.correlation_id))
            or None
        )


def _why_not_tenant(tenant_id: object) -> str | None:
    return None if tenant_id is None or isinstance(tenant_id, UUID) else "tenant_id cannot be read as a uuid"


def _why_not_priority(priority: object) -> str | None:
    whole = isinstance(priority, int) and not isinstance(priority, bool)
    return None if whole and priority in {-1, 0, 1} else f"priority is 1, 0 or -1, not {priority}"


def _why_not_wait(run_at: datetime | None, delay_seconds: float | None) -> str | None:
    if run_at is not None and delay_seconds is not None:
        return "give run_at or delay_seconds, not both"
    if delay_seconds is None or (_is_number(delay_seconds) and 0 <= delay_seconds <= LONGEST_WAIT_SECONDS):
        return None
    return f"delay_seconds is a number from 0 to {LONGEST_WAIT_SECONDS} (ten years)"


def _why_not_aware(name: str, instant: object) -> str | None:
    if instant is None or (isinstance(instant, datetime) and instant.utcoffset() is not None):
        return None
    return f"{name} must be an aware datetime; {instant!r} has no time zone"


def _why_not_key(key: str | None, window_seconds: float | None) -> str | None:
    if key is None:
        return "dedup_window_seconds needs a dedup_key" if window_seconds is not None else None
    if not 1 <= len(key) <= LONGEST_DEDUP_KEY:
        return f"dedup_key has 1 to {LONGEST_DEDUP_KEY} characters, not {len(key)}"
    if window_seconds is None or (_is_number(window_seconds) and 0 < window_seconds <= LONGEST_WAIT_SECONDS):
        return None
    return f"dedup_window_seconds is a number above 0, up to {LONGEST_WAIT_SECONDS} (ten years)"


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
