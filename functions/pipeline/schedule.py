"""Plans scheduled jobs: at every tick of a cron rule, the tenants whose local run time has passed get their job, once.

`now` is the scheduled event's own `time`, so that any day can be replayed or simulated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError
from sqlalchemy import Connection, text

from functions.core.catalog import CATALOG, Catalog, Schedule
from functions.core.errors import BadEvent
from functions.db.deadline import deadline
from functions.db.engine import transaction
from functions.pipeline import observe, relay
from functions.pipeline.due import DueDay, due_days, planned_after
from functions.pipeline.envelope import describe
from functions.pipeline.zones import zone_of_tenants

JITTER_SECONDS = 900
"""Tenants of one zone start spread over this, each at its own stable second."""

ZONES = text("""
    SELECT time_zone, (SELECT planned_until FROM schedules WHERE name = :schedule) AS planned_until
    FROM tenants GROUP BY time_zone ORDER BY time_zone
""")

# One statement plans the tick: a run per tenant and local day that has none, and the job of each planned run. The
# primary key of schedule_runs decides between two overlapping ticks. What came due before the schedule was switched on
# is recorded and does not run. A tenant's rows are looked up by their key, once, as an array: as a join, the planner
# might read all that were ever recorded. `planned_until` moves once a day, which is enough to go on from, and who holds
# its row keeps nobody waiting: the next tick moves it.
PLAN = text("""
    WITH day AS (
        SELECT * FROM unnest(CAST(:zones AS text[]), CAST(:dates AS date[]), CAST(:due AS timestamptz[]),
                             CAST(:outcomes AS text[])) AS d(time_zone, local_date, due_at, outcome)
    ), tenant AS MATERIALIZED (
        SELECT t.id, t.time_zone, s.enabled_since, greatest(s.exists_since, t.created_at) AS first_at,
            ARRAY(SELECT r.local_date FROM schedule_runs r
                  WHERE r.schedule = :schedule AND r.tenant_id = t.id AND r.local_date BETWEEN :first AND :last
            ) AS recorded
        FROM schedules s CROSS JOIN tenants t
        WHERE s.name = :schedule
    ), wanted AS (
        SELECT tenant.id AS tenant_id, day.local_date, day.due_at,
            CASE WHEN day.due_at < coalesce(tenant.enabled_since, 'infinity') THEN 'off'
                 WHEN day.outcome = 'missed' THEN 'too_late' END AS reason
        FROM tenant JOIN day ON day.time_zone = tenant.time_zone
        WHERE day.due_at >= tenant.first_at AND day.local_date <> ALL(tenant.recorded)
    ), run AS (
        INSERT INTO schedule_runs (schedule, tenant_id, local_date, outcome, reason, due_at, planned_at, job_id)
        SELECT :schedule, tenant_id, local_date, CASE WHEN reason IS NULL THEN 'planned' ELSE 'missed' END, reason,
               due_at, :now, CASE WHEN reason IS NULL THEN
               uuid7(clock_timestamp() + row_number() OVER (ORDER BY due_at, tenant_id) * interval '1 microsecond') END
        FROM wanted
        ORDER BY tenant_id, local_date
        ON CONFLICT DO NOTHING
        RETURNING tenant_id, local_date, outcome, reason, job_id
    ), ordered AS (
        SELECT created FROM enqueue_jobs((
            SELECT coalesce(jsonb_agg(jsonb_build_object(
                'id', job_id, 'type', CAST(:job_type AS text), 'tenant_id', tenant_id,
                'payload', jsonb_build_object('local_date', local_date),
                'correlation_id', concat_ws('/', CAST(:schedule AS text), to_char(local_date, 'YYYY-MM-DD'), tenant_id),
                'delay_seconds', mod(('x' || left(md5(tenant_id::text), 7))::bit(28)::int, CAST(:jitter AS int)))
                ORDER BY job_id), '[]')
            FROM run WHERE outcome = 'planned'))
    ), free AS MATERIALIZED (
        SELECT name FROM schedules
        WHERE name = :schedule
          AND coalesce(planned_until, '-infinity') < CAST(:planned_until AS timestamptz) - interval '1 day'
        FOR NO KEY UPDATE SKIP LOCKED
    ), moved AS (
        UPDATE schedules SET planned_until = :planned_until FROM free WHERE schedules.name = free.name
    )
    SELECT (SELECT count(*) FROM ordered WHERE created) AS planned,
           (SELECT count(*) FROM run WHERE reason = 'too_late') AS missed
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
    """Days that came due too long ago. Those on which the schedule was off are recorded, too, and not counted here."""
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


def run(event: Any, context: Any, *, schedule: str, catalog: Catalog = CATALOG) -> dict[str, Any]:
    """Serve a cron rule's event: plan in one transaction, then send what was planned. Returns the counts.

    `context` is the invocation's, or None: what cannot be sent in its time is left to the relay.
    """
    tick = read_event(event)
    row = catalog.schedules[schedule]
    sent = 0
    with deadline(context):
        with observe.span("plan", schedule=schedule), transaction() as tx:
            plan = plan_tick(tx, row, tick.time, jitter=tick.detail.jitter)
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
    """Record every tenant's day that has come due by `now`, and plan its run where it may still run.

    Two statements, whatever the tenants and however long no tick came.
    """
    zones = tx.execute(ZONES, {"schedule": schedule.name}).all()
    planned_until: datetime | None = zones[0].planned_until if zones else None
    days, unknown = _due([row.time_zone for row in zones], schedule, now, planned_until)
    if not days:
        return Plan(0, 0, unknown)
    counts = tx.execute(
        PLAN,
        {
            "schedule": schedule.name,
            "job_type": schedule.job_type,
            "now": now,
            "jitter": JITTER_SECONDS if jitter else 1,
            # Where a zone is unknown, its tenants' days are not recorded: they are when it is put right.
            "planned_until": None if unknown else planned_after(now, planned_until),
            "zones": [zone for zone, _ in days],
            "dates": [day.local_date for _, day in days],
            "due": [day.due_at for _, day in days],
            "outcomes": [day.outcome for _, day in days],
            "first": min(day.local_date for _, day in days),
            "last": max(day.local_date for _, day in days),
        },
    ).one()
    return Plan(counts.planned, counts.missed, unknown)


def _due(
    zones: Sequence[str], schedule: Schedule, now: datetime, planned_until: datetime | None
) -> tuple[list[tuple[str, DueDay]], tuple[str, ...]]:
    days: list[tuple[str, DueDay]] = []
    unknown = []
    for name in zones:
        zone = zone_of_tenants(name)
        if zone is None:
            unknown.append(name)
            continue
        due = due_days(
            zone, now, local_time=schedule.local_time, catch_up=schedule.catch_up, planned_until=planned_until
        )
        days += [(name, day) for day in due]
    return days, tuple(unknown)
