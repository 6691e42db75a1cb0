"""Schedules that should have planned and did not: the newest day of each zone that is due and has no run.

The planner itself cannot say so, since it may be what does not run; the sweep and the API look from outside.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import Connection, text

from functions.core.catalog import CATALOG, Catalog, Schedule
from functions.core.clock import find_zone, local_instant
from functions.pipeline.due import DueDay, due_days

GRACE = timedelta(minutes=20)
"""A tick comes every 15 minutes; what is younger is not late yet."""

ZONES = text("SELECT DISTINCT time_zone FROM tenants ORDER BY time_zone")

ENABLED_SINCE = "CASE WHEN s.enabled_since < '9999-12-30Z' THEN greatest(s.enabled_since, '1970-01-01Z') END"
"""Of `schedules s`, for programs to read: 'infinity', which is no instant to them, is off as null is."""
MISSED = "r.outcome = 'missed' AND r.reason IS DISTINCT FROM 'off'"
"""Of `schedule_runs r`: somebody may have to act. Days on which the schedule was off were meant."""

# Tenants whose day is due and has no run, whatever the reason. A day beyond the catch-up counts too: it is to be
# recorded as missed. One on which the schedule was off does not. OFFSET 0: each is looked up by its key, or the planner
# might read all runs that were ever recorded.
UNPLANNED = text("""
    WITH day AS (
        SELECT * FROM unnest(CAST(:schedules AS text[]), CAST(:zones AS text[]), CAST(:dates AS date[]),
                             CAST(:due AS timestamptz[])) AS d(schedule, time_zone, local_date, due_at)
    )
    SELECT day.schedule, count(*) AS tenants, min(day.due_at) AS due_since
    FROM day
    JOIN schedules s ON s.name = day.schedule AND s.enabled_since IS NOT NULL
    JOIN tenants t ON t.time_zone = day.time_zone
    WHERE day.due_at >= greatest(s.enabled_since, t.created_at)
      AND (CAST(:tenant_id AS uuid) IS NULL OR t.id = :tenant_id)
      AND NOT EXISTS (SELECT FROM schedule_runs r
                      WHERE r.schedule = s.name AND r.tenant_id = t.id AND r.local_date = day.local_date OFFSET 0)
    GROUP BY day.schedule
""")


@dataclass(frozen=True, slots=True)
class Overdue:
    """How many tenants of a schedule wait to be planned, and since when the first of them does."""

    tenants: int
    due_since: datetime


def overdue(
    tx: Connection, now: datetime, *, tenant_id: UUID | None = None, catalog: Catalog = CATALOG
) -> dict[str, Overdue]:
    """Schedules with tenants (or this one) that were due more than `GRACE` before `now` and have no run.

    Two statements.
    """
    zones = [row.time_zone for row in tx.execute(ZONES)]
    days = [
        (schedule.name, zone, day)
        for schedule in catalog.schedules.values()
        for zone in zones
        if (day := newest_due(schedule, zone, now - GRACE)) is not None
    ]
    if not days:
        return {}
    rows = tx.execute(
        UNPLANNED,
        {
            "schedules": [schedule for schedule, _, _ in days],
            "zones": [zone for _, zone, _ in days],
            "dates": [day.local_date for _, _, day in days],
            "due": [day.due_at for _, _, day in days],
            "tenant_id": tenant_id,
        },
    )
    return {row.schedule: Overdue(row.tenants, row.due_since) for row in rows}


def newest_due(schedule: Schedule, zone: str, now: datetime) -> DueDay | None:
    """The newest day of a zone whose run has come by `now`; None where this runtime does not know the zone."""
    known = find_zone(zone)
    days = due_days(known, now, local_time=schedule.local_time, catch_up=schedule.catch_up) if known else []
    return days[0] if days else None


def next_due(schedule: Schedule, zone: str, now: datetime) -> datetime | None:
    """When the next run of a zone comes; None where this runtime does not know the zone."""
    known = find_zone(zone)
    if known is None:
        return None
    today = now.astimezone(known).date()
    return min(
        instant
        for ahead in range(3)
        if (instant := local_instant(today + timedelta(days=ahead), schedule.local_time, known)) > now
    )
