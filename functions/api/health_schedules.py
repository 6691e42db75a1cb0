"""`GET /health/schedules`: last and next run of each schedule and tenant, what is late, and what was missed."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Annotated, Any
from uuid import UUID

from aws_lambda_powertools.event_handler import Response
from aws_lambda_powertools.event_handler.openapi.params import Query
from sqlalchemy import Row, text

from functions.api import auth, paging, problems, verdict
from functions.api.models import View
from functions.api.paging import DEFAULT_LIMIT, Cursor, Limit
from functions.api.routing import Word, new_router
from functions.api.verdict import JSON, Finding, Status, bad, degraded
from functions.core.catalog import CATALOG
from functions.db.engine import transaction
from functions.pipeline.overdue import ENABLED_SINCE, GRACE, MISSED, Overdue, newest_due, next_due, overdue

router = new_router()

MISSED_WITHIN_DAYS = 7
LATE_SECONDS = 3_600.0

ON = text(f"SELECT name, {ENABLED_SINCE} AS enabled_since FROM schedules AS s")

# A week's runs of each schedule, tenant by tenant through the primary key: OFFSET 0 keeps the planner from reading all.
WEEK = text(f"""
    SELECT s.name, count(r.outcome) FILTER (WHERE {MISSED}) AS missed, max(r.planned_at) AS last_planned_at
    FROM schedules s CROSS JOIN tenants t LEFT JOIN LATERAL (
        SELECT outcome, reason, planned_at FROM schedule_runs
        WHERE schedule = s.name AND tenant_id = t.id AND local_date >= :first_day OFFSET 0
    ) AS r ON true
    WHERE CAST(:tenant_id AS uuid) IS NULL OR t.id = :tenant_id
    GROUP BY s.name
""")

# A tenant whose created_at is no instant of Python's ('infinity') is never due.
RUNS = text("""
    SELECT s.name AS schedule, t.id AS tenant_id, t.time_zone,
        CASE WHEN s.enabled_since < '9999-12-30Z' AND t.created_at < '9999-12-30Z'
             THEN greatest(s.enabled_since, t.created_at, '1970-01-01Z') END AS due_from,
        r.local_date, r.outcome, r.reason, r.due_at, r.planned_at, r.job_id
    FROM schedules s CROSS JOIN tenants t LEFT JOIN LATERAL (
        SELECT * FROM schedule_runs WHERE schedule = s.name AND tenant_id = t.id ORDER BY local_date DESC LIMIT 1
    ) AS r ON true
    WHERE s.name = ANY(CAST(:schedules AS text[]))
      AND (CAST(:tenant_id AS uuid) IS NULL OR t.id = :tenant_id)
      AND (CAST(:after_schedule AS text) IS NULL OR (s.name, t.id) > (:after_schedule, CAST(:after_tenant AS uuid)))
    ORDER BY s.name, t.id LIMIT :limit
""")

ZONES_OF = text("""
    SELECT DISTINCT time_zone FROM tenants WHERE CAST(:tenant_id AS uuid) IS NULL OR id = :tenant_id
""")


class ScheduleHealth(View):
    """One schedule, over all tenants (or the one asked for)."""

    name: str
    job_type: str
    local_time: str
    """Of the tenant's own day."""
    enabled_since: datetime | None
    """Null: it is switched off."""
    last_planned_at: datetime | None
    """In the last seven days."""
    next_due_at: datetime | None
    """For the first tenant."""
    overdue_tenants: int
    overdue_since: datetime | None
    missed_last_week: int
    """Without the days on which it was off."""


class TenantRun(View):
    """A schedule's last run of one tenant, and when the next one comes."""

    schedule: str
    tenant_id: UUID
    time_zone: str
    last_local_date: date | None
    last_outcome: str | None
    """`planned` or `missed`."""
    last_reason: str | None
    """Of a missed one. `off`: the schedule was off; `too_late`: no tick came in time."""
    last_due_at: datetime | None
    last_planned_at: datetime | None
    job_id: UUID | None
    overdue: bool
    next_due_at: datetime | None
    """Null where the schedule is switched off, or this release does not know the time zone."""


class SchedulesHealth(View):
    """The schedules, and a page of their runs."""

    status: Status
    findings: list[Finding]
    schedules: list[ScheduleHealth]
    items: list[TenantRun]
    next_cursor: str | None


@router.get("/health/schedules", summary="Health of the schedules", tags=["Health"], responses=verdict.RESPONSES)
def health_schedules(
    *,
    schedule: Word = None,
    tenant_id: Annotated[UUID | None, Query()] = None,
    limit: Limit = DEFAULT_LIMIT,
    cursor: Cursor = None,
) -> Response[SchedulesHealth]:
    """Late and missed runs, and the last and next run of each tenant. A token of one tenant sees that tenant's."""
    auth.require("viewer")
    if schedule is not None and schedule not in CATALOG.schedules:
        raise problems.invalid("query.schedule", f"there are: {', '.join(sorted(CATALOG.schedules))}")
    names = [schedule] if schedule else sorted(CATALOG.schedules)
    scope = auth.scope(tenant_id)
    query = ["health/schedules", names, scope]
    after = paging.decode(query, cursor, str, UUID) or [None, None]
    now = datetime.now(UTC)
    asked = {"tenant_id": scope, "first_day": now.date() - timedelta(days=MISSED_WITHIN_DAYS)}
    page = {"schedules": names, "after_schedule": after[0], "after_tenant": after[1], "limit": limit + 1}
    with transaction() as tx:
        on = {row.name: row.enabled_since for row in tx.execute(ON)}
        week = {row.name: row for row in tx.execute(WEEK, asked)}
        late = overdue(tx, now, tenant_id=scope)
        rows = tx.execute(RUNS, {**asked, **page}).all()
        zones = [row.time_zone for row in tx.execute(ZONES_OF, {"tenant_id": scope})]
    shown = [
        _schedule(name, enabled_since=on.get(name), week=week.get(name), late=late.get(name), zones=zones, now=now)
        for name in names
    ]
    findings = [finding for item in shown for finding in _findings(item, now)]
    return Response(
        verdict.http_status(findings),
        content_type=JSON,
        body=SchedulesHealth(
            status=verdict.status_of(findings),
            findings=findings,
            schedules=shown,
            items=[_run(row, now) for row in rows[:limit]],
            next_cursor=_next(query, rows, limit),
        ),
    )


def _next(query: object, rows: Sequence[Row[Any]], limit: int) -> str | None:
    if len(rows) <= limit:
        return None
    return paging.encode(query, [rows[limit - 1].schedule, rows[limit - 1].tenant_id])


def _schedule(
    name: str,
    *,
    enabled_since: datetime | None,
    week: Row[Any] | None,
    late: Overdue | None,
    zones: Sequence[str],
    now: datetime,
) -> ScheduleHealth:
    row = CATALOG.schedules[name]
    due = [instant for zone in zones if (instant := next_due(row, zone, now)) is not None]
    return ScheduleHealth(
        name=name,
        job_type=row.job_type,
        local_time=f"{row.local_time:%H:%M}",
        enabled_since=enabled_since,
        last_planned_at=week.last_planned_at if week else None,
        next_due_at=min(due, default=None) if enabled_since else None,
        overdue_tenants=late.tenants if late else 0,
        overdue_since=late.due_since if late else None,
        missed_last_week=week.missed if week else 0,
    )


def _run(row: Row[Any], now: datetime) -> TenantRun:
    schedule = CATALOG.schedules[row.schedule]
    due = newest_due(schedule, row.time_zone, now - GRACE) if row.due_from else None
    return TenantRun(
        schedule=row.schedule,
        tenant_id=row.tenant_id,
        time_zone=row.time_zone,
        last_local_date=row.local_date,
        last_outcome=row.outcome,
        last_reason=row.reason,
        last_due_at=row.due_at,
        last_planned_at=row.planned_at,
        job_id=row.job_id,
        overdue=due is not None
        and due.due_at >= row.due_from
        and (row.local_date is None or row.local_date < due.local_date),
        next_due_at=next_due(schedule, row.time_zone, now) if row.due_from else None,
    )


def _findings(item: ScheduleHealth, now: datetime) -> list[Finding]:
    found = []
    if item.overdue_since is not None:
        waited = (now - item.overdue_since).total_seconds()
        told = f"{item.overdue_tenants} tenants wait for {item.name}, the first for {waited:.0f} s"
        found.append((bad if waited > LATE_SECONDS else degraded)(told, "schedule-did-not-run"))
    if item.missed_last_week:
        told = f"{item.missed_last_week} runs of {item.name} were missed in the last week"
        found.append(degraded(told, "schedule-did-not-run"))
    return found
