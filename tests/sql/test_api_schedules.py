"""Schedules by HTTP: what runs daily, and running it by hand, once per tenant and day unless forced."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import Engine, text

from functions.core.catalog import CATALOG
from functions.pipeline.conservation import conservation
from functions.pipeline.schedule import plan_tick
from tests.api import Answer, call, token
from tests.harness import new_tenant

NAME = "daily-compliance-refresh"
PATH = f"/schedules/{NAME}/run"


@pytest.fixture
def tenants(database: Engine) -> list[UUID]:
    with database.begin() as tx:
        return [new_tenant(tx, zone=zone) for zone in ("UTC", "Pacific/Kiritimati", "Pacific/Pago_Pago")]


@pytest.fixture
def operator(database: Engine) -> str:
    with database.begin() as tx:
        return token(tx, "operator")


def _run(operator: str, **body: Any) -> Answer:
    return call("POST", PATH, token=operator, body={"dry_run": False, **body})


def _runs(database: Engine) -> dict[UUID, Any]:
    with database.begin() as tx:
        rows = tx.execute(
            text(
                "SELECT r.*, j.payload ->> 'local_date' AS ordered_for, j.state FROM schedule_runs r"
                " JOIN jobs j ON j.id = r.job_id"
            )
        )
        return {row.tenant_id: row for row in rows}


def test_every_schedule_of_the_catalogue_is_listed(database: Engine, operator: str) -> None:
    items = call("GET", "/schedules", token=operator).json["items"]
    assert [item["name"] for item in items] == list(CATALOG.schedules)
    [item] = [item for item in items if item["name"] == NAME]
    assert (item["local_time"], item["job_type"], item["queue"]) == (
        "02:00",
        "compliance.refresh",
        "compliance-refresh",
    )
    assert item["enabled_since"] is not None


def test_a_run_by_hand_is_for_each_tenants_own_today_and_once(
    database: Engine, operator: str, tenants: list[UUID]
) -> None:
    counted = call("POST", PATH, token=operator, body={}).json
    assert (counted["dry_run"], counted["tenants"], counted["planned"]) == (True, 3, 3)
    assert _runs(database) == {}
    answer = _run(operator)
    assert (answer.status, answer.json["planned"], answer.json["already"]) == (200, 3, 0)
    runs = _runs(database)
    for tenant, zone in zip(tenants, ("UTC", "Pacific/Kiritimati", "Pacific/Pago_Pago"), strict=True):
        with database.begin() as tx:
            today = tx.execute(text("SELECT (now() AT TIME ZONE :zone)::date"), {"zone": zone}).scalar_one()
        assert runs[tenant].local_date == today
        assert runs[tenant].ordered_for == today.isoformat()
    again = _run(operator).json
    assert (again["planned"], again["already"]) == (0, 3)
    [_, row] = call("GET", "/audit", token=operator).json["items"]
    assert (row["action"], row["after"], row["target"]) == ("schedule.run", {"planned": 3}, f"/schedules/{NAME}")
    with database.begin() as tx:
        assert conservation(tx).holds


def test_with_force_a_day_runs_again(database: Engine, operator: str, tenants: list[UUID]) -> None:
    day = (datetime.now(UTC).date() - timedelta(days=3)).isoformat()
    first = _run(operator, tenants=[str(tenants[0])], local_date=day)
    before = _runs(database)[tenants[0]]
    second = _run(operator, tenants=[str(tenants[0])], local_date=day, force=True)
    after = _runs(database)[tenants[0]]
    assert (first.json["planned"], second.json["planned"]) == (1, 1)
    assert before.job_id != after.job_id
    assert after.ordered_for == day
    assert set(_runs(database)) == {tenants[0]}


def test_a_missed_day_is_made_up_for_without_force(database: Engine, operator: str, tenants: list[UUID]) -> None:
    today = datetime.now(UTC).date()
    with database.begin() as tx:
        tx.execute(
            text(
                "INSERT INTO schedule_runs (schedule, tenant_id, local_date, outcome, due_at, planned_at)"
                " VALUES (:name, :tenant, :day, 'missed', now(), now())"
            ),
            {"name": NAME, "tenant": tenants[0], "day": today},
        )
    assert _run(operator, local_date=today.isoformat()).json["planned"] == 3
    assert _runs(database)[tenants[0]].outcome == "planned"


def test_what_ran_by_hand_is_not_planned_again_by_the_tick(
    database: Engine, operator: str, tenants: list[UUID]
) -> None:
    _run(operator)
    with database.begin() as tx:
        tx.execute(text("UPDATE schedules SET enabled_since = now() - interval '3 days'"))
        days = {row.local_date for row in tx.execute(text("SELECT local_date FROM schedule_runs"))}
        plan_tick(tx, CATALOG.schedules[NAME], datetime.now(UTC), jitter=False)
        doubled = tx.execute(
            text(
                "SELECT count(*) FROM jobs WHERE payload ->> 'local_date' = ANY(:days) GROUP BY tenant_id,"
                " payload ->> 'local_date' HAVING count(*) > 1"
            ),
            {"days": [str(day) for day in days]},
        ).all()
    assert doubled == []


def test_a_schedule_that_is_off_runs_only_with_force(database: Engine, operator: str, tenants: list[UUID]) -> None:
    with database.begin() as tx:
        tx.execute(text("UPDATE schedules SET enabled_since = NULL"))
    answer = _run(operator)
    assert (answer.status, answer.json["state"]) == (409, "off")
    assert _run(operator, force=True).json["planned"] == 3


def test_a_tenants_token_runs_it_for_that_tenant_alone(database: Engine, tenants: list[UUID]) -> None:
    with database.begin() as tx:
        scoped = token(tx, "operator", tenants[1])
    assert _run(scoped, tenants=[str(tenants[0])]).status == 403
    assert _run(scoped).json == {
        "schedule": NAME,
        "dry_run": False,
        "tenants": 1,
        "already": 0,
        "planned": 1,
        "unknown_zones": [],
    }
    assert set(_runs(database)) == {tenants[1]}


@pytest.mark.parametrize(
    ("body", "where"),
    [
        ({"local_date": "2026-02-30"}, "body.local_date"),
        ({"local_date": "1999-01-01"}, "body.local_date"),
        ({"local_date": "9999-01-01"}, "body.local_date"),
        ({"tenants": []}, "body.tenants"),
        ({"tenants": ["x"]}, "body.tenants.0"),
        ({"tenant": str(UUID(int=1))}, "body.tenant"),
    ],
)
def test_a_wrong_run_is_refused_with_the_reason(operator: str, body: Any, where: str) -> None:
    answer = _run(operator, **body)
    assert (answer.status, answer.json["errors"][0]["location"]) == (422, where)


def test_who_may_not_is_refused(database: Engine, operator: str) -> None:
    with database.begin() as tx:
        viewer = token(tx, "viewer")
    assert _run(viewer).status == 403
    assert call("POST", "/schedules/nightly/run", token=operator, body={}).status == 404
    assert _run(operator, tenants=[str(uuid4())]).json["tenants"] == 0
