"""Our own redrive: dead jobs are selected in the ledger and sent again; their stale copies leave the dead-letter queue.

The console's and the CLI's redrive work too: a message that SQS moved back revives its job at the claim.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import Connection, text

from functions.aws import sqs
from functions.core.catalog import CATALOG, Catalog
from functions.db.engine import transaction
from functions.pipeline.settings import settings

DRAIN_VISIBILITY_SECONDS = 60
"""Copies that stay in the dead-letter queue are out of sight for this while it is being drained."""

REVIVE = text("""
    UPDATE jobs SET
        state = 'waiting', attempts = 0, lost = 0, lost_alone = 0, dead_message_id = NULL, died_at = NULL,
        delivery = delivery + 1, sent_at = NULL, run_at = clock_timestamp(), outbox_at = clock_timestamp(),
        resend_after = NULL
    WHERE id = ANY(CAST(:ids AS uuid[])) AND state = 'dead'
    RETURNING id
""")

DEAD_IDS = text("SELECT id FROM jobs WHERE closed_at IS NULL AND queue = :queue AND state = 'dead' ORDER BY id")

STILL_DEAD = text("""
    SELECT message.position
    FROM unnest(CAST(:ids AS uuid[]), CAST(:deliveries AS integer[])) WITH ORDINALITY AS message(id, delivery, position)
    JOIN jobs j ON j.id = message.id AND j.delivery = message.delivery AND j.state = 'dead'
    WHERE j.id = ANY(CAST(:ids AS uuid[]))
""")


def dead_ids(tx: Connection, queue: str) -> list[UUID]:
    """The dead jobs of a queue, oldest first."""
    return [row.id for row in tx.execute(DEAD_IDS, {"queue": queue})]


def redrive(tx: Connection, ids: Sequence[UUID]) -> list[UUID]:
    """Revive dead jobs with fresh attempts and a new delivery, which the relay sends. Returns those that were dead."""
    return [row.id for row in tx.execute(REVIVE, {"ids": list(ids)})]


def drain_stale(queue: str, *, catalog: Catalog = CATALOG) -> int:
    """Delete from a dead-letter queue the copies whose job is not dead any more, or was sent anew. Returns how many.

    Messages that nobody can understand stay: the dead-letter queue is their only home.
    """
    url = settings().queue_url(queue, dead_letter=True, catalog=catalog)
    deleted = 0
    while messages := sqs.receive(url, visibility_seconds=DRAIN_VISIBILITY_SECONDS):
        known = [(item["ReceiptHandle"], found) for item in messages if (found := _reference(item["Body"]))]
        with transaction() as tx:
            references = {
                "ids": [found[0] for _, found in known],
                "deliveries": [found[1] for _, found in known],
            }
            dead = {row.position for row in tx.execute(STILL_DEAD, references)} if known else set()
        stale = [receipt for position, (receipt, _) in enumerate(known, start=1) if position not in dead]
        sqs.delete(url, stale)
        deleted += len(stale)
    return deleted


def _reference(body: str) -> tuple[UUID, int] | None:
    try:
        raw = json.loads(body)
        return UUID(raw["id"]), int(raw["delivery"])
    except (ValueError, TypeError, KeyError):
        return None
