"""A zone that a later time zone database, or PostgreSQL, no longer has harms nobody but its own tenants."""

from __future__ import annotations

from datetime import UTC, date, datetime, time
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import Engine, text

from functions.core.catalog import CATALOG
from functions.core.clock import find_zone, is_zone
from functions.pipeline.overdue import overdue
from functions.pipeline.rerun import rerun
from functions.pipeline.schedule import plan_tick
from functions.pipeline.zones import known_zone
from tests.api import Ask
from tests.harness import new_tenant
from tests.mail import Post
from tests.notices import Firm, in_days, run

NAME = "daily-compliance-refresh"
GONE = [
    "Mars/Olympus",
    "localtime",
    "Factory",
    "posix/UTC",
    "right/UTC",
    "Europe",
    "x" * 300,
    "../etc/passwd",
    "a\x7fb",
]


@pytest.fixture(autouse=True)
def _forget_what_was_logged() -> None:
    known_zone.cache_clear()


def allow(tx: Any, *zones: str) -> None:
    tx.execute(text("INSERT INTO time_zones SELECT unnest(CAST(:z AS text[])) ON CONFLICT DO NOTHING"), {"z": [*zones]})


@pytest.mark.parametrize("zone", GONE)
def test_a_name_that_is_no_zone_is_none(zone: str) -> None:
    assert find_zone(zone) is None


def test_names_of_a_machines_settings_do_not_become_zones(database: Engine) -> None:
    with database.begin() as tx:
        names = set(tx.execute(text("SELECT name FROM time_zones")).scalars())
    assert {"UTC", "Europe/Madrid", "Asia/Tokyo"} <= names
    assert all(is_zone(name) for name in names)


@pytest.mark.parametrize("zone", ["Mars/Olympus", "localtime"])
def test_run_by_hand_plans_everybody_else_and_names_the_zone(database: Engine, ask: Ask, zone: str) -> None:
    with database.begin() as tx:
        allow(tx, zone)
        lost, known = new_tenant(tx, zone=zone), new_tenant(tx, zone="Asia/Tokyo")
    answer = ask("POST", f"/schedules/{NAME}/run", body={"dry_run": False, "force": True})
    assert answer.status == 200
    assert (answer.json["planned"], answer.json["unknown_zones"]) == (1, [zone])
    assert _planned(database) == {known: datetime.now(UTC).astimezone(find_zone("Asia/Tokyo")).date()}
    alone = ask("POST", f"/schedules/{NAME}/run", body={"dry_run": False, "force": True, "tenants": [str(lost)]})
    assert (alone.json["planned"], alone.json["unknown_zones"]) == (0, [zone])


def test_with_a_date_the_zone_does_not_matter(database: Engine) -> None:
    with database.begin() as tx:
        allow(tx, "Mars/Olympus")
        lost = new_tenant(tx, zone="Mars/Olympus")
        assert rerun(tx, CATALOG.schedules[NAME], day=date(2026, 12, 5)).planned == 1
    assert _planned(database) == {lost: date(2026, 12, 5)}


def test_each_tenant_runs_on_the_day_that_it_has(database: Engine) -> None:
    zones = ["Pacific/Kiritimati", "Pacific/Pago_Pago", "Asia/Kathmandu", "UTC"]
    with database.begin() as tx:
        tenants = {new_tenant(tx, zone=zone): zone for zone in zones}
        before = datetime.now(UTC)
        rerun(tx, CATALOG.schedules[NAME])
    for tenant, day in _planned(database).items():
        zone = find_zone(tenants[tenant])
        assert day in {before.astimezone(zone).date(), datetime.now(UTC).astimezone(zone).date()}


def test_a_tick_and_the_health_of_schedules_pass_it_over(database: Engine, ask: Ask) -> None:
    with database.begin() as tx:
        allow(tx, "Mars/Olympus", "localtime")
        tx.execute(text("UPDATE schedules SET enabled_since = now() - interval '3 days'"))
        new_tenant(tx, zone="Mars/Olympus")
        new_tenant(tx, zone="localtime")
        new_tenant(tx, zone="UTC")
        plan = plan_tick(tx, CATALOG.schedules[NAME], datetime.now(UTC), jitter=False)
        assert plan.unknown_zones == ("Mars/Olympus", "localtime")
        assert plan.planned + plan.missed > 0
        overdue(tx, datetime.now(UTC))
    assert ask("GET", "/health/schedules", role="viewer").status in {200, 503}
    assert ask("GET", "/health/schedules", role="viewer").json["items"]


def test_a_password_reset_goes_out_whatever_became_of_the_zones(post: Post) -> None:
    post.rows("INSERT INTO time_zones VALUES ('Mars/Olympus'), ('Mars/Utopia')")
    for users, tenants in [("Mars/Olympus", "UTC"), (None, "Mars/Utopia"), ("Mars/Olympus", "Mars/Utopia")]:
        post.rows("UPDATE users SET time_zone = :z", z=users)
        post.rows("UPDATE tenants SET time_zone = :z", z=tenants)
        [reset] = post.order(post.reset())
        post.work("email-critical")
        [routine] = post.order(post.custom())
        post.work("email")
        assert (post.job(reset).state, post.row(reset).state) == ("completed", "sent")
        assert (post.job(routine).state, post.row(routine).state) == ("completed", "sent")


def test_a_reader_of_an_unknown_zone_has_the_firms_quiet_hours(firm: Firm, caplog: pytest.LogCaptureFixture) -> None:
    allow(firm.tx, "Mars/Olympus")
    person = firm.person(time_zone="Mars/Olympus", quiet_from=time(0), quiet_until=time(23, 59))
    firm.document(firm.client(person), in_days(7))
    run(firm.tx, "email.document_expiry", firm.id)
    [reader] = run(firm.tx, "email.digests", firm.id).requests
    assert reader.payload["recipient_id"] == str(person)
    assert sum(record.message == "unknown_time_zone" for record in caplog.records) == 1


def test_the_first_known_zone_counts(caplog: pytest.LogCaptureFixture) -> None:
    assert known_zone("Asia/Tokyo", "UTC") == "Asia/Tokyo"
    assert known_zone(None, "Asia/Tokyo") == "Asia/Tokyo"
    assert known_zone("Mars/Olympus", "Asia/Tokyo") == "Asia/Tokyo"
    assert known_zone("Mars/Olympus", "Mars/Olympus") == "UTC"
    assert known_zone(None) == "UTC"
    assert caplog.records


def _planned(database: Engine) -> dict[UUID, date]:
    with database.begin() as tx:
        rows = tx.execute(text("SELECT tenant_id, local_date FROM schedule_runs WHERE outcome = 'planned'"))
        return {row.tenant_id: row.local_date for row in rows}
