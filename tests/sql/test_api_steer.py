"""Jobs over HTTP: ordered, paused, resumed, retried and removed, one or many."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import Engine

from functions.pipeline import relay
from functions.pipeline.conservation import conservation
from tests.api import Ask, call, die, execute, ids_of, ordered, probes, token
from tests.harness import Queues, job, new_tenant, work

pytestmark = pytest.mark.usefixtures("queue_prefix")


def test_an_order_by_http_runs(database: Engine, queues: Queues, ask: Ask) -> None:
    answer = ask("POST", "/jobs", body={"type": "upkeep.probe", "payload": {"note": "by http"}})
    assert answer.status == 201
    assert answer.json["created"] is True
    assert answer.headers["location"] == f"/jobs/upkeep/{answer.json['id']}"
    relay.drain()
    work(queues, "upkeep")
    assert ask("GET", answer.headers["location"]).json["state"] == "completed"


def test_an_idempotency_key_orders_once_and_refuses_another_payload(database: Engine, ask: Ask) -> None:
    body = {"type": "upkeep.probe", "payload": {"note": "once"}}
    headers = {"Idempotency-Key": "4711"}
    first, second = (ask("POST", "/jobs", body=body, headers=headers) for _ in range(2))
    assert (first.status, second.status) == (201, 200)
    assert (second.json["id"], second.json["created"]) == (first.json["id"], False)
    other = ask("POST", "/jobs", body=body | {"payload": {"note": "twice"}}, headers=headers)
    assert other.status == 422
    assert other.json["errors"][0]["location"] == "header.Idempotency-Key"
    # Another caller's key is another key.
    assert ask("POST", "/jobs", body=body, headers=headers, role="admin").status == 201


@pytest.mark.parametrize(
    ("key", "extra", "where"),
    [
        ("", {}, "header.Idempotency-Key"),
        ("k" * 201, {}, "header.Idempotency-Key"),
        ("\x00", {}, "header.Idempotency-Key"),
        ("é", {}, "header.Idempotency-Key"),
        ("k", {"dedup_key": "k"}, "body.dedup_key"),
        ("k", {"dedup_window_seconds": 60}, "body.dedup_window_seconds"),
    ],
)
def test_a_wrong_idempotency_key_is_refused(ask: Ask, key: str, extra: dict[str, Any], where: str) -> None:
    body = {"type": "upkeep.probe", "payload": {}, **extra}
    answer = ask("POST", "/jobs", body=body, headers={"Idempotency-Key": key})
    assert answer.status == 422
    assert answer.json["errors"][0]["location"].lower() == where.lower()


@pytest.mark.parametrize(
    ("body", "status", "where"),
    [
        ({"type": "nobody.knows", "payload": {}}, 422, "body.type"),
        ({"type": "upkeep.probe", "payload": {"note": 5}}, 422, "body.payload"),
        ({"type": "upkeep.probe", "payload": []}, 422, "body.payload"),
        ({"type": "upkeep.probe"}, 422, "body.payload"),
        ({"type": "upkeep.probe", "payload": {}, "priority": 2}, 422, "body.priority"),
        ({"type": "upkeep.probe", "payload": {}, "run_at": "2026-11-24T08:00:00"}, 422, "body.run_at"),
        ({"type": "upkeep.probe", "payload": {}, "colour": "red"}, 422, "body.colour"),
        (
            {"type": "upkeep.probe", "payload": {}, "run_at": "2026-11-24T08:00:00Z", "delay_seconds": 5},
            422,
            "body",
        ),
        ({"type": "upkeep.probe", "payload": {}, "dedup_window_seconds": 5}, 422, "body"),
    ],
)
def test_a_wrong_order_is_refused_with_the_reason(ask: Ask, body: Any, status: int, where: str) -> None:
    answer = ask("POST", "/jobs", body=body)
    assert (answer.status, answer.json["errors"][0]["location"]) == (status, where)


@pytest.mark.parametrize(
    "wrong",
    [
        {"run_at": "2199-01-01T00:00:00Z"},
        {"run_at": "0001-01-01T00:00:00+14:00"},
        {"run_at": "9999-12-31T23:59:59-14:00"},
        {"deadline_at": "2199-01-01T00:00:00Z"},
        {"delay_seconds": 4e8},
        {"delay_seconds": -1},
        {"correlation_id": "c" * 257},
        {"dedup_key": "k", "dedup_window_seconds": 1e12},
        {"payload": {"note": "x" * 300_000}},
    ],
    ids=", ".join,
)
def test_an_order_beyond_the_limits_is_refused_and_nothing_is_stored(
    database: Engine, ask: Ask, wrong: dict[str, object]
) -> None:
    answer = ask("POST", "/jobs", body={"type": "upkeep.probe", "payload": {}} | wrong)
    assert answer.status == 422, answer.text
    assert ids_of(ask("GET", "/jobs/upkeep")) == []


def test_a_job_is_paused_resumed_and_removed_each_with_its_row_in_the_audit(database: Engine, ask: Ask) -> None:
    with database.begin() as tx:
        tenant = new_tenant(tx)
    [job_id] = ordered(database, *probes(1, tenant_id=tenant))
    path = f"/jobs/upkeep/{job_id}"
    said = [ask("POST", f"{path}/{action}") for action in ("pause", "resume", "remove", "remove")]
    assert [(answer.status, answer.json.get("before"), answer.json.get("after")) for answer in said[:3]] == [
        (200, "waiting", "paused"),
        (200, "paused", "waiting"),
        (200, "waiting", "cancelled"),
    ]
    assert (said[3].status, said[3].json["state"]) == (409, "cancelled")
    audit = ask("GET", "/audit").json["items"]
    assert [(row["action"], row["result"], row["target"], row["tenant_id"]) for row in reversed(audit)] == [
        ("job.pause", "done", path, str(tenant)),
        ("job.resume", "done", path, str(tenant)),
        ("job.remove", "done", path, str(tenant)),
        ("job.remove", "refused", path, str(tenant)),
    ]
    assert (audit[1]["before"], audit[1]["after"]) == ({"state": "waiting"}, {"state": "cancelled"})
    with database.begin() as tx:
        assert conservation(tx).holds


@pytest.mark.parametrize(
    ("state", "action"),
    [
        ("completed", "retry"),
        ("completed", "remove"),
        ("active", "pause"),
        ("active", "retry"),
        ("waiting", "resume"),
        ("paused", "pause"),
        ("paused", "retry"),
        ("dead", "pause"),
        ("cancelled", "remove"),
    ],
)
def test_what_a_state_does_not_allow_is_a_conflict_that_names_the_state(
    database: Engine, ask: Ask, state: str, action: str
) -> None:
    [job_id] = ordered(database, *probes(1))
    if state in {"active", "completed"}:
        execute(database, "UPDATE jobs SET state = 'active', claim_token = id")
    if state == "completed":
        execute(database, "UPDATE jobs SET state = 'completed', claim_token = NULL, closed_at = now()")
    if state in {"paused", "cancelled"}:
        ask("POST", f"/jobs/upkeep/{job_id}/{'pause' if state == 'paused' else 'remove'}")
    if state == "dead":
        die(database, [job_id])
    answer = ask("POST", f"/jobs/upkeep/{job_id}/{action}")
    assert (answer.status, answer.json["state"]) == (409, state)
    assert state not in answer.json["allowed_from"]
    with database.begin() as tx:
        assert job(tx, job_id).state == state


def test_viewers_steer_nothing(database: Engine, ask: Ask) -> None:
    [job_id] = ordered(database, *probes(1))
    for path in (f"/jobs/upkeep/{job_id}/pause", "/jobs/upkeep/pause", "/jobs"):
        body = {"type": "upkeep.probe", "payload": {}} if path == "/jobs" else {} if path.count("/") == 3 else None
        assert ask("POST", path, role="viewer", body=body).status == 403, path
    with database.begin() as tx:
        assert job(tx, job_id).state == "waiting"


def test_a_tenants_token_sees_and_steers_its_own_jobs_alone(database: Engine) -> None:
    with database.begin() as tx:
        own, other = new_tenant(tx), new_tenant(tx)
        secret = token(tx, "admin", own)
    mine, theirs, nobodys = ordered(database, *probes(1, tenant_id=own), *probes(1, tenant_id=other), *probes(1))
    assert ids_of(call("GET", "/jobs/upkeep", token=secret)) == [str(mine)]
    assert call("GET", "/jobs/upkeep", token=secret, query={"tenant_id": str(other)}).status == 403
    for hidden in (theirs, nobodys):
        assert call("GET", f"/jobs/upkeep/{hidden}", token=secret).status == 404
        assert call("POST", f"/jobs/upkeep/{hidden}/remove", token=secret).status == 404
    everything = {"dry_run": False}
    assert call("POST", "/jobs/upkeep/remove", token=secret, body=everything).json["changed"] == 1
    assert call("POST", "/jobs", token=secret, body={"type": "upkeep.probe", "payload": {}}).status == 403
    body = {"type": "compliance.refresh", "payload": {"local_date": "2026-11-24"}}
    assert call("POST", "/jobs", token=secret, body={**body, "tenant_id": str(other)}).status == 403
    made = call("POST", "/jobs", token=secret, body=body)
    assert made.status == 201
    with database.begin() as tx:
        assert job(tx, UUID(made.json["id"])).tenant_id == own
        assert [job(tx, found).state for found in (mine, theirs, nobodys)] == ["cancelled", "waiting", "waiting"]


def test_many_jobs_are_counted_first_and_then_changed(database: Engine, ask: Ask) -> None:
    dead = ordered(database, *probes(12))
    die(database, dead[:8])
    die(database, dead[8:], "Other")
    waiting = ordered(database, *probes(3, delay_seconds=600))
    order_it = {"filter": {"error_class": "Timeout"}}
    counted = ask("POST", "/jobs/upkeep/retry", body=order_it).json
    assert (counted["dry_run"], counted["matched"], counted["changed"], counted["more"]) == (True, 8, 0, False)
    part = ask("POST", "/jobs/upkeep/retry", body={**order_it, "dry_run": False, "limit": 5}).json
    assert (part["matched"], part["changed"], part["more"]) == (8, 5, True)
    rest = ask("POST", "/jobs/upkeep/retry", body={**order_it, "dry_run": False}).json
    assert (rest["matched"], rest["changed"], rest["more"]) == (3, 3, False)
    with database.begin() as tx:
        assert {job(tx, found).state for found in dead[:8]} == {"waiting"}
        assert {job(tx, found).state for found in dead[8:]} == {"dead"}
        assert {job(tx, found).state for found in waiting} == {"delayed"}
        assert conservation(tx).holds
    [last, _] = ask("GET", "/audit").json["items"]
    assert (last["action"], last["before"], last["after"]) == ("jobs.retry", {"dead": 3}, {"waiting": 3})


def test_a_retry_of_many_leaves_what_waits_for_its_time(database: Engine, ask: Ask) -> None:
    dead = ordered(database, *probes(2))
    die(database, dead)
    delayed = ordered(database, *probes(2, delay_seconds=600))
    found = ask("POST", "/jobs/upkeep/retry", body={"dry_run": False}).json
    assert (found["changed"], found["other_states"]) == (2, {"delayed": 2})
    found = ask("POST", "/jobs/upkeep/retry", body={"dry_run": False, "filter": {"state": "delayed"}}).json
    assert found["changed"] == 2
    with database.begin() as tx:
        assert {job(tx, job_id).state for job_id in delayed} == {"waiting"}


def test_a_dead_job_whose_key_is_taken_is_a_conflict_alone_and_counted_among_many(database: Engine, ask: Ask) -> None:
    stuck, free = ordered(database, *(probe for n in range(2) for probe in probes(1, dedup_key=f"k{n}")))
    die(database, [stuck, free])
    execute(database, "DELETE FROM job_keys")
    [newer] = ordered(database, *probes(1, dedup_key="k0", delay_seconds=3600))
    answer = ask("POST", f"/jobs/upkeep/{stuck}/retry")
    assert (answer.status, answer.json["state"]) == (409, "dead")
    assert "a newer job holds its deduplication key" in answer.json["detail"]
    seen = [ask("POST", "/jobs/upkeep/retry", body={"dry_run": dry}).json for dry in (True, False)]
    assert [(item["matched"], item["key_taken"], item["changed"], item["more"]) for item in seen] == [
        (2, 1, 0, False),
        (2, 1, 1, False),
    ]
    # What cannot be revived does not stand in the way of what can.
    die(database, [free])
    limited = ask("POST", "/jobs/upkeep/retry", body={"dry_run": False, "limit": 1}).json
    assert (limited["changed"], limited["key_taken"]) == (1, 1)
    ask("POST", f"/jobs/upkeep/{newer}/remove")
    assert ask("POST", f"/jobs/upkeep/{stuck}/retry").json["after"] == "waiting"


def test_many_runs_are_acted_on_only_where_their_lease_is_over(database: Engine, ask: Ask) -> None:
    ids = ordered(database, *probes(3))
    execute(
        database,
        "UPDATE jobs SET state = 'active', claim_token = id, runs = 1, started_at = now(), lease_until = now() + "
        "CASE WHEN id = (SELECT id FROM jobs ORDER BY id LIMIT 1) THEN -1 ELSE 1 END * interval '1 minute'",
    )
    seen = ask("POST", "/jobs/upkeep/remove", body={"dry_run": False}).json
    assert (seen["matched"], seen["changed"], seen["more"], seen["other_states"]) == (1, 1, False, {"active": 2})
    with database.begin() as tx:
        assert [job(tx, found).state for found in sorted(ids)] == ["cancelled", "active", "active"]
        assert conservation(tx).holds


def test_a_payload_that_is_no_object_keeps_nobody_from_removing_many(database: Engine, ask: Ask) -> None:
    ordered(database, *probes(3))
    execute(database, "UPDATE jobs SET payload = '\"text\"' WHERE id = (SELECT id FROM jobs LIMIT 1)")
    answer = ask("POST", "/jobs/upkeep/remove", body={"dry_run": False})
    assert (answer.status, answer.json["changed"]) == (200, 3)
