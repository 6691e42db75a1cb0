"""Planning in SQL: every tenant's run once, at its own local time, whatever ticks come, fail or overlap."""

from __future__ import annotations

import time as clock
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy import Connection, Engine, event, text

from functions.core.catalog import CATALOG
from functions.core.clock import local_instant
from functions.pipeline.schedule import Plan, plan_tick
from tests.harness import new_tenant

SCHEDULE = CATALOG.schedules["daily-compliance-refresh"]
TICK = timedelta(minutes=15)
TWO_AM = datetime(2026, 11, 24, 2, tzinfo=UTC)
LONG_AGO = datetime(2000, 1, 1, tzinfo=UTC)


@pytest.fixture
def tx(database: Engine) -> Iterator[Connection]:
    """A transaction in which the schedule has been on for ever."""
    with database.connect() as connection, connection.begin():
        switch_on(connection)
        yield connection


def switch_on(tx: Connection, since: datetime | None = LONG_AGO) -> None:
    tx.execute(text("UPDATE schedules SET enabled_since = :since"), {"since": since})


def plan(tx: Connection, now: datetime, *, jitter: bool = False) -> Plan:
    return plan_tick(tx, SCHEDULE, now, jitter=jitter)


def runs(tx: Connection, tenant: UUID) -> dict[date, str]:
    found = tx.execute(
        text("SELECT local_date, concat_ws(': ', outcome, reason) FROM schedule_runs WHERE tenant_id = :tenant"),
        {"tenant": tenant},
    )
    return dict(map(tuple, found))


def age(tx: Connection, tenant: UUID, created_at: datetime) -> UUID:
    tx.execute(text("UPDATE tenants SET created_at = :at WHERE id = :id"), {"at": created_at, "id": tenant})
    return tenant


def test_a_run_is_planned_at_the_first_tick_of_its_local_time_and_never_again(tx: Connection) -> None:
    tenant = age(tx, new_tenant(tx), TWO_AM - timedelta(hours=20))
    assert plan(tx, TWO_AM - TICK) == Plan(0, 0, ())
    assert plan(tx, TWO_AM) == Plan(1, 0, ())
    assert [plan(tx, TWO_AM + count * TICK).planned for count in range(8)] == [0] * 8
    assert runs(tx, tenant) == {date(2026, 11, 24): "planned"}


def test_a_planned_run_is_a_job_of_the_tenant_for_its_own_local_date(tx: Connection) -> None:
    tenant = new_tenant(tx, zone="Pacific/Kiritimati", created_at="2026-11-23T00:00:00Z")
    now = datetime(2026, 11, 23, 12, tzinfo=UTC)  # 02:00 of the 24th there
    assert plan(tx, now).planned == 1
    row = tx.execute(text("SELECT j.* FROM jobs j JOIN schedule_runs r ON r.job_id = j.id")).one()
    assert (row.type, row.queue, row.state, row.tenant_id) == (
        "compliance.refresh",
        "compliance-refresh",
        "waiting",
        tenant,
    )
    assert row.payload == {"local_date": "2026-11-24"}
    assert row.correlation_id == f"daily-compliance-refresh/2026-11-24/{tenant}"


def test_a_new_tenant_does_not_get_the_run_of_a_time_that_was_past_when_it_came(tx: Connection) -> None:
    late, early = (age(tx, new_tenant(tx), TWO_AM + shift) for shift in (timedelta(seconds=1), timedelta(0)))
    assert plan(tx, TWO_AM + TICK).planned == 1
    assert (runs(tx, late), runs(tx, early)) == ({}, {date(2026, 11, 24): "planned"})
    assert plan(tx, TWO_AM + timedelta(days=1)).planned == 2


def test_a_schedule_switched_on_does_not_fire_what_was_past_then_but_records_it(tx: Connection) -> None:
    tenant = age(tx, new_tenant(tx), TWO_AM - timedelta(hours=1))
    switch_on(tx, TWO_AM + timedelta(hours=1))
    assert plan(tx, TWO_AM + timedelta(hours=2)) == Plan(0, 0, ())
    assert plan(tx, TWO_AM + timedelta(days=1)) == Plan(1, 0, ())
    assert runs(tx, tenant) == {date(2026, 11, 24): "missed: off", date(2026, 11, 25): "planned"}


def test_a_schedule_switched_off_plans_nothing_and_records_that_it_was_off(tx: Connection) -> None:
    tenant = age(tx, new_tenant(tx), TWO_AM - timedelta(hours=1))
    switch_on(tx, None)
    assert plan(tx, TWO_AM) == Plan(0, 0, ())
    assert runs(tx, tenant) == {date(2026, 11, 24): "missed: off"}


def test_after_an_outage_what_can_be_caught_up_is_planned_and_the_rest_recorded_as_missed(tx: Connection) -> None:
    tenant = age(tx, new_tenant(tx), TWO_AM - timedelta(hours=1))
    assert plan(tx, TWO_AM) == Plan(1, 0, ())
    late = TWO_AM + timedelta(days=3) + SCHEDULE.catch_up
    assert plan(tx, late) == Plan(1, 2, ())
    assert runs(tx, tenant) == {
        date(2026, 11, 24): "planned",
        date(2026, 11, 25): "missed: too_late",
        date(2026, 11, 26): "missed: too_late",
        date(2026, 11, 27): "planned",
    }
    assert plan(tx, late) == Plan(0, 0, ())
    missed = tx.execute(text("SELECT count(*) FROM schedule_runs WHERE outcome = 'missed' AND job_id IS NOT NULL"))
    assert missed.scalar_one() == 0
    assert plan(tx, TWO_AM + timedelta(days=4)) == Plan(1, 0, ())


def _delays(tx: Connection) -> dict[UUID, float]:
    found = tx.execute(
        text("""
            SELECT tenant_id, extract(epoch FROM run_at - created_at)::float8 AS delay FROM jobs
            WHERE state = 'delayed'
        """)
    )
    return {row.tenant_id: row.delay for row in found}


def test_the_jitter_spreads_tenants_over_a_quarter_of_an_hour_each_at_its_own_second(tx: Connection) -> None:
    tenants = [new_tenant(tx) for _ in range(200)]
    plan(tx, TWO_AM, jitter=True)
    first = _delays(tx)
    # The rows were made a moment after the transaction began, from which created_at counts.
    moment = 5
    assert all(0 < delay < 900 + moment for delay in first.values())
    assert len({round(delay) for delay in first.values()}) > 100
    assert max(first.values()) - min(first.values()) > 600
    tx.execute(text("DELETE FROM jobs"))
    plan(tx, TWO_AM + timedelta(days=1), jitter=True)
    second = _delays(tx)
    assert all(abs(second[tenant] - first[tenant]) < moment for tenant in tenants if tenant in first)


def test_a_replay_runs_at_once(tx: Connection) -> None:
    for _ in range(50):
        new_tenant(tx)
    assert plan(tx, TWO_AM, jitter=False).planned == 50
    assert _delays(tx) == {}


def test_a_zone_without_rules_is_named_and_keeps_nobody_else_from_being_planned(
    tx: Connection,
) -> None:
    tx.execute(text("INSERT INTO time_zones VALUES ('Mars/Olympus')"))
    stranded, fine = (age(tx, new_tenant(tx, zone=zone), TWO_AM - TICK) for zone in ("Mars/Olympus", "UTC"))
    assert plan(tx, TWO_AM) == Plan(1, 0, ("Mars/Olympus",))
    assert (runs(tx, stranded), runs(tx, fine)) == ({}, {date(2026, 11, 24): "planned"})


def test_a_zone_nobody_can_name_is_no_zone_for_a_tenant(database: Engine) -> None:
    from sqlalchemy.exc import DBAPIError

    with pytest.raises(DBAPIError, match="tenants_time_zone_fkey"), database.begin() as tx:
        new_tenant(tx, zone="Mars/Olympus")


@contextmanager
def counted(engine: Engine) -> Iterator[list[str]]:
    statements: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        statements.append(statement)

    event.listen(engine, "before_cursor_execute", note)
    yield statements
    event.remove(engine, "before_cursor_execute", note)


@pytest.mark.parametrize("tenants", [10, 1000])
def test_a_tick_costs_two_statements_whatever_the_tenants(database: Engine, tenants: int) -> None:
    with database.begin() as tx:
        switch_on(tx)
        zones = ["UTC", "Europe/London", "Africa/Abidjan", "America/New_York", "Asia/Kathmandu"]
        tx.execute(
            text("""
                INSERT INTO tenants (name, time_zone, created_at)
                SELECT 'Firm', zone, CAST(:at AS timestamptz)
                FROM unnest(CAST(:zones AS text[])) AS zone, generate_series(1, :each)
            """),
            {"zones": zones, "each": tenants // 5, "at": TWO_AM - timedelta(hours=1)},
        )
        with counted(database) as statements:
            assert plan(tx, TWO_AM).planned == tenants * 3 // 5
        assert len(statements) == 2


def test_of_two_overlapping_ticks_one_plans(database: Engine, observer: Engine) -> None:
    with database.begin() as tx:
        switch_on(tx)
        for _ in range(20):
            new_tenant(tx)
    with ThreadPoolExecutor(1) as other, observer.begin() as first:
        assert plan(first, TWO_AM).planned == 20
        overlapping = other.submit(_in_own_transaction, observer, TWO_AM + TICK)
        clock.sleep(0.2)
        assert not overlapping.done(), "the second tick did not wait for the first"
        first.commit()
        assert overlapping.result(timeout=10).planned == 0
    assert _counts(observer) == (20, 20)


def test_when_the_first_of_two_overlapping_ticks_fails_the_other_plans(database: Engine, observer: Engine) -> None:
    with database.begin() as tx:
        switch_on(tx)
        new_tenant(tx)
    with ThreadPoolExecutor(1) as other, observer.connect() as first, first.begin() as doomed:
        assert plan(first, TWO_AM).planned == 1
        overlapping = other.submit(_in_own_transaction, observer, TWO_AM)
        clock.sleep(0.1)
        doomed.rollback()
        assert overlapping.result(timeout=10).planned == 1
    assert _counts(observer) == (1, 1)


def test_ticks_that_race_plan_each_run_once(database: Engine, observer: Engine) -> None:
    with database.begin() as tx:
        switch_on(tx)
        for _ in range(50):
            new_tenant(tx)
    with ThreadPoolExecutor(4) as threads:
        plans = list(threads.map(lambda n: _in_own_transaction(observer, TWO_AM + n * TICK), range(12)))
    assert sum(found.planned for found in plans) == 50
    assert _counts(observer)[1] == 50


def _in_own_transaction(engine: Engine, now: datetime) -> Plan:
    with engine.begin() as tx:
        return plan(tx, now)


def _counts(engine: Engine) -> tuple[int, int]:
    with engine.begin() as tx:
        planned = tx.execute(text("SELECT count(*) FROM schedule_runs WHERE outcome = 'planned'")).scalar_one()
        return planned, tx.execute(text("SELECT count(*) FROM jobs")).scalar_one()


TWO_YEARS = [date(2017, 1, 1) + timedelta(days=days) for days in range(730)]
YEARS_ZONES = ["Australia/Lord_Howe", "America/New_York", "Africa/Casablanca", "Pacific/Apia"]


@pytest.mark.slow
def test_in_two_years_each_local_date_is_planned_exactly_once(tx: Connection) -> None:
    due = {local_instant(day, SCHEDULE.local_time, ZoneInfo(zone)) for day in TWO_YEARS for zone in YEARS_ZONES}
    # At all other ticks nothing changes, as tests/unit shows for each of them.
    ticks = due | {at - TICK for at in due} | {at + TICK for at in due}
    since = min(due) - TICK
    tenants = {zone: age(tx, new_tenant(tx, zone=zone), since) for zone in YEARS_ZONES}
    planned_at = {now: plan(tx, now) for now in sorted(ticks)}
    assert {now for now, found in planned_at.items() if found.planned} == due
    assert sum(found.missed for found in planned_at.values()) == 0
    for zone, tenant in tenants.items():
        assert runs(tx, tenant) == dict.fromkeys(TWO_YEARS, "planned"), zone
    assert tx.execute(text("SELECT count(*) FROM jobs")).scalar_one() == len(YEARS_ZONES) * len(TWO_YEARS)
