"""The statements that move jobs through their life: claim and settle, each one statement for a whole batch.

The truth is table `jobs`; its triggers count every transition and refuse illegal ones (migration 0002).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import Connection, text

from functions.core.buckets import DURATION_BOUNDS
from functions.core.job import ClaimedJob, State
from functions.db.engine import pg_array

EARLY_TOLERANCE_SECONDS = 1.0
"""A message may come back this much before its job's run_at: visibility timeouts are whole seconds."""

# The current delivery of each job of this queue that is free to run. `id = ANY(one array)` lets PostgreSQL prune the
# other months' partitions at run time. Ids and deliveries are compared as one text each, which PostgreSQL hashes:
# joined with the messages, it expects one row and loops over the batch quadratically (3.4 ms for a hundred jobs, and
# 1.2 like this). The row's own queue counts, whatever the catalogue says by now of its type.
_FREE = """
    j.id = ANY(CAST(:ids AS uuid[])) AND j.id::text || '.' || j.delivery = ANY(CAST(:references AS text[]))
    AND j.queue = :queue AND j.state IN ('waiting', 'retrying', 'delayed')
    AND j.run_at <= clock_timestamp() + :tolerance * interval '1 second'
    AND (j.lost = 0 OR :alone)
    AND (j.deadline_at IS NULL OR j.deadline_at > clock_timestamp())
    AND (SELECT paused_at FROM queues WHERE name = :queue) IS NULL
"""
# A claim is proof that the job was sent: a relay that died between send and mark left `outbox_at` standing, and settle
# would take that to have been sent and clear it, so that a message lost later was missed by nobody (chaos, seed 2).
_CLAIMED = """
    state = 'active', claim_token = :token, claimed_alone = :alone, runs = j.runs + 1,
    started_at = clock_timestamp(), lease_until = clock_timestamp() + :lease_seconds * interval '1 second',
    outbox_at = NULL, sent_at = coalesce(j.sent_at, clock_timestamp())
"""
_COLUMNS = """
    j.id, j.type, j.tenant_id, j.payload, j.attempts, j.runs, j.lost, j.correlation_id, j.checkpoint,
    extract(epoch FROM clock_timestamp() - j.run_at)::float8 AS waited_seconds
"""
# The jobs come back as one JSON array: pg8000 decodes a value at a time, 12 µs for the ten of a row.
_FIELDS = "id, type, tenant_id, payload, attempts, runs, lost, correlation_id, checkpoint, waited_seconds"
# A standard queue's batch, in one plain update.
CLAIM = text(f"""
    WITH claimed AS (UPDATE jobs AS j SET {_CLAIMED} WHERE {_FREE} RETURNING {_COLUMNS})
    SELECT json_agg(json_build_array({_FIELDS})) FROM claimed
""")
# A FIFO queue's: of each group only what no earlier member holds back that is not claimed with it, be that one's
# message lost, refused or still on its way. Locked first and judged afterwards: PostgreSQL 18.4 crashes when a locking
# statement looks at the partitioned table again for a row that somebody else changed meanwhile.
CLAIM_IN_TURN = text(f"""
    WITH free AS MATERIALIZED (
        SELECT j.id, j.group_key, j.turn FROM jobs AS j WHERE {_FREE} ORDER BY j.id FOR UPDATE
    ), in_turn AS MATERIALIZED (
        SELECT free.id FROM free
        WHERE free.turn IS NULL OR NOT EXISTS (
            SELECT FROM jobs AS earlier
            WHERE earlier.queue = :queue AND earlier.group_key = free.group_key AND earlier.turn IS NOT NULL
              AND (earlier.turn, earlier.id) < (free.turn, free.id)
              AND earlier.state IN ('delayed', 'waiting', 'retrying', 'active')
              AND earlier.id NOT IN (SELECT id FROM free))
    ), claimed AS (
        UPDATE jobs AS j SET {_CLAIMED} FROM in_turn
        WHERE j.id = ANY(CAST(:ids AS uuid[])) AND j.id = in_turn.id
        RETURNING {_COLUMNS}, j.group_key, j.turn
    )
    SELECT json_agg(json_build_array({_FIELDS}, group_key) ORDER BY turn NULLS FIRST, id) FROM claimed
""")


def lost_runs(relation: str, why: str) -> str:
    """Two parts of a WITH, for statements that take jobs from a worker that is gone: the runs of `relation` (columns of
    jobs, and those that are `active` have a lease that is over) are recorded as lost, and counted.
    """
    return f"""attempt AS (
        INSERT INTO job_attempts (job_id, run, outcome, counted, error_class, error, started_at)
        SELECT id, runs, 'lost', false, 'Lost', '{why}', started_at FROM {relation} WHERE state = 'active'
        ON CONFLICT DO NOTHING
    ), counted AS (
        INSERT INTO job_run_deltas (type, outcome, measure, bucket, runs, seconds)
        SELECT type, 'lost', 'duration', {len(DURATION_BOUNDS)}, count(*),
               sum(extract(epoch FROM lease_until - started_at))
        FROM {relation} WHERE state = 'active' GROUP BY type
    )"""


LOST = """
    lost = j.lost + (j.state = 'active')::int,
    lost_alone = j.lost_alone
        + (j.state = 'active' AND j.claimed_alone AND j.started_at > pg_postmaster_start_time())::int
"""
SENT_AGAIN = f"""
    state = CASE j.state WHEN 'active' THEN 'retrying' ELSE j.state END, {LOST}, claim_token = NULL, lease_until = NULL,
    delivery = j.delivery + 1, sent_at = NULL
"""
"""Beside `lost_runs`, the SET lists for jobs `j`: their losses, and what it takes to send them under a new delivery."""

_RECORD_RUNS = """
    INSERT INTO job_run_deltas (type, outcome, measure, bucket, runs, seconds)
    SELECT * FROM jsonb_to_recordset(CAST(:tallies AS jsonb)) AS tally(
        type text, outcome text, measure text, bucket smallint, runs bigint, seconds float8)
"""
RECORD_RUNS = text(_RECORD_RUNS)

# Ends runs. A row whose token no longer matches is not touched and not counted: that worker lost its lease.
# The token is a join key, not a filter, or the planner expects one row and loops over the batch quadratically.
SETTLE = text(f"""
    WITH outcome AS MATERIALIZED (
        SELECT *, CAST(:token AS uuid) AS token,
               coalesce(until, clock_timestamp() + delay_seconds * interval '1 second') AS due_at
        FROM jsonb_to_recordset(CAST(:settlements AS jsonb)) AS o(
            id uuid, state text, counted boolean, resend boolean, holds boolean, delay_seconds float8,
            until timestamptz, attempt text, error_class text, error text, traceback text, result jsonb,
            checkpoint jsonb, progress real, message_id text, forget text[])
    ), settled AS (
        UPDATE jobs AS j SET
            state = o.state,
            claim_token = NULL, lease_until = NULL,
            attempts = CASE o.attempt WHEN 'continued' THEN 0 ELSE j.attempts + coalesce(o.counted, false)::int END,
            lost = CASE WHEN o.attempt = 'released' THEN j.lost ELSE 0 END,
            lost_alone = CASE WHEN o.attempt = 'released' THEN j.lost_alone ELSE 0 END,
            run_at = coalesce(o.due_at, j.run_at),
            turn = CASE WHEN o.holds THEN j.turn END,
            delivery = j.delivery + coalesce(o.resend, false)::int,
            outbox_at = CASE WHEN o.resend THEN coalesce(o.due_at, clock_timestamp()) END,
            sent_at = CASE WHEN o.resend THEN NULL ELSE j.sent_at END,
            result = o.result,
            payload = CASE WHEN o.forget IS NULL OR jsonb_typeof(j.payload) <> 'object' THEN j.payload
                           ELSE j.payload - o.forget END,
            checkpoint = coalesce(o.checkpoint, j.checkpoint),
            progress = coalesce(o.progress, j.progress),
            error_class = o.error_class,
            error = o.error,
            dead_message_id = CASE o.state WHEN 'dead' THEN o.message_id END,
            died_at = CASE o.state WHEN 'dead' THEN clock_timestamp() END,
            closed_at = CASE o.state WHEN 'completed' THEN clock_timestamp() END
        FROM outcome AS o
        WHERE j.id = ANY(CAST(:ids AS uuid[])) AND j.id = o.id AND j.claim_token = o.token
        RETURNING j.id, j.runs, j.started_at, j.state, j.dedup_key
    ), attempt AS (
        INSERT INTO job_attempts (job_id, run, outcome, counted, error_class, error, traceback, started_at)
        SELECT s.id, s.runs, o.attempt, coalesce(o.counted, false), o.error_class, o.error, o.traceback, s.started_at
        FROM settled s JOIN outcome o ON o.id = s.id
        WHERE o.attempt IS NOT NULL
    ), freed AS (
        DELETE FROM job_keys USING settled AS s
        WHERE s.dedup_key IS NOT NULL AND s.state IN ('completed', 'dead')
          AND job_keys.key = s.dedup_key AND job_keys.job_id = s.id AND job_keys.expires_at = 'infinity'
    ), counted AS ({_RECORD_RUNS})
    SELECT CASE WHEN (SELECT count(*) FROM settled) < :number
                THEN (SELECT coalesce(string_agg(id::text, ','), '') FROM settled) END
""")


@dataclass(frozen=True, slots=True)
class Reference:
    """What a message says: which job, of which type, which delivery of it; and its own id, group and time of sending.

    `type` is the sender's word; the ledger's row is the truth.
    """

    id: UUID
    delivery: int
    message_id: str
    sent_at: datetime
    type: str = ""
    group: str | None = None
    """The message's own group; on a FIFO queue its messages come in order."""
    misplaced: str | None = None
    """Why it is no message of this queue, unless the ledger knows better."""


@dataclass(frozen=True, slots=True)
class Settlement:
    """How one run ends in the ledger. `attempt` names the row it leaves in job_attempts, None for none."""

    id: UUID
    state: State
    attempt: str | None = None
    counted: bool = False
    resend: bool = False
    holds: bool = False
    """Whether it goes on holding its group: it has not started, or its type is strict."""
    delay_seconds: float | None = None
    until: datetime | None = None
    error_class: str | None = None
    error: str | None = None
    traceback: str | None = None
    result: Any = None
    checkpoint: Any = None
    progress: float | None = None
    forget: Sequence[str] | None = None
    """Fields of the payload that end with the job."""


FIELDS = tuple(field.name for field in fields(Settlement) if field.name != "id")


class RunTally(NamedTuple):
    """How many runs of a type ended in one way and took (or, with no outcome, waited) about as long."""

    type: str
    outcome: str
    measure: str
    bucket: int
    runs: int
    seconds: float


def claim(
    tx: Connection,
    messages: Sequence[Reference],
    *,
    queue: str,
    token: UUID,
    lease_seconds: float,
    alone: bool,
    fifo: bool = False,
) -> list[ClaimedJob]:
    """Claim the jobs of these messages that are free to run, under one token, in the order in which they are to run.

    `alone`: a batch of one. `fifo`: only those whose turn it is in their group.
    """
    ids = [str(message.id) for message in messages]
    rows = tx.execute(
        CLAIM_IN_TURN if fifo else CLAIM,
        {
            "ids": pg_array(ids),
            "references": pg_array(
                f"{job_id}.{message.delivery}" for job_id, message in zip(ids, messages, strict=True)
            ),
            "queue": queue,
            "token": token,
            "alone": alone,
            "lease_seconds": lease_seconds,
            "tolerance": EARLY_TOLERANCE_SECONDS,
        },
    ).scalar_one()
    return [
        ClaimedJob(UUID(job_id), name, tenant_id and UUID(tenant_id), *rest)
        for job_id, name, tenant_id, *rest in rows or ()
    ]


def settle(
    tx: Connection,
    settlements: Sequence[Settlement],
    *,
    token: UUID,
    message_ids: Mapping[UUID, str],
    tallies: Sequence[RunTally] = (),
) -> set[UUID]:
    """End runs claimed under `token`, and count `tallies`. Returns the jobs that were still ours: the caller rolls back
    if not all of them were.
    """
    rows = [_row(item, message_ids) for item in settlements]
    result = tx.execute(
        SETTLE,
        {
            "ids": pg_array(row["id"] for row in rows),
            "token": token,
            "settlements": json.dumps(rows, default=str, allow_nan=False),
            "tallies": json.dumps([tally._asdict() for tally in tallies]),
            "number": len(rows),
        },
    )
    ids: str | None = result.scalar_one()
    if ids is None:  # nearly always, and reading ids takes time
        return {item.id for item in settlements}
    return {UUID(item) for item in ids.split(",") if item}


def record_runs(tx: Connection, tallies: Sequence[RunTally]) -> None:
    """Count runs apart from their settling: of those only that turned out to be ours."""
    tx.execute(RECORD_RUNS, {"tallies": json.dumps([tally._asdict() for tally in tallies])})


def _row(item: Settlement, message_ids: Mapping[UUID, str]) -> dict[str, Any]:
    """What is said of one run; what is left out is null there. Most jobs just complete, so most of it is left out."""
    row: dict[str, Any] = {"id": str(item.id)}
    for name in FIELDS:
        if (value := getattr(item, name)) is not None and value is not False:
            row[name] = value
    if item.state is State.DEAD:
        row["message_id"] = message_ids.get(item.id)
    return row
