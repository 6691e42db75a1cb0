"""Our own redrive: dead jobs are selected in the ledger and sent again; their stale copies leave the dead-letter queue.

The console's and the CLI's redrive work too: a message that SQS moved back revives its job at the claim.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import Connection, text

from functions.aws import sqs
from functions.core.catalog import CATALOG, Catalog
from functions.db.engine import transaction
from functions.pipeline.settings import settings

DRAIN_VISIBILITY_SECONDS = 300
"""Copies that stay in the dead-letter queue are out of sight for this, so that a drain meets each of them once."""
DRAIN_WAIT_SECONDS = 1
"""An answer without messages means an empty queue only when SQS was given time to ask all its servers."""
DRAIN_STEP_SECONDS = 5.0
"""A step of a drain holds a connection while it calls SQS, so it is short."""

FRESH = """
    state = 'waiting', attempts = 0, lost = 0, lost_alone = 0, dead_message_id = NULL, died_at = NULL,
    delivery = delivery + 1, sent_at = NULL, resend_after = NULL
"""
"""What makes a job new again, as the SET list of an UPDATE that also says when it is to run."""

# `gap_seconds` apart from `start` on, so that the relay sends them at that rate. What somebody else is steering just
# now is left to them.
REVIVE = text(f"""
    WITH held AS MATERIALIZED (
        SELECT id FROM jobs WHERE id = ANY(CAST(:ids AS uuid[])) AND state = 'dead'
        ORDER BY id FOR UPDATE SKIP LOCKED
    ), may AS MATERIALIZED (
        SELECT retake_job_keys(ARRAY(SELECT id FROM held)) AS id
    ), due AS (
        SELECT may.id, coalesce(CAST(:start AS timestamptz), clock_timestamp())
               + (chosen.position - 1) * CAST(:gap_seconds AS float8) * interval '1 second' AS at
        FROM unnest(CAST(:ids AS uuid[])) WITH ORDINALITY AS chosen(id, position) JOIN may ON may.id = chosen.id
    ), revived AS (
        UPDATE jobs SET {FRESH}, run_at = due.at, outbox_at = due.at
        FROM due WHERE jobs.id = ANY(CAST(:ids AS uuid[])) AND jobs.id = due.id
        RETURNING jobs.id
    )
    SELECT held.id, revived.id IS NOT NULL AS revived FROM held LEFT JOIN revived ON revived.id = held.id
    ORDER BY held.id
""")

DEAD = """
    FROM jobs WHERE died_at IS NOT NULL AND queue = :queue
      AND (CAST(:type AS text) IS NULL OR type = :type)
      AND (CAST(:tenant_id AS uuid) IS NULL OR tenant_id = :tenant_id)
      AND (CAST(:error_class AS text) IS NULL OR error_class = :error_class)
      AND (CAST(:died_before AS timestamptz) IS NULL OR died_at < :died_before)
"""
KEY_TAKEN = """(dedup_key IS NOT NULL AND EXISTS (
    SELECT FROM job_keys k WHERE k.key = dedup_key AND k.job_id <> id AND k.expires_at > now()
        AND EXISTS (SELECT FROM jobs holder WHERE holder.id = k.job_id)))"""
"""Whether another job holds a dead job's deduplication key: it cannot be revived. As `retake_job_keys` (migration 0014)
sees it."""
COUNT_DEAD = text(f"SELECT count(*) {DEAD}")
COUNT_LEFT = text(f"SELECT count(*) {DEAD} AND {KEY_TAKEN}")
NEXT_DEAD = text(f"""
    SELECT id {DEAD} AND (CAST(:after AS uuid) IS NULL OR id > :after) AND NOT {KEY_TAKEN}
    ORDER BY id LIMIT :most
""")

STILL_DEAD = text("""
    SELECT message.position
    FROM unnest(CAST(:ids AS uuid[]), CAST(:deliveries AS integer[])) WITH ORDINALITY AS message(id, delivery, position)
    JOIN jobs j ON j.id = message.id AND j.delivery = message.delivery AND j.state = 'dead'
    WHERE j.id = ANY(CAST(:ids AS uuid[]))
""")


@dataclass(frozen=True, slots=True)
class Dead:
    """Which dead jobs of a queue are meant: all of them, or those of a type, a tenant, an error, a time."""

    queue: str
    type: str | None = None
    tenant_id: UUID | None = None
    error_class: str | None = None
    died_before: datetime | None = None


class Redriven(NamedTuple):
    """What became of dead jobs: revived, or left dead since a newer job holds their deduplication key."""

    revived: list[UUID]
    left: list[UUID]


@dataclass(frozen=True, slots=True)
class Drained:
    """What a step of a drain did; `finished` when the queue had nothing more to show."""

    looked_at: int
    deleted: int
    finished: bool


def count_dead(tx: Connection, dead: Dead) -> int:
    """How many jobs are dead and meant."""
    return int(tx.execute(COUNT_DEAD, asdict(dead)).scalar_one())


def count_left(tx: Connection, dead: Dead) -> int:
    """How many of them stay dead, since a newer job holds their deduplication key."""
    return int(tx.execute(COUNT_LEFT, asdict(dead)).scalar_one())


def next_dead(tx: Connection, dead: Dead, *, after: UUID | None, most: int) -> list[UUID]:
    """The dead jobs that are meant and can be revived, oldest first from `after` on."""
    return [row.id for row in tx.execute(NEXT_DEAD, asdict(dead) | {"after": after, "most": most})]


def dead_ids(tx: Connection, queue: str) -> list[UUID]:
    """Every dead job of a queue that can be revived, oldest first."""
    return next_dead(tx, Dead(queue), after=None, most=2**31 - 1)


def redrive(
    tx: Connection, ids: Sequence[UUID], *, start: datetime | None = None, gap_seconds: float = 0.0
) -> Redriven:
    """Revive dead jobs with fresh attempts, their key and a new delivery, which the relay sends.

    They run now, or one by one `gap_seconds` apart from `start` on. Those in neither list were not dead, or somebody
    else held them just then.
    """
    rows = tx.execute(REVIVE, {"ids": list(ids), "start": start, "gap_seconds": gap_seconds}).all()
    return Redriven([row.id for row in rows if row.revived], [row.id for row in rows if not row.revived])


def drain_stale(queue: str, *, catalog: Catalog = CATALOG) -> int:
    """Delete from a dead-letter queue all copies whose job is not dead any more, or was sent anew. Returns how many.

    Messages that nobody can understand stay: the dead-letter queue is their only home.
    """
    deleted = 0
    while True:
        with transaction() as tx:
            step = drain_step(tx, queue, catalog=catalog)
        deleted += step.deleted
        if step.finished:
            return deleted


def drain_step(
    tx: Connection, queue: str, *, seconds: float = DRAIN_STEP_SECONDS, catalog: Catalog = CATALOG
) -> Drained:
    """The same for as long as `seconds` allow.

    A FIFO queue shows no more of a group than one call returns while some of it is out of sight: copies behind ten
    that stay are not reached.
    """
    url = settings().queue_url(queue, dead_letter=True, catalog=catalog)
    looked_at = deleted = 0
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        messages = sqs.receive(url, visibility_seconds=DRAIN_VISIBILITY_SECONDS, wait_seconds=DRAIN_WAIT_SECONDS)
        if not messages:
            return Drained(looked_at, deleted, finished=True)
        stale = _stale(tx, messages)
        sqs.delete(url, stale)
        looked_at += len(messages)
        deleted += len(stale)
    return Drained(looked_at, deleted, finished=False)


def dead_letters(queue: str, *, catalog: Catalog = CATALOG) -> int:
    """How many messages a dead-letter queue holds, about."""
    depth = sqs.depth(settings().queue_url(queue, dead_letter=True, catalog=catalog))
    return depth.visible + depth.in_flight + depth.delayed


def _stale(tx: Connection, messages: Sequence[Mapping[str, Any]]) -> list[str]:
    """The receipts of copies that nobody needs."""
    known = [(item["ReceiptHandle"], found) for item in messages if (found := _reference(item["Body"]))]
    if not known:
        return []
    references = {"ids": [found[0] for _, found in known], "deliveries": [found[1] for _, found in known]}
    dead = {row.position for row in tx.execute(STILL_DEAD, references)}
    return [receipt for position, (receipt, _) in enumerate(known, start=1) if position not in dead]


def _reference(body: str) -> tuple[UUID, int] | None:
    try:
        raw = json.loads(body)
        return UUID(raw["id"]), int(raw["delivery"])
    except (ValueError, TypeError, KeyError):
        return None
