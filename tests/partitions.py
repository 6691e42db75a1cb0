"""Months of the ledger, counted from the present one, and jobs put into them."""

from __future__ import annotations

from datetime import UTC, date, datetime
from uuid import UUID

from sqlalchemy import Connection, text

from functions.core.job import State


def month(ahead: int) -> date:
    today = datetime.now(UTC)
    months = today.year * 12 + today.month - 1 + ahead
    return date(months // 12, months % 12 + 1, 1)


def name(ahead: int) -> str:
    return f"jobs_{month(ahead):%Y_%m}"


def start(ahead: int) -> datetime:
    return datetime.combine(month(ahead), datetime.min.time(), tzinfo=UTC)


def partitions(tx: Connection) -> list[str]:
    rows = tx.execute(text("SELECT relid::text AS name FROM pg_partition_tree('jobs') WHERE isleaf ORDER BY 1"))
    return [row.name for row in rows]


def add(tx: Connection, at: datetime, state: State = State.WAITING, *, attempts: int = 0) -> UUID:
    """A job whose id was made at that instant."""
    row = tx.execute(
        text("""
            INSERT INTO jobs (id, queue, type, state, payload, priority, correlation_id, run_at, sent_at,
                              claim_token, died_at, closed_at)
            VALUES (uuid7(:at), 'upkeep', 'upkeep.probe', :state, '{}', 0, 'c', now(), now(),
                    CASE WHEN :state = 'active' THEN gen_random_uuid() END, CASE WHEN :state = 'dead' THEN now() END,
                    CASE WHEN :state IN ('completed', 'cancelled') THEN now() END)
            RETURNING id
        """),
        {"at": at, "state": state},
    )
    job_id: UUID = row.scalar_one()
    tx.execute(
        text("""
            INSERT INTO job_attempts (job_id, run, outcome, counted)
            SELECT :id, n, 'failed', true FROM generate_series(1, :attempts) AS n
        """),
        {"id": job_id, "attempts": attempts},
    )
    return job_id


def home(tx: Connection, job_id: UUID) -> str:
    found = tx.execute(text("SELECT tableoid::regclass::text FROM jobs WHERE id = :id"), {"id": job_id})
    return str(found.scalar_one())
