"""The worker: one SQS batch from claim to settle. A queue's handler is `handle(event, context, queue=…)`.

    read → sort out what cannot be read → claim (commits alone) → perform → settle (one commit with the jobs' own
    writes) → answer SQS

Nothing here is lost by a crash at any line: a message is acknowledged only after the commit that made it superfluous.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from operator import itemgetter
from typing import Any
from uuid import UUID, uuid4

from aws_lambda_powertools.metrics import MetricUnit
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from functions.core.catalog import CATALOG, Catalog
from functions.core.errors import (
    ConfigurationError,
    DuecourseError,
    LeaseLost,
    NewerEnvelope,
    RejectedMessage,
)
from functions.core.job import ClaimedJob
from functions.core.outcome import Done
from functions.db.deadline import deadline
from functions.db.engine import is_conflict, is_not_migrated, is_outage, statements, transaction
from functions.pipeline import observe, report
from functions.pipeline.admit import admit_external
from functions.pipeline.batch import Batch
from functions.pipeline.decide import Acknowledge, Decision, HandBack, decide, release
from functions.pipeline.enqueue import enqueue
from functions.pipeline.envelope import parse as parse_envelope
from functions.pipeline.inbox import Message, Parcel, Reply, read_messages
from functions.pipeline.ledger import Reference, claim, settle
from functions.pipeline.perform import (
    Ending,
    OutOfTime,
    parse,
    perform_group,
    perform_outside,
    record_outside,
)
from functions.pipeline.reject import reject
from functions.pipeline.settings import settings
from functions.pipeline.triage import Judged, Verdict, triage

LEASE_MARGIN_SECONDS = 5.0
"""A lease outlives the invocation by this, so that a worker still committing is never taken for dead."""
NEWER_ENVELOPE_SECONDS = 300
QUEUE_PAUSED_SECONDS = 60
"""Disabling the event source mapping takes about as long; until then its messages come back."""
OUTAGE_FIRST_SECONDS, OUTAGE_LONGEST_SECONDS = 15, 3_600


@dataclass(frozen=True, slots=True)
class _Run:
    """Jobs claimed under one token, and the messages that brought them."""

    claimed: Sequence[ClaimedJob]
    token: UUID
    message_ids: dict[UUID, str]
    started: float = field(default_factory=time.monotonic)

    def seconds(self) -> float:
        return time.monotonic() - self.started


def handle(event: Any, context: Any, *, queue: str, catalog: Catalog = CATALOG) -> dict[str, Any]:
    """Serve an SQS event of `queue`; returns the partial batch response. Raises `BadEvent` for any other event."""
    messages = read_messages(event)
    batch = Batch(
        queue=queue,
        catalog=catalog,
        reply=Reply(settings().queue_url(queue, catalog=catalog), {item.message_id: item for item in messages}),
        remaining_seconds=lambda: context.get_remaining_time_in_millis() / 1000,
    )
    batch.tally.add("BatchSize", len(messages), queue=queue)
    statements_before = statements.total
    with deadline(context), observe.span("batch", queue=queue, messages=len(messages)):
        try:
            _serve(messages, batch)
        except Exception as error:
            if not _nobodys_fault(error):
                raise
            _hand_back_all(batch, error)
        answer = batch.reply.send()
    if (memory := observe.memory_percent()) is not None:
        batch.tally.add("MemoryPercent", memory, MetricUnit.Percent, queue=queue)
    batch.tally.flush()
    report.batch_done(
        queue, len(messages), handed_back=len(answer["batchItemFailures"]), sql=statements.total - statements_before
    )
    return answer


def _serve(messages: Sequence[Message], batch: Batch) -> None:
    readable = _sort_out(messages, batch)
    pending = admit_external(readable, batch.reply)
    suspects: list[tuple[int, Reference]] = []
    while pending:
        judged = _round(pending, batch)
        pending = [reference for reference, found in judged if found.verdict is Verdict.REVIVED]
        suspects += [
            (found.lost_alone, reference)
            for reference, found in judged
            if found.verdict in {Verdict.LOST, Verdict.SUSPECT}
        ]
    # A job whose run was lost has the batch to itself from now on: if it kills the worker, it kills nobody's work.
    # Those that were lost alone before go last, so that they cannot keep the merely unlucky from running.
    for _, reference in sorted(suspects, key=itemgetter(0)):
        _round([reference], batch)


def _sort_out(messages: Sequence[Message], batch: Batch) -> list[Parcel]:
    """Read the envelopes; what cannot be read is on record with its reason and on its way to the DLQ."""
    readable, rejected = [], []
    for message in messages:
        try:
            envelope = parse_envelope(message.body, queue=batch.queue, catalog=batch.catalog, now=datetime.now(UTC))
        except NewerEnvelope as error:
            observe.logger().warning("newer_envelope", error=str(error), message_id=message.message_id)
            batch.reply.set(message.message_id, HandBack(NEWER_ENVELOPE_SECONDS))
        except RejectedMessage as error:
            rejected.append((message, str(error)))
        else:
            readable.append(Parcel(message, envelope))
    if rejected:
        reject(rejected, batch.queue, batch.reply)
        batch.tally.add("MessagesRejected", len(rejected), queue=batch.queue)
    return readable


def _round(references: Sequence[Reference], batch: Batch) -> list[tuple[Reference, Judged]]:
    """Claim, work and settle these messages; returns what triage said of those that the claim left over."""
    if batch.time_is_up():
        for reference in references:
            batch.reply.set(reference.message_id, HandBack(0))
        return []
    token = uuid4()
    by_id = {reference.id: reference for reference in references}
    lease_seconds = batch.remaining_seconds() + LEASE_MARGIN_SECONDS
    with transaction() as tx:
        alone = len(references) == 1
        claimed = claim(tx, references, queue=batch.queue, token=token, lease_seconds=lease_seconds, alone=alone)
        taken = {job.id for job in claimed}
        left = [reference for reference in references if reference.id not in taken]
        judged = triage(tx, left, queue=batch.queue, forgets=batch.catalog.forgets(batch.queue)) if left else []
    report.judged(judged, batch)
    for verdict in judged:
        _answer(by_id[verdict.id], verdict, batch)
    if claimed:
        report.started(claimed, batch)
        run = _Run(claimed, token, {job.id: by_id[job.id].message_id for job in claimed})
        for job_id, decision in _work(run, batch).items():
            batch.reply.set(run.message_ids[job_id], decision.message)
    return [(by_id[verdict.id], verdict) for verdict in judged]


def _answer(reference: Reference, judged: Judged, batch: Batch) -> None:
    match judged.verdict:
        case Verdict.GONE | Verdict.STALE | Verdict.EXPIRED:
            batch.reply.set(reference.message_id, Acknowledge())
        case Verdict.DEAD | Verdict.CRASHED:
            batch.reply.set(reference.message_id, HandBack(0))
        case Verdict.BUSY | Verdict.EARLY:
            batch.reply.set(reference.message_id, HandBack(int(judged.wait_seconds) + 1))
        case Verdict.QUEUE_PAUSED:
            # Not sent again under a new number, or a FIFO group would lose its order.
            batch.reply.set(reference.message_id, HandBack(QUEUE_PAUSED_SECONDS))
        case Verdict.REVIVED | Verdict.LOST | Verdict.SUSPECT:
            pass  # claimed in a later round


def _work(run: _Run, batch: Batch) -> dict[UUID, Decision]:
    """Perform and settle claimed jobs. A lease lost by one undoes the whole commit; the others are handed back."""
    try:
        decisions = _perform_and_settle(run, batch)
    except LeaseLost as error:
        observe.logger().warning("lease_lost", error=str(error))
        decisions = _release(run, str(error))
    except Exception as error:
        if _nobodys_fault(error):
            with suppress(DBAPIError, DuecourseError):  # still away: the leases run out
                _release(run, observe.summary(error))
        raise
    report.finished(run.claimed, decisions, run.seconds(), batch)
    return decisions


def _perform_and_settle(run: _Run, batch: Batch) -> dict[UUID, Decision]:
    jobs, endings = parse(run.claimed, batch.catalog)
    by_type: dict[str, list[Any]] = {}
    for job in jobs:
        by_type.setdefault(job.type, []).append(job)
    sent = {}
    for name in [name for name in by_type if batch.catalog.job_type(name).outside_effect]:
        settled_early, sent[name] = perform_outside(batch.catalog.job_type(name), by_type.pop(name))
        endings.update(settled_early)
    with transaction() as tx:
        for name, receipts in sent.items():
            endings.update(record_outside(batch.catalog.job_type(name), receipts, tx))
        _perform_inside(by_type, endings, tx, batch)
        decisions = {job.id: _decision(job, endings.get(job.id), batch) for job in run.claimed}
        _order_followers(endings, tx, batch)
        if lost := len(run.claimed) - _settle(run, decisions, tx):
            raise LeaseLost(f"{lost} of {len(run.claimed)} jobs are no longer held by this run: nothing was committed")
    return decisions


def _release(run: _Run, reason: str) -> dict[UUID, Decision]:
    """Give the jobs back as if they had not been claimed. Had the commit been made after all, the token is gone."""
    decisions = {job.id: release(job, reason) for job in run.claimed}
    with transaction() as tx:
        _settle(run, decisions, tx)
    return decisions


def _settle(run: _Run, decisions: dict[UUID, Decision], tx: Connection) -> int:
    settlements = [decision.settlement for decision in decisions.values()]
    tallies = report.tallies(run.claimed, decisions, run.seconds())
    return settle(tx, settlements, token=run.token, message_ids=run.message_ids, tallies=tallies)


def _perform_inside(by_type: dict[str, list[Any]], endings: dict[UUID, Ending], tx: Connection, batch: Batch) -> None:
    longest, last = 0.0, time.monotonic()

    def time_is_up() -> bool:
        nonlocal longest, last
        now = time.monotonic()
        longest, last = max(longest, now - last), now
        return batch.time_is_up(longest)

    try:
        for name, jobs in by_type.items():
            endings.update(perform_group(batch.catalog.job_type(name), jobs, tx, time_is_up=time_is_up))
    except OutOfTime:
        observe.logger().info("out_of_time", jobs_left=sum(map(len, by_type.values())) - len(endings))


def _decision(job: ClaimedJob, ending: Ending | None, batch: Batch) -> Decision:
    if ending is None:
        return release(job, "the invocation had no time left for it")
    return decide(job, ending, job_type=batch.catalog.job_type(job.type), fifo=batch.fifo, rng=batch.rng)


def _order_followers(endings: dict[UUID, Ending], tx: Connection, batch: Batch) -> None:
    followers = [item for ending in endings.values() if isinstance(ending, Done) for item in ending.enqueue]
    if followers:
        enqueue(tx, followers, catalog=batch.catalog)


def _nobodys_fault(error: Exception) -> bool:
    return is_outage(error) or is_conflict(error) or is_not_migrated(error) or isinstance(error, ConfigurationError)


def _hand_back_all(batch: Batch, error: Exception) -> None:
    """Wait longer each time and count nothing: the database is away, not migrated or not configured.

    docs/architecture.md, rule 9.
    """
    observe.logger().error("handed_back", error=observe.summary(error), messages=len(batch.reply.undecided()))
    batch.tally.add("BatchesHandedBack", 1, queue=batch.queue)
    for message in batch.reply.undecided():
        wait = min(OUTAGE_FIRST_SECONDS * 2 ** min(message.receives - 1, 12), OUTAGE_LONGEST_SECONDS)
        batch.reply.set(message.message_id, HandBack(wait))
