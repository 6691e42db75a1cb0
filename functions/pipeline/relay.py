"""Sends what is committed and due: rows of the outbox become messages, in batches, by any number of relays at once.

A row is locked, sent, then marked. A crash in between sends it again with the same delivery number, and the claim
takes one of the two. Rows keep their locks while SQS is called, for a second at most; what SQS has not answered by
then is marked when it does, and may be sent again meanwhile.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Row, text

from functions.aws import sqs
from functions.core.catalog import CATALOG, Catalog
from functions.core.job import ENVELOPE_VERSION
from functions.core.limits import LONGEST_CORRELATION_ID
from functions.db.deadline import deadline
from functions.db.engine import is_nobodys_fault, pg_array, transaction
from functions.pipeline import observe
from functions.pipeline.heartbeat import beat
from functions.pipeline.keys import decide_contested
from functions.pipeline.sending import Item, Sending
from functions.pipeline.settings import settings

ROWS_PER_PASS = 1000
PASS_SECONDS = 0.7
"""A pass starts no call after this, so that what has come due meanwhile on another queue need not wait longer."""
LOCK_SECONDS = 1.0
"""A pass keeps its locks no longer than this, whatever SQS does."""
DRAIN_SECONDS = 30.0
"""What a drain may take where its caller has no deadline of its own."""
PAUSE_SECONDS = 1.0
"""Between two looks at the outbox: a due job leaves within about this."""
RESERVE_SECONDS = 6.0
"""The function ends this much before its timeout, so that its marks and its heartbeat are committed by then."""

# Old rows may hold longer correlation ids: cut, so that ten messages fit into SQS's 1 MiB.
# Which rows, and in which order, is said by take_due() (migration 0012).
TAKE_DUE = text("""
    SELECT id, queue, type, tenant_id, delivery, left(correlation_id, :limit) AS correlation_id, group_key, locked
    FROM take_due(CAST(:queues AS text[]), :rows, CAST(:refused AS uuid[]), CAST(:blocked AS text[]))
""")

MARK_SENT = text("""
    UPDATE jobs SET outbox_at = NULL, sent_at = clock_timestamp(),
        state = CASE state WHEN 'delayed' THEN 'waiting' ELSE state END
    WHERE id = ANY(CAST(:ids AS uuid[]))
""")

# Of what was sent when its lock was gone: that which still stands as it was sent, and which nobody else holds.
LOCK_AGAIN = text("""
    WITH held AS MATERIALIZED (
        SELECT id, delivery, outbox_at FROM jobs WHERE id = ANY(CAST(:ids AS uuid[])) FOR UPDATE SKIP LOCKED
    )
    SELECT id FROM held
    WHERE outbox_at IS NOT NULL AND CAST(id AS text) || '.' || delivery = ANY(CAST(:keys AS text[]))
""")


@dataclass(frozen=True, slots=True)
class Drained:
    """What a drain did. `failing` maps queues of which SQS did not take everything to why; that stays in the outbox."""

    sent: int
    failing: dict[str, str]


def drain(*, within: float = DRAIN_SECONDS, queue: str = "", catalog: Catalog = CATALOG) -> Drained:
    """Send until nothing is due: everything, or one queue's. Two statements per thousand jobs.

    Returns after `within` seconds at the latest, whatever SQS does: nothing is started then, and what SQS has not
    answered by then stays in the outbox, and is sent again.
    """
    until = time.monotonic() + within
    # Queues that only a later release knows are left to its relay.
    queues = [queue] if queue else list(catalog.queues)
    sending = Sending(lambda name: settings().queue_url(name, catalog=catalog))
    sent = 0
    try:
        while time.monotonic() < until:
            found, marked = _pass(sending, queues, until, catalog)
            sent += marked
            if not found and not sending.under_way:
                break
            if not found:
                sending.wait(until=min(until, time.monotonic() + PAUSE_SECONDS))
        if sending.has_sent:
            with transaction() as tx:
                sent += _mark(tx, sending, locked={})
    finally:
        sending.close()
    failing = sending.failing()
    for name, why in failing.items():
        observe.logger().error("queue_refuses", queue=name, error=why)
    return Drained(sent, failing)


def handler(event: Any, context: Any) -> dict[str, Any]:
    """Lambda `relay`: started every minute for a little more than that, it looks every second for what is due."""
    del event
    with deadline(context):
        return _run(context)


def _run(context: Any) -> dict[str, Any]:
    sent, passes = 0, 0

    def look() -> None:
        nonlocal sent
        sent += drain(within=drain_seconds(context)).sent
        with transaction() as tx:
            decide_contested(tx)

    while True:
        passes += 1
        _survive("outbox_unreachable", look)
        if _seconds_left(context) < RESERVE_SECONDS + PAUSE_SECONDS:
            break
        time.sleep(PAUSE_SECONDS)
    _survive("heartbeat_not_written", lambda: _beat(sent))
    tally = observe.Tally()
    tally.add("Heartbeat", 1)
    tally.add("MessagesSent", sent)
    tally.flush()
    observe.logger().info("relayed", sent=sent, passes=passes)
    return {"sent": sent}


def drain_seconds(context: Any) -> float:
    """What a drain may take in an invocation with this context (None: there is none), so that the rest can be done."""
    if context is None:
        return DRAIN_SECONDS
    left = _seconds_left(context)
    return max(left - RESERVE_SECONDS, left / 2)


def _seconds_left(context: Any) -> float:
    return float(context.get_remaining_time_in_millis() / 1000)


def _survive(message: str, step: Callable[[], None]) -> None:
    """Take the step; what may be over at the next look is logged, and does not end the invocation."""
    try:
        step()
    except Exception as error:
        if not is_nobodys_fault(error):
            raise
        observe.logger().error(message, error=observe.summary(error))


def _beat(sent: int) -> None:
    with transaction() as tx:
        beat(tx, "relay", {"sent": sent})


def _pass(sending: Sending, queues: Sequence[str], until: float, catalog: Catalog) -> tuple[bool, int]:
    """Lock due rows, send them, mark them. Returns whether any were found, and how many rows were marked."""
    closed = sending.closed()
    with transaction() as tx:
        marked = _mark(tx, sending, locked={})  # what SQS answered since the last pass, before it is taken again
        rows = tx.execute(
            TAKE_DUE,
            {
                "queues": pg_array(name for name in queues if name not in closed),
                "rows": ROWS_PER_PASS,
                "limit": LONGEST_CORRELATION_ID,
                "refused": pg_array(map(_id_of, sending.refused())),
                "blocked": [f"{name}/{group}" for name, group in sending.stopped()],
            },
        ).all()
        items, locked = _items(sending, rows, catalog)
        if locked:
            now = time.monotonic()
            left = max(0.0, until - now)
            # Half of what is left, so that calls which take no longer than usual are heard of.
            start_until, wait_until = now + min(PASS_SECONDS, left / 2), now + min(LOCK_SECONDS, left)
            sending.send(items, start_until=start_until, wait_until=wait_until)
        return bool(rows), marked + _mark(tx, sending, locked=locked)


def _items(
    sending: Sending, rows: Sequence[Row[Any]], catalog: Catalog
) -> tuple[dict[str, list[Item]], dict[str, UUID]]:
    """What is to be sent, by queue, and the ids by key. Of a FIFO group nothing goes that follows a row not locked."""
    items: dict[str, list[Item]] = {}
    ids: dict[str, UUID] = {}
    for row in rows:
        fifo = catalog.queues[row.queue].fifo
        chain = row.group_key if fifo else str(row.id)
        if not row.locked:
            sending.stop(row.queue, chain)
        elif not sending.is_stopped(row.queue, chain):
            key = f"{row.id}.{row.delivery}"
            ids[key] = row.id
            items.setdefault(row.queue, []).append(Item(key, chain, message_of(row, fifo=fifo)))
    return items, ids


def _mark(tx: Connection, sending: Sending, *, locked: Mapping[str, UUID]) -> int:
    """Mark what SQS took since the last mark. `locked` are the ids of this transaction's own rows, by key."""
    keys = sending.take_sent()
    ids = [locked[key] for key in keys if key in locked]
    late = [key for key in keys if key not in locked]
    if late:
        found = tx.execute(LOCK_AGAIN, {"ids": pg_array(map(_id_of, late)), "keys": pg_array(late)})
        ids += [row.id for row in found]
    if ids:
        mark_sent(tx, ids)
    return len(ids)


def mark_sent(tx: Connection, ids: Sequence[UUID]) -> None:
    """Mark rows, all locked by this transaction, as sent."""
    tx.execute(MARK_SENT, {"ids": pg_array(map(str, ids))})


def _id_of(key: str) -> str:
    return key.partition(".")[0]


def message_of(row: Row[Any], *, fifo: bool) -> sqs.Outgoing:
    """A row's message: a reference to the job, with no personal data.

    The tenant is the group of a standard queue's message, so that SQS gives each tenant its turn.
    """
    body = {
        "v": ENVELOPE_VERSION,
        "id": str(row.id),
        "delivery": row.delivery,
        "type": row.type,
        "tenant_id": row.tenant_id and str(row.tenant_id),
        "correlation_id": row.correlation_id[:LONGEST_CORRELATION_ID],
    }
    if fifo:
        return sqs.Outgoing(json.dumps(body), row.group_key or str(row.id), f"{row.id}.{row.delivery}")
    return sqs.Outgoing(json.dumps(body), row.group_key or body["tenant_id"])
