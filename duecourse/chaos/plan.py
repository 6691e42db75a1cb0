"""What happens in a run, from its seed: how many jobs of which kind, and which fault when. Pure."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum


class Fault(StrEnum):
    """A fault that is brought about from outside; the processes add those of their own (saboteur, roles)."""

    POSTGRES_KILLED = "PostgreSQL killed"
    POSTGRES_STOPPED = "PostgreSQL stopped for 5 s"
    POSTGRES_RESTARTED = "PostgreSQL restarted"
    POSTGRES_BACKEND_KILLED = "PostgreSQL's connection killed"
    POSTGRES_FROZEN = "PostgreSQL accepts and does not answer for 8 s"
    POSTGRES_READ_ONLY = "PostgreSQL read-only for 5 s"
    DISK_FULL = "PostgreSQL's disk full for 5 s"
    EMULATOR_RESTARTED = "AWS restarted"
    QUEUES_LOST = "all queues lost"
    FUNCTIONS_KILLED = "all functions killed"
    SQS_SLOW = "SQS slow and refusing for 6 s"
    MAIL_THROTTLED = "SES throttling for 6 s"
    MAIL_BREAKS = "SES breaking off for 6 s"
    POISON = "poison flood"
    WORKER_STALLED = "worker stopped beyond its lease"
    ORDERS_HELD_OPEN = "orders of two applications held open for 4 s"
    ROWS_LOCKED = "an application's locks held for 4 s"
    IDLE_IN_TRANSACTION = "an application idle in its transaction until it is ended"
    HANDLERS_DEADLOCK = "handlers deadlocking for 6 s"
    ROLLOUT = "a release that adds a type, and one that moves it"


LIFE, SHORT_LIFE, JOBS_OF_A_LONG_RUN = 30, 10, 25_000
"""Passes of its fated point at the most: in a short run, too, every fate shall come up."""
FIRST, LAST = 0.08, 0.95
"""The share of orders made before the first fault, and before the last."""


@dataclass(frozen=True, slots=True)
class Timed:
    """A fault, and the share of all orders that have been made when it comes."""

    at: float
    fault: Fault


@dataclass(frozen=True, slots=True)
class Plan:
    """A run. The same seed and size give the same plan; what each fault hits is up to the operating system."""

    seed: int
    jobs: int
    workers: int
    kill_rate: float
    life: int
    random_kill_seconds: float
    """Mean time between two kills at random of a process of ours."""
    backlog: int
    """Orders wait while more jobs than this are open, as the emulator's receives scan the whole queue."""
    poison: int
    """Messages of a poison flood."""
    faults: Sequence[Timed]


def make_plan(seed: int, jobs: int, *, rounds: int) -> Plan:
    """The plan of a run of so many jobs, with every fault `rounds` times, in an order that the seed decides.

    Queues are lost at the end of a round, as the sweep sends their jobs again only once they have run empty.
    """
    rng = random.Random(seed)
    others = [fault for fault in Fault if fault is not Fault.QUEUES_LOST]
    order = [fault for _ in range(rounds) for fault in (*rng.sample(others, len(others)), Fault.QUEUES_LOST)]
    step = (LAST - FIRST) / len(order)
    faults = [Timed(FIRST + step * (place + rng.random() * 0.5), fault) for place, fault in enumerate(order)]
    return Plan(
        seed=seed,
        jobs=jobs,
        workers=4,
        kill_rate=0.005,
        life=LIFE if jobs >= JOBS_OF_A_LONG_RUN else SHORT_LIFE,
        random_kill_seconds=8.0,
        backlog=600,
        poison=max(20, jobs // 500),
        faults=faults,
    )
