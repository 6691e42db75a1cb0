"""The worker: one SQS batch from claim to settle. A queue's handler is `handle(event, context, queue=…)`.

    read → sort out what cannot be read → claim (commits alone) → perform → settle (one commit with the jobs' own
    writes) → answer SQS

Nothing here is lost by a crash at any line: a message is acknowledged only after the commit that made it superfluous.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

from aws_lambda_powertools.metrics import MetricUnit
from sqlalchemy.exc import DBAPIError

from functions.core.catalog import CATALOG, Catalog
from functions.core.errors import DuecourseError, LeaseLost, NewerEnvelope, RejectedMessage
from functions.db.deadline import deadline
from functions.db.engine import is_nobodys_fault, statements, transaction
from functions.pipeline import observe, report
from functions.pipeline.admit import admit_external
from functions.pipeline.batch import OUTAGE_FIRST_SECONDS, Batch, growing
from functions.pipeline.decide import Acknowledge, Decision, HandBack
from functions.pipeline.envelope import parse as parse_envelope
from functions.pipeline.inbox import Message, Parcel, Reply, read_messages
from functions.pipeline.ledger import Reference, claim
from functions.pipeline.reject import reject
from functions.pipeline.settings import settings
from functions.pipeline.settlement import Run, give_back, perform_and_settle
from functions.pipeline.triage import Judged, Verdict, triage
from functions.pipeline.turns import Turns, put_back

LEASE_MARGIN_SECONDS = 5.0
"""A lease outlives the invocation by this, so that a worker still committing is never taken for dead."""
NEWER_ENVELOPE_SECONDS = 300
QUEUE_PAUSED_SECONDS = 60
"""Disabling the event source mapping takes about as long; until then its messages come back."""
OUT_OF_TURN_SECONDS = 5
"""At least, where the rows of its group are somebody else's for a moment."""


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
    try:
        with deadline(context), observe.span("batch", queue=queue, messages=len(messages)):
            try:
                _serve(messages, batch)
            except Exception as error:
                if not is_nobodys_fault(error):
                    raise
                _hand_back_all(batch, error)
            answer = batch.reply.send()
        if (memory := observe.memory_percent()) is not None:
            batch.tally.add("MemoryPercent", memory, MetricUnit.Percent, queue=queue)
    finally:
        batch.tally.flush()
    report.batch_done(
        queue, len(messages), handed_back=len(answer["batchItemFailures"]), sql=statements.total - statements_before
    )
    return answer


def _serve(messages: Sequence[Message], batch: Batch) -> None:
    readable = _sort_out(messages, batch)
    turns = Turns(admit_external(readable, batch), queue=batch.queue, catalog=batch.catalog)
    while tried := turns.next():
        if batch.time_is_up():
            for reference in turns.rest():
                batch.reply.set(reference.message_id, HandBack(0))
            return
        verdicts = _round(tried, batch)
        if early := turns.learn(tried, verdicts):
            _put_back(early, verdicts, batch)


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
        reject(rejected, batch)
    return readable


def _round(references: Sequence[Reference], batch: Batch) -> dict[UUID, Judged]:
    """Claim, work and settle these messages; returns what triage said of those that the claim left over."""
    token = uuid4()
    by_id = {reference.id: reference for reference in references}
    lease_seconds = batch.remaining_seconds() + LEASE_MARGIN_SECONDS
    which: dict[str, Any] = {"queue": batch.queue, "fifo": batch.fifo, "alone": len(references) == 1}
    with transaction() as tx:
        claimed = claim(tx, references, token=token, lease_seconds=lease_seconds, **which)
        taken = {job.id for job in claimed}
        left = [reference for reference in references if reference.id not in taken]
        judged = triage(tx, left, forgets=batch.catalog.forgets(batch.queue), **which) if left else []
    report.judged(judged, batch)
    for verdict in judged:
        _answer(by_id[verdict.id], verdict, batch)
    if claimed:
        report.started(claimed, batch)
        run = Run(claimed, token, {job.id: by_id[job.id].message_id for job in claimed})
        for job_id, decision in _work(run, batch).items():
            batch.reply.set(run.message_ids[job_id], decision.message)
    return {verdict.id: verdict for verdict in judged}


def _answer(reference: Reference, judged: Judged, batch: Batch) -> None:
    match judged.verdict:
        case Verdict.GONE if reference.misplaced:
            reject([(batch.reply.messages[reference.message_id], reference.misplaced)], batch)
        case Verdict.MISPLACED:
            why = f"its job is on another queue, not on {batch.queue!r}"
            reject([(batch.reply.messages[reference.message_id], why)], batch)
        case Verdict.GONE | Verdict.STALE | Verdict.EXPIRED | Verdict.KEY_TAKEN:
            batch.reply.set(reference.message_id, Acknowledge())
        case Verdict.DEAD | Verdict.CRASHED:
            batch.reply.set(reference.message_id, HandBack(0))
        case Verdict.BUSY | Verdict.EARLY:
            batch.reply.set(reference.message_id, HandBack(int(judged.wait_seconds) + 1))
        case Verdict.QUEUE_PAUSED:
            # Not sent again under a new number, or a FIFO group would lose its order.
            batch.reply.set(reference.message_id, HandBack(QUEUE_PAUSED_SECONDS))
        case Verdict.REVIVED | Verdict.LOST | Verdict.SUSPECT | Verdict.OUT_OF_TURN:
            pass  # tried in a later round, or put back


def _put_back(early: Sequence[Reference], verdicts: Mapping[UUID, Judged], batch: Batch) -> None:
    """Have the ledger send again, in order, what came before its turn. While a member of the group runs elsewhere,
    the message waits for it in front of its group.
    """
    groups = {group for reference in early if (group := verdicts[reference.id].group_key) is not None}
    with transaction() as tx:
        found = put_back(tx, sorted(groups), queue=batch.queue)
    for reference in early:
        returned = reference.id in found.returned
        wait = HandBack(max(int(found.running_seconds), OUT_OF_TURN_SECONDS))
        batch.reply.set(reference.message_id, Acknowledge() if returned else wait)


def _work(run: Run, batch: Batch) -> dict[UUID, Decision]:
    """Perform and settle claimed jobs. A lease lost by one undoes the whole commit; the others are handed back."""
    try:
        decisions = perform_and_settle(run, batch)
    except LeaseLost as error:
        observe.logger().warning("lease_lost", error=str(error))
        decisions = give_back(run, str(error))
    except Exception as error:
        if is_nobodys_fault(error):
            with suppress(DBAPIError, DuecourseError):  # still away: the leases run out
                give_back(run, observe.summary(error))
        raise
    report.finished(run.claimed, decisions, run.seconds(), batch)
    return decisions


def _hand_back_all(batch: Batch, error: Exception) -> None:
    """Wait longer each time and count nothing: the database is away, not migrated or not configured.

    docs/architecture.md, rule 9.
    """
    observe.logger().error("handed_back", error=observe.summary(error), messages=len(batch.reply.undecided()))
    batch.tally.add("BatchesHandedBack", 1, queue=batch.queue)
    for message in batch.reply.undecided():
        batch.reply.set(message.message_id, HandBack(growing(OUTAGE_FIRST_SECONDS, message.receives)))
