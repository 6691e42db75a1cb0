"""Two tenants, a token of the first: asked for what is the second's, the API answers as if it were not there."""

from __future__ import annotations

import json
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import Engine, text

from functions.api.app import application
from functions.api.openapi import document
from tests.api import Answer, call, jobs_of, token
from tests.harness import Queues, new_tenant

MARK = "zebra-4711"
"""Stands in every text of the second tenant."""
BODIES: dict[str, Any] = {
    "/queues/{queue}/redrive": {"dry_run": False},
    "/schedules/{name}/run": {},
    "/jobs": {"type": "upkeep.probe", "payload": {}},
}


def operations() -> list[tuple[str, str]]:
    paths: dict[str, Any] = document(application())["paths"]
    return [(method.upper(), path) for path, methods in paths.items() for method in methods]


@pytest.fixture
def tenants(database: Engine, queues: Queues) -> tuple[UUID, UUID]:
    with database.begin() as tx:
        own, other = new_tenant(tx), new_tenant(tx)
        jobs_of(tx, own, "own")
        jobs_of(tx, other, MARK)
    return own, other


@pytest.fixture
def scoped(database: Engine, tenants: tuple[UUID, UUID]) -> str:
    with database.begin() as tx:
        return token(tx, "admin", tenants[0])


def ask(method: str, path: str, secret: str, job_id: UUID, **query: Any) -> Answer:
    asked = path.format(queue="upkeep", job_id=job_id, name="daily-digest")
    body = BODIES.get(path, {}) if method == "POST" else None
    return call(method, asked, token=secret, query=query, body=body)


def state_of(observer: Engine, tenant_id: UUID) -> list[Any]:
    with observer.begin() as tx:
        return list(tx.execute(text("SELECT * FROM jobs WHERE tenant_id = :id ORDER BY id"), {"id": tenant_id}))


@pytest.mark.parametrize(("method", "path"), operations(), ids=str)
def test_no_operation_shows_or_touches_another_tenant(
    tenants: tuple[UUID, UUID], scoped: str, observer: Engine, method: str, path: str
) -> None:
    _, other = tenants
    theirs = state_of(observer, other)
    dead = next(row.id for row in theirs if row.state == "dead")
    nowhere = uuid4()
    found, missing = ask(method, path, scoped, dead), ask(method, path, scoped, nowhere)
    assert found.status < 500
    if "{job_id}" in path:  # the same answer, whether it is the other tenant's or nobody's
        assert found.status == 404
        assert found.text.replace(str(dead), "") == missing.text.replace(str(nowhere), "")
    assert MARK not in found.text
    assert str(other) not in found.text
    assert state_of(observer, other) == theirs


@pytest.mark.parametrize("path", ["/jobs/upkeep", "/audit", "/errors", "/health/schedules"])
def test_asking_for_the_other_tenant_by_name_is_refused(tenants: tuple[UUID, UUID], scoped: str, path: str) -> None:
    assert ask("GET", path, scoped, uuid4(), tenant_id=tenants[1]).status == 403
    assert ask("GET", path, scoped, uuid4(), tenant_id=tenants[0]).status == 200


@pytest.mark.parametrize("path", ["/health/queues", "/health/database", "/health/workers", "/metrics"])
def test_what_is_counted_over_all_tenants_is_not_for_a_token_of_one(scoped: str, path: str) -> None:
    assert call("GET", path, token=scoped).status == 403


@pytest.mark.parametrize("action", ["pause", "resume", "redrive"])
def test_a_whole_queue_is_not_steered_by_a_token_of_one_tenant(scoped: str, action: str) -> None:
    sent: dict[str, Any] = {} if action == "resume" else {"body": {}}
    assert call("POST", f"/queues/upkeep/{action}", token=scoped, **sent).status == 403


def test_a_bulk_action_counts_and_changes_the_token_s_tenant_alone(
    tenants: tuple[UUID, UUID], scoped: str, observer: Engine
) -> None:
    own, other = tenants
    theirs = state_of(observer, other)
    bodies: tuple[dict[str, Any], ...] = ({}, {"dry_run": False})
    for body in bodies:
        answer = call("POST", "/jobs/upkeep/remove", token=scoped, body=body)
        assert (answer.status, answer.json["matched"]) == (200, 5), answer.text
    assert state_of(observer, other) == theirs
    assert {row.state for row in state_of(observer, own) if row.queue == "upkeep"} == {"cancelled"}
    refused = call("POST", "/jobs/upkeep/remove", token=scoped, body={"filter": {"tenant_id": str(other)}})
    assert refused.status == 403


def test_a_cursor_of_one_token_does_not_open_the_other_tenant(
    tenants: tuple[UUID, UUID], scoped: str, database: Engine
) -> None:
    with database.begin() as tx:
        everywhere = token(tx, "admin")
    page = call("GET", "/jobs/upkeep", token=everywhere, query={"limit": 1}).json
    assert page["next_cursor"]
    answer = call("GET", "/jobs/upkeep", token=scoped, query={"cursor": page["next_cursor"]})
    assert answer.status == 422
    assert MARK not in answer.text


def test_an_order_is_for_the_token_s_tenant(tenants: tuple[UUID, UUID], scoped: str, observer: Engine) -> None:
    own, other = tenants
    order = {"type": "compliance.refresh", "payload": {"local_date": "2026-11-24"}}
    made = call("POST", "/jobs", token=scoped, body=order)
    assert made.status == 201
    with observer.begin() as tx:
        assert tx.scalar(text("SELECT tenant_id FROM jobs WHERE id = :id"), {"id": made.json["id"]}) == own
    assert call("POST", "/jobs", token=scoped, body=order | {"tenant_id": str(other)}).status == 403


def test_listing_shows_all_of_one_s_own(tenants: tuple[UUID, UUID], scoped: str) -> None:
    items = call("GET", "/jobs/upkeep", token=scoped).json["items"]
    assert len(items) == 5
    assert {item["tenant_id"] for item in items} == {str(tenants[0])}
    assert MARK not in json.dumps(items)
