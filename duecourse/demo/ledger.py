"""What the demo reads from the database: how far the day has come, and what came of it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, TextClause, text

ENABLE_SCHEDULES = text("UPDATE schedules SET enabled_since = :since")

PROGRESS = text("""
    SELECT count(*) FILTER (WHERE r.outcome = 'planned') AS planned,
        count(*) FILTER (WHERE j.state = 'completed') AS completed,
        (SELECT count(*) FROM email_messages WHERE state <> 'intended') AS mails
    FROM schedule_runs r JOIN jobs j ON j.id = r.job_id
""")

OPEN = text("SELECT count(*) FROM jobs WHERE closed_at IS NULL")

RUNS = text("""
    SELECT r.schedule, count(*) AS planned, count(*) FILTER (WHERE j.state = 'completed') AS completed
    FROM schedule_runs r JOIN jobs j ON j.id = r.job_id
    WHERE r.outcome = 'planned' GROUP BY r.schedule ORDER BY r.schedule
""")

MAILS = text("SELECT type, count(*) AS mails FROM email_messages WHERE state <> 'intended' GROUP BY type ORDER BY type")

# What is to be announced (an obligation and its milestone), and what each reader is told of it.
NOTICES = text("""
    SELECT count(DISTINCT (tenant_id, category, subject_id, due_date, milestone)) AS obligations, count(*) AS notices,
        count(*) FILTER (WHERE status = 'pending') AS pending
    FROM notifications
""")

# The old worker's rule: on each warning day a mail for every document and filing to every user of the tenant.
NAIVE_MAILS = text("""
    WITH today AS (
        SELECT tenant_id, max(local_date) AS local_date FROM schedule_runs GROUP BY tenant_id
    ), readers AS (
        SELECT tenant_id, count(*) AS users FROM tenant_users GROUP BY tenant_id
    ), due AS (
        SELECT d.tenant_id FROM documents d JOIN today USING (tenant_id) CROSS JOIN LATERAL (
            SELECT expiry_date FROM document_versions v
            WHERE v.tenant_id = d.tenant_id AND v.document_id = d.id ORDER BY version DESC LIMIT 1) AS latest
        WHERE d.status = 'valid' AND latest.expiry_date - today.local_date IN (30, 14, 7, 3, 1)
        UNION ALL
        SELECT f.tenant_id FROM filings f JOIN today USING (tenant_id)
        WHERE f.status IN ('draft', 'prepared') AND (f.due_date - today.local_date IN (14, 7, 3, 0)
            OR f.due_date - today.local_date BETWEEN -7 AND -1)
    )
    SELECT coalesce(sum(users), 0)::bigint FROM due JOIN readers USING (tenant_id)
""")

# One row per zone: its tenants, the local day and time of their run, and what came of it.
ZONES = text("""
    SELECT t.time_zone, min(r.local_date) AS local_date, count(DISTINCT t.id) AS tenants, count(*) AS jobs,
        count(*) FILTER (WHERE j.state = 'completed') AS completed, min(r.due_at) AS due_at,
        sum((j.result ->> 'clients')::int) AS clients
    FROM tenants t
    JOIN schedule_runs r ON r.tenant_id = t.id AND r.schedule = :schedule
    JOIN jobs j ON j.id = r.job_id
    GROUP BY t.time_zone ORDER BY min(r.due_at), t.time_zone
""")

# Tenants that were not refreshed exactly once, for whatever reason.
NOT_ONCE = text("""
    SELECT t.id FROM tenants t LEFT JOIN (
        SELECT r.tenant_id, count(*) AS runs, count(*) FILTER (WHERE j.state = 'completed' AND j.runs = 1) AS done
        FROM schedule_runs r JOIN jobs j ON j.id = r.job_id WHERE r.schedule = :schedule GROUP BY r.tenant_id
    ) AS run ON run.tenant_id = t.id
    WHERE run.runs IS DISTINCT FROM 1 OR run.done IS DISTINCT FROM 1
""")

SCORES = text("SELECT level, count(*) AS clients FROM compliance_scores GROUP BY level")

WAITS = text("""
    SELECT percentile_cont(ARRAY[0.5, 0.95, 1.0]) WITHIN GROUP (ORDER BY extract(epoch FROM started_at - run_at))
    FROM jobs WHERE type = 'compliance.refresh'
""")

ENQUEUE_FROM_SQL = text("SELECT enqueue_job('upkeep.probe', CAST(:payload AS jsonb))")

JOB = text("SELECT id, state, attempts, runs, error_class, error FROM jobs WHERE id = :id")

REJECTED = text("SELECT queue, reason, receives FROM rejected_messages ORDER BY first_seen")


@dataclass(frozen=True, slots=True)
class Zone:
    """A row of the final table."""

    name: str
    local_date: date
    due_at: datetime
    tenants: int
    jobs: int
    completed: int
    clients: int


@dataclass(frozen=True, slots=True)
class Notices:
    """`naive_mails`: what the old worker's rule would have sent for the same day."""

    obligations: int
    notices: int
    pending: int
    naive_mails: int


@dataclass(frozen=True, slots=True)
class Job:
    """The one job the demo follows."""

    id: UUID
    state: str
    attempts: int
    runs: int
    error_class: str | None
    error: str | None


def zones(tx: Connection, schedule: str) -> list[Zone]:
    """The day's runs by time zone, in the order in which they came due."""
    return [
        Zone(row.time_zone, row.local_date, row.due_at, row.tenants, row.jobs, row.completed, row.clients or 0)
        for row in tx.execute(ZONES, {"schedule": schedule})
    ]


def progress(tx: Connection) -> tuple[int, int, int]:
    """How many scheduled jobs are planned, how many completed, and how many mails have gone out."""
    row = tx.execute(PROGRESS).one()
    return row.planned, row.completed, row.mails


def by_name(tx: Connection, query: TextClause) -> dict[str, int]:
    """A query of two columns as a dictionary."""
    return {row[0]: row[1] for row in tx.execute(query)}


def notices(tx: Connection) -> Notices:
    """What was to be announced, and to whom it was."""
    row = tx.execute(NOTICES).one()
    naive = tx.execute(NAIVE_MAILS).scalar_one()
    return Notices(row.obligations, row.notices, row.pending, naive)


def scores(tx: Connection) -> dict[str, int]:
    """Clients by level of risk."""
    found = {row.level: row.clients for row in tx.execute(SCORES)}
    return {level: found.get(level, 0) for level in ("low", "medium", "high")}


def waits(tx: Connection) -> dict[str, float]:
    """Seconds from when a refresh could run to its start: median, 95th percentile and longest."""
    values: list[Any] = tx.execute(WAITS).scalar_one() or [0.0, 0.0, 0.0]
    return {name: round(float(value), 3) for name, value in zip(("p50", "p95", "max"), values, strict=True)}


def job(tx: Connection, job_id: UUID) -> Job:
    return Job(*tx.execute(JOB, {"id": job_id}).one())
