"""Runs the handlers of claimed jobs inside the work transaction and gathers how each ended.

A failure never undoes a neighbour: every job of an ordinary batch has its savepoint, a set-based batch has one for
all and is done one by one only if that fails. A database that is away is nobody's failure: it ends the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Protocol, TypeVar
from uuid import UUID

from sqlalchemy import Connection

from functions.core.catalog import Catalog, JobType
from functions.core.errors import InvalidPayload
from functions.core.job import ClaimedJob, Job
from functions.core.outcome import UNDONE, GiveUp, Outcome
from functions.core.resolve import resolve
from functions.db.engine import is_outage, transaction
from functions.pipeline import observe
from functions.pipeline.enqueue import validate_payload

Ending = Outcome | Exception
Intent = TypeVar("Intent")

SEND_THREADS = 10


class OutsideEffect(Protocol[Intent]):
    """A job whose effect lies outside the database, in three steps (docs/architecture.md, rule 5)."""

    def prepare(self, jobs: Sequence[Job[Any]], tx: Connection) -> Sequence[Intent | Outcome]:
        """Commit what is intended, and what it reserves; an outcome instead of an intent ends that job here."""

    def send(self, intent: Intent) -> Any:
        """Do it. Runs in a thread, holds no connection, must not touch the database."""

    def record(self, sent: Sequence[tuple[Intent, Any]], tx: Connection) -> Sequence[Outcome]:
        """Commit what came of it together with the settling; a send that raised comes as its exception."""


class OutOfTime(Exception):
    """The rest of the invocation cannot hold another job: hand back what has not started."""


def parse(claimed: Sequence[ClaimedJob], catalog: Catalog) -> tuple[list[Job[Any]], dict[UUID, Ending]]:
    """Validate payloads: the jobs that can run, and the endings of those that never can."""
    jobs: list[Job[Any]] = []
    endings: dict[UUID, Ending] = {}
    for job in claimed:
        try:
            payload = validate_payload(job.type, job.payload, catalog=catalog)
        except InvalidPayload as error:
            endings[job.id] = GiveUp(str(error))
            continue
        jobs.append(
            Job(
                job.id,
                job.type,
                job.tenant_id,
                payload,
                job.attempts,
                job.runs,
                job.correlation_id,
                job.checkpoint,
            )
        )
    return jobs, endings


def perform_group(
    job_type: JobType, jobs: Sequence[Job[Any]], tx: Connection, *, time_is_up: Callable[[], bool]
) -> Iterator[tuple[UUID, Ending]]:
    """Run the jobs of one type, yielding how each ended. Raises `OutOfTime` before a job that no longer fits."""
    handler = resolve(job_type.perform)
    if job_type.set_based:
        yield from _perform_set(handler, jobs, tx)
        return
    for job in jobs:
        if time_is_up():
            raise OutOfTime
        with observe.job_context(job):
            yield job.id, _in_savepoint(partial(handler, job, tx), tx)


def _perform_set(
    handler: Callable[[Sequence[Job[Any]], Connection], Sequence[Outcome]], jobs: Sequence[Job[Any]], tx: Connection
) -> Iterator[tuple[UUID, Ending]]:
    endings = _all_or_each(lambda some: handler(some, tx), jobs, tx)
    yield from zip((job.id for job in jobs), endings, strict=True)


def perform_outside(
    job_type: JobType, jobs: Sequence[Job[Any]]
) -> tuple[dict[UUID, Ending], list[tuple[UUID, Any, Any]]]:
    """Prepare (its own commit) and send. Returns the endings so far and (job id, intent, receipt) to be recorded."""
    effect: OutsideEffect[Any] = resolve(job_type.perform)
    with transaction() as tx:
        prepared = _all_or_each(lambda some: effect.prepare(some, tx), jobs, tx)
    endings: dict[UUID, Ending] = {}
    intents: list[tuple[UUID, Any]] = []
    for job, intent in zip(jobs, prepared, strict=True):
        if isinstance(intent, Ending):
            endings[job.id] = intent
        else:
            intents.append((job.id, intent))
    if not intents:
        return endings, []
    with ThreadPoolExecutor(max_workers=min(SEND_THREADS, len(intents))) as threads:
        receipts = list(threads.map(lambda pair: _attempt(partial(effect.send, pair[1])), intents))
    return endings, [(job_id, intent, receipt) for (job_id, intent), receipt in zip(intents, receipts, strict=True)]


def record_outside(job_type: JobType, sent: Sequence[tuple[UUID, Any, Any]], tx: Connection) -> dict[UUID, Ending]:
    """Record what was sent, in the transaction that settles it."""
    effect: OutsideEffect[Any] = resolve(job_type.perform)
    outcomes = _all_or_each(
        lambda some: effect.record(some, tx), [(intent, receipt) for _, intent, receipt in sent], tx
    )
    return {job_id: outcome for (job_id, _, _), outcome in zip(sent, outcomes, strict=True)}


def _all_or_each(run: Callable[[Sequence[Any]], Sequence[Any]], items: Sequence[Any], tx: Connection) -> list[Any]:
    """Run on all items at once; only if that fails, on each alone, in a savepoint of its own."""
    together = _in_savepoint(partial(_one_each, run, items), tx)
    if not isinstance(together, Exception):
        return list(together)
    if len(items) == 1:
        return [together]
    observe.logger().warning("set_failed", error=observe.summary(together), items=len(items))
    alone = [_in_savepoint(partial(_one_each, run, [item]), tx) for item in items]
    return [result if isinstance(result, Exception) else result[0] for result in alone]


def _one_each(run: Callable[[Sequence[Any]], Sequence[Any]], items: Sequence[Any]) -> Sequence[Any]:
    results = run(items)
    if len(results) != len(items):
        raise TypeError(f"a set-based handler returned {len(results)} results for {len(items)} jobs")
    return results


def _in_savepoint(run: Callable[[], Any], tx: Connection) -> Any:
    """The result of `run`, or its exception; what a run that did not succeed wrote is rolled back.

    The savepoint is never released: the commit does that, and a statement per job is saved.
    """
    tx.exec_driver_sql("SAVEPOINT job")
    ending = _attempt(run)
    if isinstance(ending, (Exception, *UNDONE)):
        tx.exec_driver_sql("ROLLBACK TO SAVEPOINT job")
    return ending


def _attempt(run: Callable[[], Any]) -> Any:
    """The result, or the exception: a job's failure is a value here. An outage of the database is not the job's."""
    try:
        return run()
    except Exception as error:
        if is_outage(error):
            raise
        return error
