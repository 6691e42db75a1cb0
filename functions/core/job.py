"""What a job is: its states, the legal moves between them, and the record a handler receives."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Generic, TypeVar
from uuid import UUID

Payload = TypeVar("Payload")

GROUP_KEY = re.compile(r"[!-~]{1,128}")
"""What SQS takes as a MessageGroupId; another one would be refused by the queue again and again, with all behind it.
https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_SendMessage.html"""

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


LONGEST_DEDUP_KEY = 500


@dataclass(frozen=True, slots=True)
class JobRequest:
    """An order for a job. `enqueue` takes one or thousands of them in one statement.

    At most one of `run_at` (aware) and `delay_seconds` may be given. With `dedup_key` a second order for the
    same tenant, type and key creates nothing: for `dedup_window_seconds` where given, else until the first is
    finished (completed, cancelled or dead).
    """

    type: str
    payload: Mapping[str, Any]
    tenant_id: UUID | None = None
    group_key: str | None = None
    """FIFO group, or the fair-queue group on a standard queue (default there: the tenant)."""
    priority: int = 0
    """1 leaves the ledger before 0, 0 before -1; lanes (queues) keep urgent work apart, this orders a backlog."""
    run_at: datetime | None = None
    delay_seconds: float | None = None
    deadline_at: datetime | None = None
    """A job that has not started by then is cancelled instead."""
    dedup_key: str | None = None
    dedup_window_seconds: float | None = None
    correlation_id: str | None = None

    def __post_init__(self) -> None:
        if self.run_at is not None and self.delay_seconds is not None:
            raise ValueError("give run_at or delay_seconds, not both")
        for name in ("run_at", "deadline_at"):
            instant: datetime | None = getattr(self, name)
            if instant is not None and instant.tzinfo is None:
                raise ValueError(f"{name} must be an aware datetime; {instant!r} has no time zone")
        if self.priority not in {-1, 0, 1}:
            raise ValueError(f"priority is 1, 0 or -1, not {self.priority}")
        if self.group_key is not None and not GROUP_KEY.fullmatch(self.group_key):
            raise ValueError(f"group_key is 1 to 128 ASCII letters, digits and punctuation, not {self.group_key!r}")
        if self.dedup_window_seconds is not None and self.dedup_key is None:
            raise ValueError("dedup_window_seconds needs a dedup_key")
        if self.dedup_key is not None and not 1 <= len(self.dedup_key) <= LONGEST_DEDUP_KEY:
            raise ValueError(f"dedup_key has 1 to {LONGEST_DEDUP_KEY} characters, not {len(self.dedup_key)}")
