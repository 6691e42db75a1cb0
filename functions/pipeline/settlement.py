"""Performs claimed jobs and settles them: one commit with the jobs' own writes, and a way out where that fails.

Three things may undo the commit. Another transaction was in the way: the same is done again. A job did what its
savepoint could not contain (a constraint checked at the commit, a transaction ended): each job is done alone, and the
one whose transaction fails ends with that failure. The database is away, or the lease is lost: the caller gives the
jobs back.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from sqlalchemy import Connection

from functions.core.catalog import JobType
from functions.core.errors import LeaseLost
from functions.core.job import ClaimedJob, Job
from functions.core.outcome import Done
from functions.db.engine import is_conflict, is_nobodys_fault, transaction
from functions.pipeline import observe, report
from functions.pipeline.batch import Batch, growing
from functions.pipeline.decide import Decision, Released, decide, release
from functions.pipeline.enqueue import enqueue
from functions.pipeline.ledger import record_runs, settle
from functions.pipeline.perform import (
    Ending,
    OutOfTime,
    Sent,
    parse,
    perform_inside,
    perform_outside,
    record_outside,
)

TRIES = 3
"""Of a commit that other transactions are in the way of."""


@dataclass(frozen=True, slots=True)
class Run:
    """Jobs claimed under one token, and the messages that brought them."""

    claimed: Sequence[ClaimedJob]
    token: UUID
    message_ids: Mapping[UUID, str]
    started: float = field(default_factory=time.monotonic)

    def seconds(self) -> float:
        return time.monotonic() - self.started

    def of_one(self, job: ClaimedJob) -> Run:
        """The same for one of its jobs."""
        return Run([job], self.token, self.message_ids)


@dataclass(frozen=True, slots=True)
class Work:
    """What there is to commit: jobs that run in the transaction, what was sent outside it, what has ended already."""

    inside: Sequence[Job[Any]]
    sent: Mapping[str, Sequence[Sent]]
    """By the dotted string of the handler that records it."""
    endings: Mapping[UUID, Ending]

    def of_one(self, job_id: UUID) -> Work:
        return Work(
            [job for job in self.inside if job.id == job_id],
            {dotted: [item for item in sent if item.job.id == job_id] for dotted, sent in self.sent.items()},
            {key: ending for key, ending in self.endings.items() if key == job_id},
        )


def perform_and_settle(run: Run, batch: Batch) -> dict[UUID, Decision]:
    """Perform the jobs of a run and commit how each ended. Raises `LeaseLost`, or what is nobody's fault."""
    work = _begin(run, batch)
    for tries in range(1, TRIES + 1):
        try:
            return _commit(run, work, batch)
        except LeaseLost:
            raise
        except Exception as error:
            if is_conflict(error) and tries < TRIES:
                continue
            if is_nobodys_fault(error):
                raise
            observe.logger().warning("batch_failed", error=observe.summary(error), jobs=len(run.claimed))
            break
    return _each_alone(run, work, batch)


def give_back(run: Run, reason: str) -> dict[UUID, Decision]:
    """Give the jobs back as if they had not been claimed. Had the commit been made after all, the token is gone, and
    nothing is counted twice.
    """
    decisions = {job.id: release(job, reason) for job in run.claimed}
    with transaction() as tx:
        ours = _settle(run, decisions, tx, count=False)
        if returned := [job for job in run.claimed if job.id in ours]:
            record_runs(tx, report.tallies(returned, decisions, run.seconds()))
    return decisions


def _begin(run: Run, batch: Batch) -> Work:
    """Read the payloads, and do what lies outside the database: that cannot be undone, and is done once."""
    jobs, endings = parse(run.claimed, batch.catalog)
    outside: dict[str, list[Job[Any]]] = {}
    inside = []
    for job in jobs:
        row = batch.catalog.job_type(job.type)
        if row.outside_effect:
            outside.setdefault(row.perform, []).append(job)
        else:
            inside.append(job)
    sent = {}
    for dotted, members in outside.items():
        ended, sent[dotted] = perform_outside(dotted, members, batch.catalog)
        endings.update(ended)
    return Work(inside, sent, endings)


def _commit(run: Run, work: Work, batch: Batch) -> dict[UUID, Decision]:
    endings = dict(work.endings)
    with transaction() as tx:
        for dotted, sent in work.sent.items():
            if sent:
                endings.update(record_outside(dotted, sent, tx, batch.catalog))
        _perform_inside(work.inside, endings, tx, batch)
        decisions = {job.id: _decision(job, endings.get(job.id), run, batch) for job in run.claimed}
        followers = [item for ending in endings.values() if isinstance(ending, Done) for item in ending.enqueue]
        if followers:
            enqueue(tx, followers, catalog=batch.catalog)
        if lost := len(run.claimed) - len(_settle(run, decisions, tx)):
            raise LeaseLost(f"{lost} of {len(run.claimed)} jobs are no longer held by this run: nothing was committed")
    return decisions


def _each_alone(run: Run, work: Work, batch: Batch) -> dict[UUID, Decision]:
    """Each job in a transaction of its own; the failure of that is the job's, and what it wrote is gone with it."""
    decisions: dict[UUID, Decision] = {}
    for job in run.claimed:
        one, own = run.of_one(job), work.of_one(job.id)
        if batch.time_is_up():
            decisions |= give_back(one, NO_TIME)
            continue
        try:
            decisions |= _commit(one, own, batch)
        except LeaseLost as error:
            decisions |= give_back(one, str(error))
        except Exception as error:
            if is_nobodys_fault(error):
                raise
            decisions |= _commit(one, Work([], {}, {job.id: error}), batch)
    return decisions


def _perform_inside(jobs: Sequence[Job[Any]], endings: dict[UUID, Ending], tx: Connection, batch: Batch) -> None:
    longest, last = 0.0, time.monotonic()

    def time_is_up() -> bool:
        nonlocal longest, last
        now = time.monotonic()
        longest, last = max(longest, now - last), now
        return batch.time_is_up(longest)

    try:
        endings.update(perform_inside(jobs, tx, batch.catalog, time_is_up=time_is_up))
    except OutOfTime:
        observe.logger().info("out_of_time")


NO_TIME = "the invocation had no time left for it"


def _decision(job: ClaimedJob, ending: Ending | None, run: Run, batch: Batch) -> Decision:
    if ending is None:
        return release(job, NO_TIME)
    if isinstance(ending, Released):
        receives = batch.reply.messages[run.message_ids[job.id]].receives if ending.grows else 1
        return release(job, ending.reason, wait_seconds=growing(ending.wait_seconds, receives))
    # A type that this release does not know has ended without its row (perform.parse).
    row = batch.catalog.job_types.get(job.type) or JobType(job.type, batch.queue, "", "")
    return decide(job, ending, job_type=row, fifo=batch.fifo, rng=batch.rng)


def _settle(run: Run, decisions: Mapping[UUID, Decision], tx: Connection, *, count: bool = True) -> set[UUID]:
    settlements = [decision.settlement for decision in decisions.values()]
    tallies = report.tallies(run.claimed, decisions, run.seconds()) if count else ()
    return settle(tx, settlements, token=run.token, message_ids=run.message_ids, tallies=tallies)
