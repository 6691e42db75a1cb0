"""`/schedules`: what runs daily, and running it by hand."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Annotated
from uuid import UUID

from aws_lambda_powertools.event_handler.openapi.params import Path
from pydantic import Field
from sqlalchemy import text

from functions.api import actions, auth, problems
from functions.api.identity import Role
from functions.api.models import Body, Page, View
from functions.api.routing import new_router
from functions.core.catalog import CATALOG
from functions.db.engine import transaction
from functions.pipeline.overdue import ENABLED_SINCE, MISSED
from functions.pipeline.rerun import rerun

router = new_router()

OLDEST_DAY = timedelta(days=366)
MOST_TENANTS = 10_000

# The latest run of each: the primary key is by tenant first, so the days that matter are asked for by date.
LIST = text(f"""
    SELECT s.name, {ENABLED_SINCE} AS enabled_since, r.planned, r.missed, r.last_planned_at
    FROM schedules s LEFT JOIN LATERAL (
        SELECT count(*) FILTER (WHERE outcome = 'planned') AS planned,
               count(*) FILTER (WHERE {MISSED}) AS missed,
               max(planned_at) FILTER (WHERE outcome = 'planned') AS last_planned_at
        FROM schedule_runs r
        WHERE schedule = s.name AND local_date >= CAST(:since AS date)
          AND (CAST(:tenant_id AS uuid) IS NULL OR tenant_id = :tenant_id)
    ) AS r ON true
""")


class ScheduleView(View):
    """A daily job per tenant, at a time of the tenant's own day."""

    name: str
    job_type: str
    queue: str
    local_time: str = Field(description="Of the tenant's day, HH:MM.")
    catch_up_hours: float = Field(description="How late a run may still start.")
    enabled_since: datetime | None = Field(description="Null: switched off.")
    planned_lately: int = Field(description="Runs planned for the last two days, over all tenants the token sees.")
    missed_lately: int = Field(description="Of the same days; without those on which it was off.")
    last_planned_at: datetime | None


@router.get("/schedules", summary="Schedules", tags=["Schedules"])
def schedules() -> Page[ScheduleView]:
    """Every schedule of the catalogue. What each tenant's next run is: /health/schedules."""
    caller = auth.require(Role.VIEWER)
    since = datetime.now(UTC).date() - timedelta(days=1)
    with transaction() as tx:
        found = {row.name: row for row in tx.execute(LIST, {"since": since, "tenant_id": caller.tenant_id})}
    items = []
    for schedule in CATALOG.schedules.values():
        row = found.get(schedule.name)
        items.append(
            ScheduleView(
                name=schedule.name,
                job_type=schedule.job_type,
                queue=CATALOG.job_type(schedule.job_type).queue,
                local_time=f"{schedule.local_time:%H:%M}",
                catch_up_hours=schedule.catch_up.total_seconds() / 3600,
                enabled_since=row and row.enabled_since,
                planned_lately=row.planned if row else 0,
                missed_lately=row.missed if row else 0,
                last_planned_at=row and row.last_planned_at,
            )
        )
    return Page(items=items)


class RunOrder(Body):
    """For whom and when a schedule runs."""

    tenants: Annotated[list[UUID], Field(min_length=1, max_length=MOST_TENANTS)] | None = Field(
        default=None, description="Null: all that the token sees."
    )
    local_date: date | None = Field(default=None, description="Null: each tenant's own today.")
    force: bool = Field(default=False, description="Also where that day has run already, or the schedule is off.")
    dry_run: bool = Field(default=True, description="Count only. Look at the count, then say false.")


class RunResult(View):
    """What was ordered, or would be."""

    schedule: str
    dry_run: bool
    tenants: int = Field(description="Tenants meant.")
    already: int = Field(description="Of them, those whose day had been planned before.")
    planned: int = Field(description="Jobs ordered; in a dry run, those that would be.")
    unknown_zones: list[str] = Field(
        description="Time zones of tenants that are left out: no such zone is known here, hence no today of theirs."
    )


@router.post("/schedules/<name>/run", summary="Run a schedule now", tags=["Schedules"])
def run_schedule(name: Annotated[str, Path(max_length=80)], order: RunOrder) -> RunResult:
    """Orders the schedule's job at once, for each tenant's own today or for the date given, once per tenant and day."""
    caller = auth.require(Role.OPERATOR)
    if name not in CATALOG.schedules:
        raise problems.not_found()
    tenants = order.tenants if caller.tenant_id is None else [caller.tenant_id]
    for tenant in order.tenants or ():
        auth.scope(tenant)
    _check_day(order.local_date)
    with transaction() as tx:
        found = tx.execute(LIST, {"since": date.max, "tenant_id": caller.tenant_id})
        enabled = any(row.name == name and row.enabled_since is not None for row in found)
        if not enabled and not order.force:
            raise problems.conflict("this schedule is switched off: run it with force", state="off")
        done = rerun(
            tx,
            CATALOG.schedules[name],
            tenants=tenants,
            day=order.local_date,
            force=order.force,
            dry_run=order.dry_run,
        )
        if not order.dry_run:
            actions.record(
                tx,
                caller,
                action="schedule.run",
                target=f"/schedules/{name}",
                tenant_id=caller.tenant_id,
                request=order.model_dump(mode="json"),
                before={"already": done.already},
                after={"planned": done.planned},
                result=f"{done.planned} ordered",
            )
    would = done.tenants if order.force else done.tenants - done.already
    return RunResult(
        schedule=name,
        dry_run=order.dry_run,
        tenants=done.tenants,
        already=done.already,
        planned=would if order.dry_run else done.planned,
        unknown_zones=list(done.unknown_zones),
    )


def _check_day(day: date | None) -> None:
    today = datetime.now(UTC).date()
    if day is not None and not today - OLDEST_DAY <= day <= today + timedelta(days=1):
        raise problems.invalid("body.local_date", "it is a day of the last year, tomorrow at the latest")
