"""What an operator does to jobs: pause, resume, retry, remove. Each is one statement, for one job or thousands.

Rows are locked in the order of their ids and looked at under the lock: of two operators who act on a job at once, the
second finds the state that the first left it in, and is told so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, text

from functions.core.catalog import CATALOG, Catalog
from functions.core.job import State
from functions.pipeline.ledger import LOST, lost_runs
from functions.pipeline.redrive import FRESH


class Action(StrEnum):
    """What can be asked of a job."""

    PAUSE = "pause"
    """It does not run until resumed. A message of it that is under way is dropped when it arrives."""
    RESUME = "resume"
    """It goes on where it stood, under a new delivery; in a FIFO group that is behind what came due meanwhile."""
    RETRY = "retry"
    """It runs as soon as there is a worker, with fresh attempts; a dead one takes its deduplication key again."""
    REMOVE = "remove"
    """It is cancelled for good, its key is free (not one with a window), and it forgets what a completed one would."""


@dataclass(frozen=True, slots=True)
class Steered:
    """A job that was found: its state before, and after; `after` is None where that state does not allow the action."""

    id: UUID
    before: State
    after: State | None
    tenant_id: UUID | None = None
    key_taken: bool = False
    """Whether a dead job was not retried since a newer one holds its deduplication key."""


FROM: Mapping[Action, frozenset[State]] = {
    Action.PAUSE: frozenset({State.WAITING, State.DELAYED, State.RETRYING, State.BLOCKED, State.ACTIVE}),
    Action.RESUME: frozenset({State.PAUSED}),
    Action.RETRY: frozenset({State.DEAD, State.RETRYING, State.DELAYED, State.WAITING, State.ACTIVE}),
    Action.REMOVE: frozenset(
        {State.WAITING, State.DELAYED, State.RETRYING, State.BLOCKED, State.PAUSED, State.DEAD, State.ACTIVE},
    ),
}
"""The states from which each action is possible; `active` only once the lease is over, when the run is a lost one.

A run under way commits or fails by itself, and a long job that runs in steps is waiting between two.
"""

_BLOCKED = "(j.pending_parents > 0 OR EXISTS (SELECT FROM contested_keys AS c WHERE c.job_id = j.id))"
"""It waits for other jobs, or for whose its deduplication key is."""

_CHANGES: Mapping[Action, str] = {
    Action.PAUSE: f"state = 'paused', outbox_at = NULL, sent_at = NULL, {LOST}",
    # In a FIFO group, one that has not started yet comes due now: what did meanwhile is before it.
    Action.RESUME: f"""
        state = CASE WHEN {_BLOCKED} THEN 'blocked'
                     WHEN j.run_at > held.moment THEN 'delayed' ELSE 'waiting' END,
        run_at = CASE WHEN j.turn IS NULL THEN j.run_at ELSE greatest(j.run_at, held.moment) END,
        turn = CASE WHEN j.turn IS NOT NULL THEN greatest(j.run_at, held.moment) END,
        outbox_at = CASE WHEN NOT {_BLOCKED} THEN greatest(j.run_at, held.moment) END,
        delivery = j.delivery + 1, sent_at = NULL, resend_after = NULL
    """,
    Action.RETRY: f"""
        {FRESH}, outbox_at = held.moment,
        run_at = CASE held.state WHEN 'waiting' THEN least(j.run_at, held.moment) ELSE held.moment END,
        turn = CASE WHEN j.turn > held.moment THEN held.moment ELSE j.turn END
    """,
    Action.REMOVE: """
        state = 'cancelled', closed_at = clock_timestamp(), outbox_at = NULL, died_at = NULL, dead_message_id = NULL,
        payload = CASE jsonb_typeof(j.payload) WHEN 'object' THEN j.payload - CAST(:forgets AS text[])
                                               ELSE j.payload END
    """,
}

# A run whose lease is over is recorded as lost, as TRIAGE does; its worker can settle no more, since its token is gone.
_STATEMENTS = {
    action: text(f"""
        WITH held AS MATERIALIZED (
            SELECT id, type, state, tenant_id, runs, started_at, lease_until, clock_timestamp() AS moment,
                   state = ANY(CAST(:states AS text[]))
                   AND (state <> 'active' OR coalesce(lease_until < clock_timestamp(), false)) AS allowed
            FROM jobs
            WHERE id = ANY(CAST(:ids AS uuid[])) AND queue = :queue
              AND (CAST(:tenant_id AS uuid) IS NULL OR tenant_id = CAST(:tenant_id AS uuid))
            ORDER BY id FOR UPDATE
        ), may_live AS MATERIALIZED (
            SELECT retake_job_keys(ARRAY(
                SELECT id FROM held WHERE state = 'dead' AND CAST(:action AS text) = 'retry')) AS id
        ), chosen AS MATERIALIZED (
            SELECT * FROM held
            WHERE allowed AND (state <> 'dead' OR CAST(:action AS text) <> 'retry' OR id IN (SELECT id FROM may_live))
        ), {lost_runs("chosen", "the lease ran out before the run was settled")},
        changed AS (
            UPDATE jobs AS j SET {change}, claim_token = NULL, lease_until = NULL
            FROM chosen AS held WHERE j.id = ANY(CAST(:ids AS uuid[])) AND j.id = held.id
            RETURNING j.id, j.state, j.dedup_key
        ), freed AS (
            DELETE FROM job_keys USING changed
            WHERE changed.state = 'cancelled' AND job_keys.key = changed.dedup_key AND job_keys.job_id = changed.id
              AND job_keys.expires_at = 'infinity'
        )
        SELECT held.id, held.state AS before, changed.state AS after, held.tenant_id,
               held.allowed AND changed.id IS NULL AS key_taken
        FROM held LEFT JOIN changed ON changed.id = held.id ORDER BY held.id
    """)
    for action, change in _CHANGES.items()
}


def steer(
    tx: Connection,
    action: Action,
    ids: Sequence[UUID],
    *,
    queue: str,
    tenant_id: UUID | None = None,
    catalog: Catalog = CATALOG,
) -> list[Steered]:
    """Do `action` to the jobs of `queue` among `ids`, of one tenant alone where given.

    Returns the jobs found, by id. What is not found is another queue's or tenant's, or does not exist.
    """
    values: dict[str, Any] = {"ids": list(ids), "queue": queue, "tenant_id": tenant_id, "action": str(action)}
    values |= {"states": [str(state) for state in FROM[action]], "forgets": catalog.forgets(queue)}
    rows = tx.execute(_STATEMENTS[action], values)
    return [
        Steered(row.id, State(row.before), row.after and State(row.after), row.tenant_id, bool(row.key_taken))
        for row in rows
    ]
