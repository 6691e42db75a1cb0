"""Runs a schedule by hand: for all tenants or some, for a day, again where an operator insists."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from uuid import UUID

from sqlalchemy import Connection, text

from functions.core.catalog import Schedule

# As a tick plans it (schedule.py), without the question whether its time has come. The primary key of schedule_runs
# still says that a tenant's day runs once, unless `force` puts a new job in the old one's place.
RERUN = text("""
    WITH chosen AS (
        SELECT t.id, coalesce(CAST(:day AS date), (clock_timestamp() AT TIME ZONE t.time_zone)::date) AS local_date,
               uuid7(clock_timestamp() + row_number() OVER (ORDER BY t.id) * interval '1 microsecond') AS job_id
        FROM tenants t
        WHERE CAST(:tenants AS uuid[]) IS NULL OR t.id = ANY(CAST(:tenants AS uuid[]))
    ), run AS (
        INSERT INTO schedule_runs AS r (schedule, tenant_id, local_date, outcome, due_at, planned_at, job_id)
        SELECT :schedule, id, local_date, 'planned', clock_timestamp(), clock_timestamp(), job_id
        FROM chosen WHERE :really
        ON CONFLICT (schedule, tenant_id, local_date) DO UPDATE
            SET outcome = 'planned', reason = NULL, planned_at = excluded.planned_at, job_id = excluded.job_id
            WHERE :force OR r.outcome = 'missed'
        RETURNING tenant_id, local_date, job_id
    ), ordered AS (
        SELECT created FROM enqueue_jobs((
            SELECT coalesce(jsonb_agg(jsonb_build_object(
                'id', job_id, 'type', CAST(:job_type AS text), 'tenant_id', tenant_id,
                'payload', jsonb_build_object('local_date', local_date),
                'correlation_id', CAST(:schedule AS text) || '/' || local_date || '/' || tenant_id)
                ORDER BY job_id), '[]')
            FROM run))
    )
    SELECT (SELECT count(*) FROM chosen) AS tenants,
           (SELECT count(*) FROM chosen JOIN schedule_runs r
            ON r.schedule = :schedule AND r.tenant_id = chosen.id AND r.local_date = chosen.local_date
            WHERE r.outcome = 'planned') AS already,
           (SELECT count(*) FROM ordered WHERE created) AS planned
""")


@dataclass(frozen=True, slots=True)
class Rerun:
    """What was planned: jobs ordered, out of the tenants found, of whom some had run that day already."""

    tenants: int
    already: int
    planned: int


def rerun(
    tx: Connection,
    schedule: Schedule,
    *,
    tenants: Sequence[UUID] | None = None,
    day: date | None = None,
    force: bool = False,
    dry_run: bool = False,
) -> Rerun:
    """Order the schedule's jobs, without a delay, for each tenant's own today or for `day`. One statement.

    A day that a tenant has planned before is left alone unless `force`; one recorded as missed is made up for.
    """
    row = tx.execute(
        RERUN,
        {
            "schedule": schedule.name,
            "job_type": schedule.job_type,
            "tenants": None if tenants is None else list(tenants),
            "day": day,
            "force": force,
            "really": not dry_run,
        },
    ).one()
    return Rerun(row.tenants, row.already, row.planned)
