"""Plans scheduled jobs: at every tick of a cron rule, the tenants whose local run time has passed get their job, once.

`now` is the scheduled event's own `time`, so that any day can be replayed or simulated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError
from sqlalchemy import Connection, text

from functions.core.catalog import CATALOG, Catalog, Schedule
from functions.core.errors import BadEvent
from functions.db.engine import transaction
from functions.pipeline import observe, relay
from functions.pipeline.due import DueDay, due_days
from functions.pipeline.envelope import describe

JITTER_SECONDS = 900
"""Tenants of one zone start spread over this, each at its own stable second."""

ZONES = text("SELECT DISTINCT time_zone FROM tenants ORDER BY time_zone")

# One statement plans the tick: a run per tenant and local day that has none, and the job of each planned run. The
# primary key of schedule_runs decides between two overlapping ticks.
PLAN = text("""
    WITH day AS (
        SELECT * FROM unnest(CAST(:zones AS text[]), CAST(:dates AS date[]), CAST(:due AS timestamptz[]),
                             CAST(:outcomes AS text[])) AS d(time_zone, local_date, due_at, outcome)
    ), run AS (
        INSERT INTO schedule_runs (schedule, tenant_id, local_date, outcome, due_at, planned_at, job_id)
        SELECT s.name, t.id, day.local_date, day.outcome, day.due_at, :now, CASE WHEN day.outcome = 'planned' THEN
               uuid7(clock_timestamp() + row_number() OVER (ORDER BY day.due_at, t.id) * interval '1 microsecond') END
        FROM schedules s
        CROSS JOIN day
        JOIN tenants t ON t.time_zone = day.time_zone
        WHERE s.name = :schedule AND day.due_at >= greatest(s.enabled_since, t.created_at)
          AND s.enabled_since IS NOT NULL
          AND NOT EXISTS (SELECT FROM schedule_runs r
                          WHERE r.schedule = s.name AND r.tenant_id = t.id AND r.local_date = day.local_date)
        ON CONFLICT DO NOTHING
        RETURNING tenant_id, local_date, outcome, job_id
    ), ordered AS (
        SELECT created FROM enqueue_jobs((
            SELECT coalesce(jsonb_agg(jsonb_build_object(
                'id', job_id, 'type', CAST(:job_type AS text), 'tenant_id', tenant_id,
                'payload', jsonb_build_object('local_date', local_date),
                'correlation_id', CAST(:schedule AS text) || '/' || local_date || '/' || tenant_id,
                'delay_seconds', mod(('x' || left(md5(tenant_id::text), 7))::bit(28)::int, CAST(:jitter AS int)))
                ORDER BY job_id), '[]')
            FROM run WHERE outcome = 'planned'))
    )
    SELECT (SELECT count(*) FROM ordered WHERE created) AS planned,
           (SELECT count(*) FROM run WHERE outcome = 'missed') AS missed
""")


class Detail(BaseModel):
    """What a replay may say; EventBridge's own events have an empty detail."""

    model_config = ConfigDict(frozen=True)

    jitter: bool = True


class ScheduledEvent(BaseModel):
    """What an EventBridge rule sends (https://docs.aws.amazon.com/eventbridge/latest/userguide/eb-run-lambda-schedule.html)."""

    model_config = ConfigDict(frozen=True)

    source: str
    detail_type: Annotated[Literal["Scheduled Event"], Field(alias="detail-type")]
    time: AwareDatetime
    detail: Detail = Detail()


@dataclass(frozen=True, slots=True)
class Plan:
    """What one tick did; `unknown_zones` have tenants but no rules in this runtime's tzdata."""

    planned: int
    missed: int
    unknown_zones: tuple[str, ...]


def read_event(event: Any) -> ScheduledEvent:
    """Validate a cron rule's event. Raises `BadEvent` that says what is expected."""
    try:
        return ScheduledEvent.model_validate(event)
    except ValidationError as error:
        raise BadEvent(
            f"this function serves EventBridge scheduled events ({{'detail-type': 'Scheduled Event', 'time': …}};"
            f" events/ holds a sample): {describe(error)}"
        ) from None


def run(event: Any, context: Any = None, *, schedule: str, catalog: Catalog = CATALOG) -> dict[str, Any]:
    """Serve a cron rule's event: plan in one transaction, then send what was planned. Returns the counts.

    `context` is the invocation's: what cannot be sent in its time is left to the relay.
    """
    tick = read_event(event)
    row = catalog.schedules[schedule]
    with observe.span("plan", schedule=schedule), transaction() as tx:
        plan = plan_tick(tx, row, tick.time, jitter=tick.detail.jitter)
    sent = 0
    if plan.planned:
        queue = catalog.job_type(row.job_type).queue
        sent = relay.drain(within=relay.drain_seconds(context), queue=queue, catalog=catalog).sent
    tally = observe.Tally()
    tally.add("RunsPlanned", plan.planned, schedule=schedule)
    tally.add("RunsMissed", plan.missed, schedule=schedule)
    tally.add("UnknownTimeZones", len(plan.unknown_zones), schedule=schedule)
    tally.flush()
    counts: dict[str, Any] = {"planned": plan.planned, "missed": plan.missed, "sent": sent}
    observe.logger().info("tick_planned", schedule=schedule, tick=tick.time.isoformat(), **counts)
    return counts


def plan_tick(tx: Connection, schedule: Schedule, now: datetime, *, jitter: bool) -> Plan:
    """Plan every tenant's run that has come due by `now`: two statements, whatever the tenants."""
    zones = [row.time_zone for row in tx.execute(ZONES)]
    days, unknown = _due(zones, schedule, now)
    if not days:
        return Plan(0, 0, unknown)
    counts = tx.execute(
        PLAN,
        {
            "schedule": schedule.name,
            "job_type": schedule.job_type,
            "now": now,
            "jitter": JITTER_SECONDS if jitter else 1,
            "zones": [zone for zone, _ in days],
            "dates": [day.local_date for _, day in days],
            "due": [day.due_at for _, day in days],
            "outcomes": [day.outcome for _, day in days],
        },
    ).one()
    return Plan(counts.planned, counts.missed, unknown)


def _due(zones: Sequence[str], schedule: Schedule, now: datetime) -> tuple[list[tuple[str, DueDay]], tuple[str, ...]]:
    days: list[tuple[str, DueDay]] = []
    unknown = []
    for name in zones:
        try:
            zone = ZoneInfo(name)
        except (ZoneInfoNotFoundError, ValueError):
            observe.logger().error(
                "unknown_time_zone",
                time_zone=name,
                fix="its tenants are not planned: set tenants.time_zone to the zone's successor in the IANA database",
            )
            unknown.append(name)
            continue
        due = due_days(zone, now, local_time=schedule.local_time, catch_up=schedule.catch_up)
        days += [(name, day) for day in due]
    return days, tuple(unknown)
