"""Settings that change around the ticks: every tenant's day has one row with a true reason, and runs once at most."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, time, timedelta
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, Engine, text

from functions.core.catalog import CATALOG, Schedule
from functions.core.clock import local_instant
from functions.pipeline.overdue import overdue
from functions.pipeline.rerun import rerun
from functions.pipeline.schedule import Plan, plan_tick
from tests.harness import new_tenant

DIGEST = CATALOG.schedules["daily-digest"]
"""At 08:30, caught up within 6 hours."""
LONG_AGO = datetime(2000, 1, 1, tzinfo=UTC)
MIDNIGHT = datetime(2026, 11, 24, tzinfo=UTC)
TODAY = MIDNIGHT.date()

RUNS = text("""
    SELECT r.tenant_id, r.local_date, concat_ws(': ', r.outcome, r.reason) AS told, r.due_at
    FROM schedule_runs r WHERE r.schedule = :schedule
""")
JOBS = text("SELECT tenant_id, payload ->> 'local_date' AS day, count(*) AS n FROM jobs GROUP BY 1, 2")


def at(clock: str, day: int = 0) -> datetime:
    return MIDNIGHT + timedelta(days=day, hours=int(clock[:2]), minutes=int(clock[3:]))


def switch(tx: Connection, since: datetime | None) -> None:
    tx.execute(text("UPDATE schedules SET enabled_since = :since"), {"since": since})


def tick(tx: Connection, now: datetime, schedule: Schedule = DIGEST) -> Plan:
    return plan_tick(tx, schedule, now, jitter=False)


def told(tx: Connection, tenant: UUID, schedule: str = DIGEST.name) -> dict[date, str]:
    return {row.local_date: row.told for row in tx.execute(RUNS, {"schedule": schedule}) if row.tenant_id == tenant}


@pytest.fixture
def tx(database: Engine) -> Iterator[Connection]:
    """A transaction in which every schedule has been on for long and the last tick came yesterday at midnight."""
    with database.connect() as connection, connection.begin():
        switch(connection, LONG_AGO)
        tick(connection, at("00:00", -1))
        yield connection


@pytest.fixture
def tenant(tx: Connection) -> UUID:
    return new_tenant(tx, created_at=at("00:00").isoformat())


def test_off_a_minute_before_its_time_and_on_a_minute_after_it_is_recorded_and_does_not_run(
    tx: Connection, tenant: UUID
) -> None:
    tick(tx, at("08:15"))
    switch(tx, None)
    switch(tx, at("08:31"))
    assert tick(tx, at("08:45")) == Plan(0, 0, ())
    assert told(tx, tenant) == {TODAY: "missed: off"}
    assert tick(tx, at("08:45", 1)) == Plan(1, 0, ())


@pytest.mark.parametrize("ticks", [True, False], ids=["ticks go on", "no tick while it is off"])
@pytest.mark.parametrize("days", [1, 7, 8, 30])
def test_off_over_days_each_of_them_is_on_record_as_off(tx: Connection, tenant: UUID, days: int, ticks: bool) -> None:
    tick(tx, at("08:45"))
    switch(tx, None)
    for day in range(1, days + 1) if ticks else ():
        assert tick(tx, at("08:45", day)) == Plan(0, 0, ())
    switch(tx, at("09:00", days))
    assert tick(tx, at("09:15", days)) == Plan(0, 0, ())
    assert tick(tx, at("08:45", days + 1)) == Plan(1, 0, ())
    off = {TODAY + timedelta(days=day): "missed: off" for day in range(1, days + 1)}
    assert told(tx, tenant) == {TODAY: "planned"} | off | {TODAY + timedelta(days=days + 1): "planned"}


def test_an_outage_of_a_hundred_days_is_recorded_by_a_few_ticks_while_today_runs_at_once(
    tx: Connection, tenant: UUID
) -> None:
    tick(tx, at("08:45"))
    for day in (40, 70):
        rerun(tx, DIGEST, tenants=[tenant], day=TODAY + timedelta(days=day))
    back = at("08:45", 100)
    assert tick(tx, back).planned == 1
    for count in range(4):
        tick(tx, back + count * timedelta(minutes=15))
    expected = {TODAY + timedelta(days=day): "missed: too_late" for day in range(1, 100)}
    by_hand = {TODAY + timedelta(days=day): "planned" for day in (0, 40, 70, 100)}
    assert told(tx, tenant) == expected | by_hand


@pytest.mark.parametrize(
    ("moved_to", "first_tick", "expected"),
    [
        (time(2), "08:20", "missed: too_late"),
        (time(2, 20), "08:20", "planned"),
        (time(23), "08:20", None),
        (time(0), "05:59", "planned"),
    ],
)
def test_a_time_that_moved_runs_where_it_can_be_caught_up_and_is_recorded_where_not(
    tx: Connection, tenant: UUID, moved_to: time, first_tick: str, expected: str | None
) -> None:
    assert tick(tx, at("02:15")) == Plan(0, 0, ())
    moved = tick(tx, at(first_tick), replace(DIGEST, local_time=moved_to))
    assert (moved.planned, moved.missed) == (expected == "planned", expected == "missed: too_late")
    assert told(tx, tenant).get(TODAY) == expected
    assert tick(tx, at("23:15"), replace(DIGEST, local_time=moved_to)).planned == (expected is None)


def test_a_time_that_moved_after_the_day_s_run_does_not_run_it_again(tx: Connection, tenant: UUID) -> None:
    assert tick(tx, at("08:30")) == Plan(1, 0, ())
    assert tick(tx, at("23:15"), replace(DIGEST, local_time=time(23))) == Plan(0, 0, ())
    assert tick(tx, at("09:00", 1), replace(DIGEST, local_time=time(1))) == Plan(0, 1, ())
    assert told(tx, tenant) == {TODAY: "planned", TODAY + timedelta(days=1): "missed: too_late"}


def test_a_schedule_that_is_on_from_tomorrow_on_is_off_today(tx: Connection, tenant: UUID) -> None:
    switch(tx, at("00:00", 1))
    assert tick(tx, at("08:45")) == Plan(0, 0, ())
    assert tick(tx, at("08:45", 1)) == Plan(1, 0, ())
    assert told(tx, tenant) == {TODAY: "missed: off", TODAY + timedelta(days=1): "planned"}


@pytest.mark.parametrize(
    ("before", "after"),
    [("Pacific/Pago_Pago", "Pacific/Kiritimati"), ("Pacific/Kiritimati", "Pacific/Pago_Pago")],
)
def test_a_tenant_that_moves_over_the_date_line_loses_no_date_and_has_none_twice(
    tx: Connection, tenant: UUID, before: str, after: str
) -> None:
    move = text("UPDATE tenants SET time_zone = :zone WHERE id = :id")
    tx.execute(move, {"zone": before, "id": tenant})
    for hour in range(0, 96, 4):
        if hour == 48:
            tx.execute(move, {"zone": after, "id": tenant})
        tick(tx, MIDNIGHT + timedelta(hours=hour))
    days = sorted(told(tx, tenant))
    assert days == [days[0] + timedelta(days=count) for count in range(len(days))]
    assert all(row.n == 1 for row in tx.execute(JOBS))


def test_a_day_missed_while_off_runs_by_hand_and_is_no_longer_missed(tx: Connection, tenant: UUID) -> None:
    switch(tx, None)
    tick(tx, at("08:45"))
    assert rerun(tx, DIGEST, day=TODAY).planned == 1
    assert told(tx, tenant) == {TODAY: "planned"}


def test_days_before_the_schedule_existed_have_no_row(tx: Connection) -> None:
    tenant = new_tenant(tx)
    tx.execute(text("DELETE FROM schedules"))
    new = "INSERT INTO schedules (name, enabled_since, exists_since) VALUES (:name, :at, CAST(:at AS timestamptz))"
    tx.execute(text(new), {"name": DIGEST.name, "at": at("08:00")})
    tick(tx, at("08:45"))
    assert told(tx, tenant) == {TODAY: "planned"}


def test_a_schedule_whose_first_tick_comes_weeks_after_it_was_deployed_has_every_day_since(
    database: Engine,
) -> None:
    with database.begin() as tx:
        fresh = tx.execute(text("SELECT exists_since, planned_until, enabled_since FROM schedules")).all()
        assert {len(set(row)) for row in fresh} == {1}, "a new schedule exists, is on and was planned since one instant"
        deployed = fresh[0].enabled_since
        tenant = new_tenant(tx)
        tick(tx, deployed + timedelta(days=20))
        days = sorted(told(tx, tenant))
        assert days[0] in {deployed.date(), deployed.date() + timedelta(days=1)}
        assert days == [days[0] + timedelta(days=count) for count in range(len(days))]
        assert len(days) in {20, 21}


def test_days_that_are_off_alarm_nobody_and_days_that_no_tick_came_for_do(tx: Connection, tenant: UUID) -> None:
    assert DIGEST.name in overdue(tx, at("09:00"), tenant_id=tenant)
    switch(tx, None)
    assert overdue(tx, at("09:00"), tenant_id=tenant) == {}
    switch(tx, at("08:40"))
    assert DIGEST.name not in overdue(tx, at("09:00"), tenant_id=tenant)
    assert DIGEST.name in overdue(tx, at("09:00", 1), tenant_id=tenant)
    tick(tx, at("09:00", 1))
    assert DIGEST.name not in overdue(tx, at("09:00", 1), tenant_id=tenant)


def test_who_holds_a_schedule_s_row_keeps_no_tick_waiting(database: Engine, observer: Engine) -> None:
    with database.begin() as tx:
        switch(tx, LONG_AGO)
        tick(tx, at("00:00"))
        new_tenant(tx, created_at=at("00:00").isoformat())
    with observer.connect() as holder, holder.begin():
        holder.execute(text("SELECT 1 FROM schedules FOR UPDATE"))
        with database.begin() as tx:
            tx.execute(text("SELECT set_config('lock_timeout', '2s', true)"))
            assert tick(tx, at("08:45")) == Plan(1, 0, ())


LIVED_IN = text("""
    INSERT INTO schedule_runs (schedule, tenant_id, local_date, outcome, due_at, planned_at)
    SELECT :schedule, t.id, CAST(:day AS date) - n, 'planned', now(), now()
    FROM tenants t, generate_series(20, 620) AS n
""")
READ = text("SELECT seq_tup_read + idx_tup_fetch FROM pg_stat_xact_user_tables WHERE relname = 'schedule_runs'")


def test_a_tick_reads_a_few_rows_of_each_tenant_however_many_are_recorded(database: Engine) -> None:
    tenants = 100
    with database.begin() as tx:
        switch(tx, LONG_AGO)
        tick(tx, at("00:00", -1))
        for _ in range(tenants):
            new_tenant(tx, created_at=at("00:00", -1).isoformat())
        tx.execute(LIVED_IN, {"schedule": DIGEST.name, "day": TODAY})
        tick(tx, at("08:45", -1))
        tx.execute(text("ANALYZE schedule_runs"))
    with database.begin() as tx:
        before = tx.execute(READ).scalar_one()
        assert tick(tx, at("08:45")).planned == tenants
        overdue(tx, at("09:30"))
        assert tx.execute(READ).scalar_one() - before <= 50 * tenants


# The model: every rule as one would say it, with all that ever happened in a dictionary.

ZONES = ["Pacific/Kiritimati", "Asia/Kathmandu", "Europe/London", "Pacific/Pago_Pago"]
TIMES = [time(0), time(2), time(8, 30), time(23, 45)]
STEPS = [timedelta(minutes=15), timedelta(hours=3), timedelta(hours=11), timedelta(days=1), timedelta(days=9)]
moves = st.lists(
    st.one_of(
        st.tuples(st.just("tick"), st.sampled_from([timedelta(0), timedelta(minutes=20), timedelta(hours=30)])),
        st.tuples(st.just("tick"), st.just(timedelta(0))),
        st.tuples(st.just("wait"), st.sampled_from(STEPS)),
        st.tuples(st.just("wait"), st.sampled_from(STEPS[:4])),
        st.tuples(st.just("off"), st.none()),
        st.tuples(st.just("on"), st.sampled_from([timedelta(0), timedelta(hours=5), timedelta(days=2)])),
        st.tuples(st.just("time"), st.sampled_from(TIMES)),
        st.tuples(st.just("zone"), st.tuples(st.integers(0, 2), st.sampled_from(ZONES))),
        st.tuples(st.just("tenant"), st.sampled_from(ZONES)),
    ),
    min_size=5,
    max_size=40,
)


@dataclass
class Model:
    """What schedule_runs has to hold: a slow planner that asks of every day since the beginning."""

    now: datetime = MIDNIGHT
    enabled_since: datetime | None = LONG_AGO
    schedule: Schedule = DIGEST
    last_tick: datetime = MIDNIGHT
    zones: dict[UUID, str] = field(default_factory=dict)
    created: dict[UUID, datetime] = field(default_factory=dict)
    rows: dict[tuple[UUID, date], str] = field(default_factory=dict)
    before: set[tuple[UUID, date]] = field(default_factory=set)
    """Days whose time came before their tenant was created."""

    def tick(self, now: datetime) -> None:
        for tenant, zone in self.zones.items():
            today = now.astimezone(ZoneInfo(zone)).date()
            # What is older was looked at by an earlier tick.
            oldest = min(today - timedelta(days=7), self.last_tick.date() - timedelta(days=2))
            for back in range((today - oldest).days + 1):
                self._look(tenant, today - timedelta(days=back), ZoneInfo(zone), now)
        self.last_tick = max(self.last_tick, now)

    def _look(self, tenant: UUID, day: date, zone: ZoneInfo, now: datetime) -> None:
        due = local_instant(day, self.schedule.local_time, zone)
        if due > now or (tenant, day) in self.rows:
            return
        if due < self.created[tenant]:
            self.before.add((tenant, day))
        elif self.enabled_since is None or due < self.enabled_since:
            self.rows[tenant, day] = "missed: off"
        elif now - due > self.schedule.catch_up:
            self.rows[tenant, day] = "missed: too_late"
        else:
            self.rows[tenant, day] = "planned"


def act(tx: Connection, model: Model, move: str, what: Any) -> None:
    if move == "wait":
        model.now += what
    elif move == "tick":
        # A tick may be late: its event's time is before now.
        tick(tx, model.now - what, model.schedule)
        model.tick(model.now - what)
    elif move == "time":
        model.schedule = replace(model.schedule, local_time=what)
    elif move == "zone":
        number, zone = what
        tenant = list(model.zones)[number % len(model.zones)]
        model.zones[tenant] = zone
        tx.execute(text("UPDATE tenants SET time_zone = :zone WHERE id = :id"), {"zone": zone, "id": tenant})
    elif move == "tenant":
        made = new_tenant(tx, zone=what, created_at=model.now.isoformat())
        model.zones[made], model.created[made] = what, model.now
    else:
        model.enabled_since = None if move == "off" else model.now + what
        switch(tx, model.enabled_since)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(moves)
def test_whatever_is_changed_between_whatever_ticks_every_day_has_its_one_row(
    database: Engine, plan_of_moves: list[tuple[str, Any]]
) -> None:
    with database.connect() as tx, tx.begin() as never:
        model = Model()
        switch(tx, LONG_AGO)
        act(tx, model, "tenant", "Europe/London")
        tick(tx, MIDNIGHT)
        for move, what in plan_of_moves:
            act(tx, model, move, what)
        act(tx, model, "tick", timedelta(0))
        rows = list(tx.execute(RUNS, {"schedule": DIGEST.name}))
        assert {(row.tenant_id, row.local_date): row.told for row in rows} == model.rows
        planned = {(tenant, day.isoformat()) for (tenant, day), outcome in model.rows.items() if outcome == "planned"}
        assert {(row.tenant_id, row.day): row.n for row in tx.execute(JOBS)} == dict.fromkeys(planned, 1)
        for tenant in model.zones:
            days = sorted(day for owner, day in model.rows if owner == tenant)
            between = {days[0] + timedelta(days=count) for count in range((days[-1] - days[0]).days)} if days else set()
            assert between - set(days) <= {day for owner, day in model.before if owner == tenant}
        never.rollback()
