"""Probes whose handler gets wrong what a job's own code can get wrong, until that has cost it an attempt.

Such a probe says so in its `note`. Each leaves its effect first, which must be undone with the run. Handlers that run
into each other's locks are no such probes: while `DEADLOCKS` is on any probe may, and none must be blamed for it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from functions.core.job import Job, JobRequest
from functions.core.outcome import Done, Outcome, Retry
from functions.db.engine import is_conflict

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from duecourse.chaos.saboteur import Saboteur

DEADLOCKS = "handlers-deadlock"
DEADLOCKING = 0.5
"""Share of the probes that take two locks while `DEADLOCKS` is on."""
BETWEEN_LOCKS_SECONDS = 0.3
LOCK = text("SELECT pg_advisory_xact_lock(1202, :number)")
FAILS = "SELECT 1 / 0"


def _swallow(job: Job[Any], tx: Connection) -> Outcome:
    try:
        tx.exec_driver_sql(FAILS)
    except DBAPIError:
        return Done({"run": job.runs})
    raise AssertionError(FAILS)


def _commit(job: Job[Any], tx: Connection) -> Outcome:
    ways: tuple[Callable[[], Any], ...] = (
        tx.commit,
        tx.rollback,
        lambda: tx.exec_driver_sql("COMMIT"),
        tx.connection.driver_connection.commit,  # type: ignore[union-attr]
    )
    ways[job.id.int % len(ways)]()
    return Done({"run": job.runs})


def _forget(job: Job[Any], tx: Connection) -> Any:
    del job, tx


def _bad_reason(job: Job[Any], tx: Connection) -> Outcome:
    del job, tx
    return Retry(ValueError("no text"))  # type: ignore[arg-type]


def _bad_follower(job: Job[Any], tx: Connection) -> Outcome:
    del tx
    return Done({"run": job.runs}, enqueue=[JobRequest(job.type, {"fail_runs": -1}, tenant_id=job.tenant_id)])


@dataclass(frozen=True, slots=True)
class Mistake:
    """What a handler does, and the class of the error that its run has to end with."""

    act: Callable[[Job[Any], Connection], Any]
    error_class: str


MISTAKES: Mapping[str, Mistake] = {
    "probe that swallows a failed statement": Mistake(_swallow, "SharedTransaction"),
    "probe that ends the transaction": Mistake(_commit, "SharedTransaction"),
    "probe that returns nothing": Mistake(_forget, "TypeError"),
    "probe with a reason that is no text": Mistake(_bad_reason, "TypeError"),
    "probe that orders an invalid follower": Mistake(_bad_follower, "InvalidPayload"),
}
"""By the probe's note."""


def perform(saboteur: Saboteur, honest: Callable[[Job[Any], Connection], Outcome], job: Job[Any], tx: Any) -> Any:
    """`functions.upkeep.probe.perform`, and what the note says on top of it."""
    outcome = honest(job, tx)
    if (mistake := MISTAKES.get(job.payload.note)) and job.attempts == 0:
        saboteur.note(job.payload.note)
        return mistake.act(job, tx)
    if saboteur.on(DEADLOCKS) and saboteur.strikes(DEADLOCKING):
        _take_two_locks(saboteur, tx)
    return outcome


def _take_two_locks(saboteur: Saboteur, tx: Connection) -> None:
    first = saboteur.rng.randint(0, 1)
    try:
        tx.execute(LOCK, {"number": first})
        time.sleep(BETWEEN_LOCKS_SECONDS)
        tx.execute(LOCK, {"number": 1 - first})
    except DBAPIError as error:
        if is_conflict(error):
            saboteur.note("deadlock of handlers")
        raise
