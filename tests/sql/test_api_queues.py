"""Pausing, resuming and redriving queues by HTTP: what the row says, and what is said of AWS."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest
from botocore.exceptions import ClientError
from sqlalchemy import Engine, Row, text

from functions.aws import mappings
from functions.aws.mappings import Mapping
from functions.core.job import JobRequest
from functions.pipeline import pausing, relay
from functions.pipeline.settings import settings
from tests.api import Answer, call, token
from tests.harness import Queues, new_tenant, order, work


class Lambdas:
    """Event source mappings as AWS has them: a change takes its time."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.states = {"upkeep": "Enabled", "email": "Enabled"}
        self.refuses = False
        monkeypatch.setattr(mappings, "mapping_of", self.mapping_of)
        monkeypatch.setattr(mappings, "all_mappings", self.all_mappings)
        monkeypatch.setattr(mappings, "client", lambda _: self)

    def mapping_of(self, function_name: str) -> Mapping | None:
        queue = next((name for name in self.states if function_name.endswith(f"-{name}-worker")), None)
        return queue and Mapping(queue, self.states[queue])  # type: ignore[return-value]

    def all_mappings(self) -> dict[str, Mapping]:
        return {settings().worker_function(name): Mapping(name, state) for name, state in self.states.items()}

    def update_event_source_mapping(self, *, UUID: str, Enabled: bool) -> dict[str, str]:  # noqa: N803 - AWS's names
        if self.refuses:
            raise ClientError({"Error": {"Code": "ResourceInUseException"}}, "UpdateEventSourceMapping")
        self.states[UUID] = "Enabling" if Enabled else "Disabling"
        return {"State": self.states[UUID]}

    def settle(self) -> None:
        ends = {"Enabling": "Enabled", "Disabling": "Disabled"}
        self.states = {name: ends.get(state, state) for name, state in self.states.items()}


@pytest.fixture
def lambdas(queues: Queues, monkeypatch: pytest.MonkeyPatch) -> Lambdas:
    return Lambdas(monkeypatch)


@pytest.fixture
def operator(database: Engine) -> str:
    with database.begin() as tx:
        return token(tx, "operator")


def _post(path: str, operator: str, body: Any = None) -> Answer:
    return call("POST", path, token=operator, body=body)


def _row(database: Engine, queue: str = "upkeep") -> Row[Any]:
    with database.begin() as tx:
        return tx.execute(text("SELECT * FROM queues WHERE name = :queue"), {"queue": queue}).one()


def test_a_queue_is_paused_by_its_row_at_once_and_the_answer_says_how_far_aws_is(
    database: Engine, queues: Queues, lambdas: Lambdas, operator: str
) -> None:
    answer = _post("/queues/upkeep/pause", operator, {"reason": "the provider is away"})
    assert answer.status == 202
    assert answer.json["mapping"]["state"] == "Disabling"
    assert (answer.json["paused"], answer.json["reason"]) == (True, "the provider is away")
    row = _row(database)
    assert row.paused_at is not None
    assert (row.paused_by, row.pause_reason) == ("tests-operator", "the provider is away")
    with database.begin() as tx:
        order(tx, JobRequest("upkeep.probe", {}))
    assert relay.drain().sent == 0
    lambdas.settle()
    answer = _post("/queues/upkeep/resume", operator)
    assert (answer.status, answer.json["paused"], answer.json["mapping"]["state"]) == (202, False, "Enabling")
    assert _row(database).paused_at is None
    assert relay.drain().sent == 1
    assert work(queues, "upkeep") == 1


def test_of_two_operators_one_pauses_and_the_other_is_told_who_did(
    database: Engine, lambdas: Lambdas, operator: str
) -> None:
    _post("/queues/upkeep/pause", operator, {})
    with database.begin() as tx:
        other = token(tx, "admin")
    answer = _post("/queues/upkeep/pause", other, {})
    assert (answer.status, answer.json["state"], answer.json["paused_by"]) == (409, "paused", "tests-operator")
    _post("/queues/upkeep/resume", other)
    assert _post("/queues/upkeep/resume", operator).status == 409
    audit = call("GET", "/audit", token=operator).json["items"]
    assert [(row["actor"], row["action"]) for row in reversed(audit)] == [
        ("tests-operator", "queue.pause"),
        ("tests-admin", "queue.resume"),
    ]


def test_a_pause_that_aws_refuses_stands_and_the_sweep_carries_it_out(
    database: Engine, lambdas: Lambdas, operator: str
) -> None:
    lambdas.refuses = True
    answer = _post("/queues/upkeep/pause", operator, {})
    assert (answer.status, answer.json["mapping"]["state"]) == (202, "unknown")
    assert "the sweep will" in answer.json["mapping"]["detail"]
    assert _row(database).paused_at is not None
    assert pausing.put_mappings_in_step() == 0
    lambdas.refuses = False
    assert pausing.put_mappings_in_step() == 1
    assert lambdas.states == {"upkeep": "Disabling", "email": "Enabled"}
    assert pausing.put_mappings_in_step() == 0


def test_a_deployment_that_switches_the_worker_on_does_not_undo_a_pause(
    database: Engine, lambdas: Lambdas, operator: str
) -> None:
    _post("/queues/upkeep/pause", operator, {})
    lambdas.states["upkeep"] = "Enabled"
    assert pausing.put_mappings_in_step() == 1
    assert lambdas.states["upkeep"] == "Disabling"


def test_a_queue_without_a_worker_is_paused_all_the_same(database: Engine, lambdas: Lambdas, operator: str) -> None:
    answer = _post("/queues/email-bulk/pause", operator, {})
    assert (answer.status, answer.json["mapping"]["state"]) == (200, "none")
    assert _row(database, "email-bulk").paused_at is not None


def test_a_redrive_counts_first_and_then_runs_as_a_job_of_its_own(
    database: Engine, queues: Queues, operator: str
) -> None:
    with database.begin() as tx:
        order(tx, *(JobRequest("upkeep.probe", {"give_up": number < 3}) for number in range(4)))
    relay.drain()
    work(queues, "upkeep")
    counted = _post("/queues/upkeep/redrive", operator, {"error_class": "GiveUp"})
    assert (counted.status, counted.json["matched"], counted.json["dead_letters"]) == (200, 3, 3)
    assert counted.json["job"] is None
    order_it = {"error_class": "GiveUp", "per_second": 200, "dry_run": False}
    begun = _post("/queues/upkeep/redrive", operator, order_it)
    assert begun.status == 202
    assert begun.headers["location"] == begun.json["job"]
    again = _post("/queues/upkeep/redrive", operator, order_it)
    assert (again.status, again.json["job"]) == (409, begun.json["job"])
    [row] = call("GET", "/audit", token=operator).json["items"]
    assert (row["action"], row["before"], row["after"]) == (
        "queue.redrive",
        {"dead": 3},
        {"job": begun.json["job"]},
    )
    for _ in range(6):
        with database.begin() as tx:
            tx.execute(text("UPDATE jobs SET run_at = now(), outbox_at = now() WHERE outbox_at IS NOT NULL"))
        relay.drain()
        work(queues, "upkeep")
    job = call("GET", begun.json["job"], token=operator).json
    assert (job["state"], job["result"]["revived"]) == ("completed", 3)


@pytest.mark.parametrize(
    ("body", "where"),
    [
        ({"per_second": 0}, "body.per_second"),
        ({"per_second": 5000}, "body.per_second"),
        ({"tenant_id": "x"}, "body.tenant_id"),
        ({"died_before": "2026-11-24"}, "body.died_before"),
        ({"errors": "Timeout"}, "body.errors"),
    ],
)
def test_a_wrong_redrive_is_refused_with_the_reason(operator: str, body: Any, where: str) -> None:
    answer = _post("/queues/upkeep/redrive", operator, body)
    assert (answer.status, answer.json["errors"][0]["location"]) == (422, where)


@pytest.mark.parametrize(("path", "body"), [("pause", {}), ("resume", None), ("redrive", {})])
def test_who_may_not_is_refused(database: Engine, lambdas: Lambdas, path: str, body: Any) -> None:
    with database.begin() as tx:
        viewer, scoped = token(tx, "viewer"), token(tx, "admin", new_tenant(tx))
        admin = token(tx, "admin")
    for secret in (viewer, scoped):
        assert _post(f"/queues/upkeep/{path}", secret, body).status == 403
    assert _post(f"/queues/{uuid4()}/{path}", admin, body).status == 404
    assert _row(database).paused_at is None
