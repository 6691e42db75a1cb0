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
from functions.pipeline.redrive import FRESH


class Action(StrEnum):
    """What can be asked of a job."""

    PAUSE = "pause"
    """It does not run until resumed. A message of it that is under way is dropped when it arrives."""
    RESUME = "resume"
    """It goes on where it stood, under a new delivery; in a FIFO group that is behind what was sent meanwhile."""
    RETRY = "retry"
    """It runs as soon as there is a worker, with fresh attempts."""
    REMOVE = "remove"
    """It is cancelled for good, its key is free (not one with a window), and it forgets what a completed one would."""


@dataclass(frozen=True, slots=True)
class Steered:
    """A job that was found: its state before, and after; `after` is None where that state does not allow the action."""

    id: UUID
    before: State
    after: State | None
    tenant_id: UUID | None = None


FROM: Mapping[Action, frozenset[State]] = {
    Action.PAUSE: frozenset({State.WAITING, State.DELAYED, State.RETRYING, State.BLOCKED}),
    Action.RESUME: frozenset({State.PAUSED}),
    Action.RETRY: frozenset({State.DEAD, State.RETRYING, State.DELAYED, State.WAITING}),
    Action.REMOVE: frozenset(
        {State.WAITING, State.DELAYED, State.RETRYING, State.BLOCKED, State.PAUSED, State.DEAD},
    ),
}
"""The states from which each action is possible; a retry of a waiting job only when its time is yet to come.

Never `active`: a run under way commits or fails by itself, and a long job that runs in steps is waiting between two.
"""

_CHANGES: Mapping[Action, str] = {
    Action.PAUSE: "state = 'paused', outbox_at = NULL",
    Action.RESUME: """
        state = CASE WHEN held.pending_parents > 0 THEN 'blocked'
                     WHEN j.run_at > clock_timestamp() THEN 'delayed' ELSE 'waiting' END,
        outbox_at = CASE WHEN held.pending_parents = 0 THEN greatest(j.run_at, clock_timestamp()) END,
        delivery = j.delivery + 1, sent_at = NULL, resend_after = NULL
    """,
    Action.RETRY: f"{FRESH}, run_at = clock_timestamp(), outbox_at = clock_timestamp()",
    Action.REMOVE: """
        state = 'cancelled', closed_at = clock_timestamp(), outbox_at = NULL, died_at = NULL, dead_message_id = NULL,
        payload = j.payload - CAST(:forgets AS text[])
    """,
}

_STATEMENTS = {
    action: text(f"""
        WITH held AS MATERIALIZED (
            SELECT id, state, tenant_id, pending_parents,
                   state = ANY(CAST(:states AS text[]))
                   AND (CAST(:action AS text) <> 'retry' OR state <> 'waiting' OR run_at > clock_timestamp()) AS allowed
            FROM jobs
            WHERE id = ANY(CAST(:ids AS uuid[])) AND queue = :queue
              AND (CAST(:tenant_id AS uuid) IS NULL OR tenant_id = CAST(:tenant_id AS uuid))
            ORDER BY id FOR UPDATE
        ), changed AS (
            UPDATE jobs AS j SET {change}
            FROM held WHERE j.id = ANY(CAST(:ids AS uuid[])) AND j.id = held.id AND held.allowed
            RETURNING j.id, j.state, j.dedup_key
        ), freed AS (
            DELETE FROM job_keys USING changed
            WHERE changed.state = 'cancelled' AND job_keys.key = changed.dedup_key AND job_keys.job_id = changed.id
              AND job_keys.expires_at = 'infinity'
        )
        SELECT held.id, held.state AS before, changed.state AS after, held.tenant_id
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
    return [Steered(row.id, State(row.before), row.after and State(row.after), row.tenant_id) for row in rows]
