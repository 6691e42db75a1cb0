"""Runs a schedule by hand: for all tenants or some, for a day, again where an operator insists."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from uuid import UUID

from sqlalchemy import Connection, text

from functions.core.catalog import Schedule
from functions.pipeline.zones import zone_of_tenants

# Days are computed here, zone by zone, as a tick does: one zone that PostgreSQL does not know would fail them all.
ZONES = text("""
    SELECT DISTINCT time_zone, statement_timestamp() AS now FROM tenants
    WHERE CAST(:tenants AS uuid[]) IS NULL OR id = ANY(CAST(:tenants AS uuid[]))
    ORDER BY time_zone
""")

# As a tick plans it (schedule.py), without the question whether its time has come. The primary key of schedule_runs
# still says that a tenant's day runs once, unless `force` puts a new job in the old one's place.
RERUN = text("""
    WITH chosen AS (
        SELECT t.id, day.local_date,
               uuid7(clock_timestamp() + row_number() OVER (ORDER BY t.id) * interval '1 microsecond') AS job_id
        FROM tenants t
        JOIN unnest(CAST(:zones AS text[]), CAST(:dates AS date[])) AS day(time_zone, local_date)
            ON day.time_zone = t.time_zone
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
                'correlation_id', concat_ws('/', CAST(:schedule AS text), to_char(local_date, 'YYYY-MM-DD'), tenant_id))
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
    """What was planned: jobs ordered, out of the tenants found, of whom some had run that day already.

    `unknown_zones` have tenants that are not among them: nobody can say which day they have.
    """

    tenants: int
    already: int
    planned: int
    unknown_zones: tuple[str, ...] = ()


def rerun(
    tx: Connection,
    schedule: Schedule,
    *,
    tenants: Sequence[UUID] | None = None,
    day: date | None = None,
    force: bool = False,
    dry_run: bool = False,
) -> Rerun:
    """Order the schedule's jobs, without a delay, for each tenant's own today or for `day`. Two statements.

    A day that a tenant has planned before is left alone unless `force`; one recorded as missed is made up for.
    """
    chosen = None if tenants is None else list(tenants)
    dates, unknown = _local_dates(tx, chosen, day)
    row = tx.execute(
        RERUN,
        {
            "schedule": schedule.name,
            "job_type": schedule.job_type,
            "tenants": chosen,
            "zones": list(dates),
            "dates": list(dates.values()),
            "force": force,
            "really": not dry_run,
        },
    ).one()
    return Rerun(row.tenants, row.already, row.planned, unknown)


def _local_dates(
    tx: Connection, tenants: Sequence[UUID] | None, day: date | None
) -> tuple[dict[str, date], tuple[str, ...]]:
    """The date that each of the tenants' zones is to plan, and the zones that this runtime does not know."""
    dates: dict[str, date] = {}
    unknown = []
    for row in tx.execute(ZONES, {"tenants": tenants}):
        if day is not None:
            dates[row.time_zone] = day
        elif (zone := zone_of_tenants(row.time_zone)) is not None:
            dates[row.time_zone] = row.now.astimezone(zone).date()
        else:
            unknown.append(row.time_zone)
    return dates, tuple(unknown)
