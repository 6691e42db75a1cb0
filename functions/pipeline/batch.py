"""What one invocation of a worker knows and carries along."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

from functions.core.catalog import Catalog
from functions.pipeline.inbox import Reply
from functions.pipeline.observe import Tally

TIME_RESERVE_SECONDS = 3.0
"""Kept at the end of an invocation for settling and answering; no job starts within it."""
OUTAGE_FIRST_SECONDS, OUTAGE_LONGEST_SECONDS = 15, 3_600


def growing(first_seconds: int, receives: int) -> int:
    """How long a message waits that is nobody's fault: twice as long each time it comes, up to an hour."""
    return min(first_seconds << min(receives - 1, 12), OUTAGE_LONGEST_SECONDS)


@dataclass(slots=True)
class Batch:
    """One SQS batch on its way through the worker."""

    queue: str
    catalog: Catalog
    reply: Reply
    remaining_seconds: Callable[[], float]
    rng: random.Random = field(default_factory=random.Random)
    tally: Tally = field(default_factory=Tally)

    @property
    def fifo(self) -> bool:
        return self.catalog.queues[self.queue].fifo

    def time_is_up(self, longest_job_seconds: float = 0.0) -> bool:
        """Whether the rest of the invocation is too short for another job as long as the longest so far."""
        return self.remaining_seconds() < TIME_RESERVE_SECONDS + longest_job_seconds
