"""Sends what is committed and due: rows of the outbox become messages, in batches, by any number of relays at once.

A row is locked, sent, then marked. A crash in between sends it again with the same delivery number, and the claim
takes one of the two. Rows keep their locks while SQS is called: at most one statement's worth, for as long as a
hundred parallel calls take (about 0.2 s).
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError
from sqlalchemy import Row, text

from functions.aws import sqs
from functions.core.catalog import CATALOG, Catalog
from functions.core.chunks import chunks
from functions.core.job import ENVELOPE_VERSION
from functions.db.deadline import deadline
from functions.db.engine import is_not_migrated, is_outage, transaction
from functions.pipeline import observe
from functions.pipeline.heartbeat import beat
from functions.pipeline.settings import settings

ROWS_PER_PASS = 1000
SEND_THREADS = 8
PAUSE_SECONDS = 1.0
"""Between two looks at the outbox: a due job leaves within about this."""
RESERVE_SECONDS = 8.0
"""The function ends this much before its timeout, so that a pass begun is never cut off."""

# Due rows in order of priority, then time; rows another relay holds are skipped. A FIFO queue is drained by one relay
# at a time, or two of them could swap the messages of a group.
DUE = text("""
    WITH lane AS MATERIALIZED (
        SELECT name FROM queues
        WHERE fifo AND paused_at IS NULL AND :queue IN ('', name) FOR UPDATE SKIP LOCKED
    ), standard AS MATERIALIZED (
        SELECT name FROM queues WHERE NOT fifo AND paused_at IS NULL AND :queue IN ('', name)
    ), open AS MATERIALIZED (
        SELECT array_agg(name) AS names
        FROM (SELECT name FROM lane UNION ALL SELECT name FROM standard) AS both_kinds
        WHERE name = ANY(CAST(:open AS text[]))
    )
    SELECT due.* FROM open, (VALUES (1), (0), (-1)) AS level(priority), LATERAL (
        SELECT id, queue, type, tenant_id, delivery, correlation_id, group_key FROM jobs
        WHERE priority = level.priority AND outbox_at <= now() AND queue = ANY(open.names)
        ORDER BY outbox_at, id LIMIT :rows FOR UPDATE SKIP LOCKED
    ) AS due
    LIMIT :rows
""")

MARK_SENT = text("""
    UPDATE jobs SET outbox_at = NULL, sent_at = clock_timestamp(),
        state = CASE state WHEN 'delayed' THEN 'waiting' ELSE state END
    WHERE id = ANY(CAST(:ids AS uuid[]))
""")


@dataclass(frozen=True, slots=True)
class Drained:
    """What a drain did. `failing` maps queues that SQS refused to why; their rows stay in the outbox."""

    sent: int
    failing: dict[str, str]


def drain(*, queue: str = "", catalog: Catalog = CATALOG) -> Drained:
    """Send until nothing is due: everything, or one queue's. Two statements per thousand jobs."""
    sent = 0
    failing: dict[str, str] = {}
    while True:
        with transaction() as tx:
            # Queues that only a later release knows are left to its relay.
            known = [name for name in catalog.queues if name not in failing]
            rows = tx.execute(DUE, {"queue": queue, "rows": ROWS_PER_PASS, "open": known}).all()
            if not rows:
                break
            ids, refused = _send(rows, catalog)
            failing |= refused
            if ids:
                tx.execute(MARK_SENT, {"ids": ids})
        sent += len(ids)
    for name, why in failing.items():
        observe.logger().error("queue_refuses", queue=name, error=why)
    return Drained(sent, failing)


def handler(event: Any, context: Any) -> dict[str, Any]:
    """Lambda `relay`: once a minute, looking every second, for what a crash left and what has come due."""
    del event
    with deadline(context):
        return _run(context)


def _run(context: Any) -> dict[str, Any]:
    sent, passes = 0, 0
    while True:
        passes += 1
        try:
            sent += drain().sent
        except Exception as error:
            if not (is_outage(error) or is_not_migrated(error)):
                raise
            observe.logger().error("outbox_unreachable", error=observe.summary(error))
        if context.get_remaining_time_in_millis() / 1000 < RESERVE_SECONDS + PAUSE_SECONDS:
            break
        time.sleep(PAUSE_SECONDS)
    _beat(sent)
    tally = observe.Tally()
    tally.add("Heartbeat", 1)
    tally.add("MessagesSent", sent)
    tally.flush()
    observe.logger().info("relayed", sent=sent, passes=passes)
    return {"sent": sent}


def _beat(sent: int) -> None:
    try:
        with transaction() as tx:
            beat(tx, "relay", {"sent": sent})
    except Exception as error:
        if not (is_outage(error) or is_not_migrated(error)):
            raise


def _send(rows: Sequence[Row[Any]], catalog: Catalog) -> tuple[list[Any], dict[str, str]]:
    """Send the rows to their queues. Returns the ids that went, and the queues that refused any."""
    by_queue: dict[str, list[Row[Any]]] = {}
    for row in rows:
        by_queue.setdefault(row.queue, []).append(row)
    calls: list[tuple[str, Sequence[Sequence[Row[Any]]]]] = []
    for name, members in by_queue.items():
        batches = list(chunks(members, sqs.ENTRIES_PER_CALL))
        # A FIFO queue's batches go one after the other, or its groups would lose their order.
        calls += [(name, batches)] if catalog.queues[name].fifo else [(name, [batch]) for batch in batches]
    with ThreadPoolExecutor(max_workers=min(SEND_THREADS, len(calls))) as threads:
        results = list(threads.map(lambda call: _send_in_order(call[0], call[1], catalog), calls))
    ids = [job_id for went, _ in results for job_id in went]
    refused = {name: why for (name, _), (_, why) in zip(calls, results, strict=True) if why is not None}
    return ids, refused


def _send_in_order(queue: str, batches: Sequence[Sequence[Row[Any]]], catalog: Catalog) -> tuple[list[Any], str | None]:
    """Send batches one by one, stopping at the first that SQS does not take whole."""
    went: list[Any] = []
    fifo = catalog.queues[queue].fifo
    for batch in batches:
        messages = [message_of(row, fifo=fifo) for row in batch]
        try:
            answers = sqs.send_batch(settings().queue_url(queue, catalog=catalog), messages)
        except (BotoCoreError, ClientError) as error:
            return went, observe.summary(error)
        went += [row.id for row, why in zip(batch, answers, strict=True) if why is None]
        refusal = next((why for why in answers if why is not None), None)
        if refusal is not None:
            return went, refusal
    return went, None


def message_of(row: Row[Any], *, fifo: bool) -> sqs.Outgoing:
    """A row's message: a reference to the job, with no personal data."""
    body = {
        "v": ENVELOPE_VERSION,
        "id": str(row.id),
        "delivery": row.delivery,
        "type": row.type,
        "tenant_id": row.tenant_id and str(row.tenant_id),
        "correlation_id": row.correlation_id,
    }
    group = row.group_key
    if fifo:
        return sqs.Outgoing(json.dumps(body), group or str(row.id), f"{row.id}.{row.delivery}")
    return sqs.Outgoing(json.dumps(body), group)
