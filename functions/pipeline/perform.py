"""Runs the handlers of claimed jobs inside the work transaction and gathers how each ended.

A failure never undoes a neighbour: every job of an ordinary batch has its savepoint, a set-based batch has one for
all and is done one by one only if that fails. Whatever a job's own code can get wrong ends as that job's failure, and
what it wrote is undone. A database that is away is nobody's failure: it ends the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from itertools import chain
from typing import Any, Protocol, TypeVar
from uuid import UUID

from sqlalchemy import Connection

from functions.core.catalog import Catalog
from functions.core.errors import ConfigurationError, InvalidPayload, SharedTransaction
from functions.core.job import ClaimedJob, Job
from functions.core.limits import why_not_instant
from functions.core.outcome import UNDONE, Done, GiveUp, Outcome
from functions.core.resolve import resolve
from functions.db.engine import is_conflict, is_outage, transaction
from functions.db.shared import SAVEPOINT, has_ended, shared, undo, why_unusable
from functions.pipeline import observe
from functions.pipeline.decide import Released, why_no_outcome
from functions.pipeline.enqueue import check_orders, validate_payload

Ending = Outcome | Exception | Released
Intent = TypeVar("Intent")

SEND_THREADS = 10
CONFLICT_SECONDS = 2
"""Until a job that lost against another transaction is tried again, at first; then twice as long each time."""
SETTING_SECONDS = 15
"""The same where a setting is missing, which is the operator's to mend."""
ENDS_OF_PROGRAMS = frozenset({"SystemExit", "CancelledError"})
"""No `Exception`s, but what a job's own code lets out now and then; a worker does not end for it."""
UNKNOWN_TYPE_SECONDS = 300
"""Until a job whose type this release does not know is looked at again: the release that knows it is on its way."""
UNKNOWN_TYPE_DIES_AFTER_SECONDS = 3_600
"""No rollout takes so long: the type was removed, or misspelt by whoever registered it."""


class OutsideEffect(Protocol[Intent]):
    """A job whose effect lies outside the database, in three steps (docs/architecture.md, rule 5).

    It gets the jobs of all its types together, in the order in which they are to start.
    """

    def prepare(self, jobs: Sequence[Job[Any]], tx: Connection) -> Sequence[Intent | Outcome]:
        """Commit what is intended, and what it reserves; an outcome instead of an intent ends that job here."""

    def send(self, intent: Intent) -> Any:
        """Do it. Runs in a thread, holds no connection, must not touch the database."""

    def record(self, sent: Sequence[tuple[Intent, Any]], tx: Connection) -> Sequence[Outcome]:
        """Commit what came of it together with the settling; a send that raised comes as its exception."""


class OutOfTime(Exception):
    """The rest of the invocation cannot hold another job: hand back what has not started."""


@dataclass(frozen=True, slots=True)
class Sent:
    """A job whose effect was attempted, and what came of it: a receipt, or the exception."""

    job: Job[Any]
    intent: Any
    receipt: Any


def parse(claimed: Sequence[ClaimedJob], catalog: Catalog) -> tuple[list[Job[Any]], dict[UUID, Ending]]:
    """Validate payloads: the jobs that can run, and the endings of those that cannot.

    What comes in its group behind one that is released is in neither: it is handed back too, or it would overtake it.
    """
    jobs: list[Job[Any]] = []
    endings: dict[UUID, Ending] = {}
    held: set[str | None] = set()
    for job in claimed:
        if job.group_key is not None and job.group_key in held:
            continue
        if job.type not in catalog.job_types:
            endings[job.id] = _unknown_type(job)
            held.add(job.group_key)
            continue
        try:
            payload = validate_payload(job.type, job.payload, catalog=catalog)
        except InvalidPayload as error:
            endings[job.id] = GiveUp(str(error))
        except Exception as error:  # noqa: BLE001 - a contract that cannot be imported, or raises what it likes
            endings[job.id] = error
        else:
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
                    job.group_key,
                )
            )
    return jobs, endings


def _unknown_type(job: ClaimedJob) -> Ending:
    """A release that knows the type is being rolled out, or rolled back; or there is none."""
    if job.waited_seconds > UNKNOWN_TYPE_DIES_AFTER_SECONDS:
        return GiveUp(
            f"no release at work here knows job type {job.type!r}, and the job has been due for an hour: deploy one"
            " that does, then redrive it"
        )
    return Released(f"this release does not know job type {job.type!r}", UNKNOWN_TYPE_SECONDS, grows=False)


class _Code:
    """A handler of the catalogue. Its import is the job's own code too, and happens where a failure is the job's."""

    def __init__(self, dotted: str, catalog: Catalog) -> None:
        self.dotted = dotted
        self._catalog = catalog

    def outcome(self, job: Job[Any], lent: Connection) -> Outcome:
        """Of one job. Raises what is wrong with it."""
        return self._checked(resolve(self.dotted)(job, lent))

    def outcomes(self, jobs: Sequence[Job[Any]], lent: Connection) -> Sequence[Outcome]:
        """Of a set."""
        return self._one_each(resolve(self.dotted)(jobs, lent), jobs)

    def prepare(self, jobs: Sequence[Job[Any]], lent: Connection) -> Sequence[Any]:
        """Intents, or outcomes instead of them."""
        return self._one_each(resolve(self.dotted).prepare(jobs, lent), jobs, intents=True)

    def send(self, job: Job[Any], intent: Any) -> Sent:
        """Whatever comes of it is recorded: the exception of one send must not have the others' receipts forgotten."""
        try:
            return Sent(job, intent, resolve(self.dotted).send(intent))
        except Exception as error:  # noqa: BLE001
            return Sent(job, intent, error)

    def record(self, sent: Sequence[Sent], lent: Connection) -> Sequence[Outcome]:
        """The outcomes of what was sent."""
        pairs = [(item.intent, item.receipt) for item in sent]
        return self._one_each(resolve(self.dotted).record(pairs, lent), sent)

    def _one_each(self, results: Sequence[Any], items: Sequence[Any], *, intents: bool = False) -> Sequence[Any]:
        if len(results) != len(items):
            raise TypeError(f"{self.dotted} returned {len(results)} results for {len(items)} jobs")
        return [item if intents and not isinstance(item, Outcome) else self._checked(item) for item in results]

    def _checked(self, outcome: Any) -> Outcome:
        """Raises now, while what the run wrote can still be undone."""
        if why := why_no_outcome(outcome, self.dotted):
            raise TypeError(why)
        until = getattr(outcome, "until", None)
        if until is not None and (why := why_not_instant(f"{type(outcome).__name__}.until", until, datetime.now(UTC))):
            raise ValueError(why)
        if isinstance(outcome, Done) and outcome.enqueue:
            check_orders(outcome.enqueue, catalog=self._catalog)
        checked: Outcome = outcome
        return checked


def perform_inside(
    jobs: Sequence[Job[Any]], tx: Connection, catalog: Catalog, *, time_is_up: Callable[[], bool]
) -> Iterator[tuple[UUID, Ending]]:
    """Run jobs in the batch's transaction, yielding how each ended: sets first, then one by one in their order.

    Raises `OutOfTime` before a job that no longer fits, and `SharedTransaction` when a job ended the transaction.
    """
    sets: dict[str, list[Job[Any]]] = {}
    for job in jobs:
        if catalog.job_type(job.type).set_based:
            sets.setdefault(job.type, []).append(job)
    with shared(tx) as lent:
        for name, members in sets.items():
            code = _Code(catalog.job_type(name).perform, catalog)
            endings = _all_or_each(partial(code.outcomes, lent=lent), members, tx)
            yield from zip((job.id for job in members), endings, strict=True)
        held: set[str | None] = set()
        for job in [job for job in jobs if job.type not in sets]:
            if job.group_key is not None and job.group_key in held:
                continue
            if time_is_up():
                raise OutOfTime
            code = _Code(catalog.job_type(job.type).perform, catalog)
            with observe.job_context(job):
                ending = _in_savepoint(partial(code.outcome, job, lent), tx)
            if isinstance(ending, Released):
                held.add(job.group_key)
            yield job.id, ending


def perform_outside(dotted: str, jobs: Sequence[Job[Any]], catalog: Catalog) -> tuple[dict[UUID, Ending], list[Sent]]:
    """Prepare (its own commit) and send. Returns the endings so far, and what was sent and is to be recorded.

    The sends of a group go one after the other, in the order of its jobs; groups go in parallel.
    """
    code = _Code(dotted, catalog)
    with transaction() as tx, shared(tx) as lent:
        prepared = _all_or_each(partial(code.prepare, lent=lent), jobs, tx, may_release=False)
    endings: dict[UUID, Ending] = {}
    chains: dict[object, list[tuple[Job[Any], Any]]] = {}
    for job, intent in zip(jobs, prepared, strict=True):
        if isinstance(intent, Ending):
            endings[job.id] = intent
        else:
            chains.setdefault(job.group_key or job.id, []).append((job, intent))
    if not chains:
        return endings, []
    with ThreadPoolExecutor(max_workers=min(SEND_THREADS, len(chains))) as threads:
        sent = list(threads.map(lambda members: [code.send(*member) for member in members], chains.values()))
    return endings, list(chain.from_iterable(sent))


def record_outside(dotted: str, sent: Sequence[Sent], tx: Connection, catalog: Catalog) -> dict[UUID, Ending]:
    """Record what was sent, in the transaction that settles it."""
    code = _Code(dotted, catalog)
    with shared(tx) as lent:
        outcomes = _all_or_each(partial(code.record, lent=lent), sent, tx, may_release=False)
    return {item.job.id: outcome for item, outcome in zip(sent, outcomes, strict=True)}


def _all_or_each(
    run: Callable[[Sequence[Any]], Sequence[Any]], items: Sequence[Any], tx: Connection, *, may_release: bool = True
) -> list[Any]:
    """Run on all items at once; only if that fails, on each alone, in a savepoint of its own."""
    together = _in_savepoint(partial(run, items), tx, may_release=may_release)
    if not isinstance(together, Exception | Released):
        return list(together)
    if len(items) == 1:
        return [together]
    observe.logger().warning("set_failed", error=_text(together), items=len(items))
    alone = [_in_savepoint(partial(run, [item]), tx, may_release=may_release) for item in items]
    return [result if isinstance(result, Exception | Released) else result[0] for result in alone]


def _text(ending: Exception | Released) -> str:
    return ending.reason if isinstance(ending, Released) else observe.summary(ending)


def _in_savepoint(run: Callable[[], Any], tx: Connection, *, may_release: bool = True) -> Any:
    """The result of `run`, or its exception; what a run that did not succeed wrote is rolled back.

    The savepoint is never released: the commit does that, and a statement per job is saved.
    Raises `SharedTransaction` when there is nothing left to roll back to.
    """
    tx.exec_driver_sql(f"SAVEPOINT {SAVEPOINT}")
    ending = _attempt(run, may_release=may_release)
    if has_ended(tx):
        raise SharedTransaction("a job ended the transaction that it shares with others")
    if (why := why_unusable(tx)) and not isinstance(ending, Exception | Released):
        ending = SharedTransaction(why)
    if isinstance(ending, (Exception, Released, *UNDONE)):
        undo(tx)
    return ending


def _attempt(run: Callable[[], Any], *, may_release: bool) -> Any:
    """The result, or the exception: a job's failure is a value here.

    An outage of the database is not the job's: raised. A lost fight with another transaction and a missing setting are
    not either: the job is released, or where the whole batch has to be tried again instead, they are raised too.
    """
    try:
        return run()
    except Exception as error:
        if is_outage(error):
            raise
        if is_conflict(error) or isinstance(error, ConfigurationError):
            if not may_release:
                raise
            return Released(observe.summary(error), CONFLICT_SECONDS if is_conflict(error) else SETTING_SECONDS)
        return error
    except BaseException as error:
        if type(error).__name__ not in ENDS_OF_PROGRAMS:
            raise
        return RuntimeError(f"{type(error).__name__}: {error}")
