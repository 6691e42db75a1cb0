"""The health pages: what is well, what is not, and what they say when AWS or the database is not there."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, text

from functions.api.health_workers import FUNCTIONS
from functions.core.catalog import CATALOG
from functions.pipeline import vitals
from functions.pipeline.heartbeat import beat
from functions.pipeline.sweep import fold
from tests import api
from tests.contract.test_template import HANDLERS
from tests.harness import Queues, new_tenant, order, probe

PAGES = ["/health/queues", "/health/database", "/health/workers", "/health/schedules", "/errors", "/metrics"]
EVERYWHERE = ["/health/queues", "/health/database", "/health/workers", "/metrics"]


@pytest.fixture
def viewer(observer: Engine) -> str:
    with observer.begin() as tx:
        return api.token(tx, "viewer")


def get(path: str, token: str, **query: Any) -> api.Answer:
    return api.call("GET", path, token=token, query=query)


def run(observer: Engine, statement: str, **values: Any) -> None:
    with observer.begin() as tx:
        tx.execute(text(statement), values)


def beats(observer: Engine) -> None:
    """As if relay and sweep had just done their rounds."""
    with observer.begin() as tx:
        beat(tx, "relay", {"sent": 0})
    vitals.measure(datetime.now(UTC), conservation=True)


def reasons(found: Any) -> set[str]:
    return {item["reason"] for item in found["findings"]}


def of_queue(found: Any, name: str) -> Any:
    [queue] = [queue for queue in found["queues"] if queue["name"] == name]
    return queue


@pytest.mark.parametrize("path", PAGES)
def test_a_page_needs_a_token(path: str, queues: Queues, observer: Engine) -> None:
    assert api.call("GET", path).status == 401


@pytest.mark.parametrize("path", EVERYWHERE)
def test_what_covers_every_tenant_is_not_for_a_token_of_one(path: str, queues: Queues, observer: Engine) -> None:
    with observer.begin() as tx:
        scoped = api.token(tx, "admin", new_tenant(tx))
    assert get(path, scoped).status == 403


def test_all_is_well(queues: Queues, observer: Engine, viewer: str) -> None:
    with observer.begin() as tx:
        order(tx, probe(), probe())
    beats(observer)
    answer = get("/health/queues", viewer)
    assert (answer.status, answer.json["findings"], answer.json["status"]) == (200, [], "ok")
    assert {queue["name"] for queue in answer.json["queues"]} == set(CATALOG.queues)
    upkeep = of_queue(answer.json, "upkeep")
    assert (upkeep["waiting"], upkeep["visible"], upkeep["dead_letters"]) == (2, 0, 0)
    assert answer.json["conservation"] is True


def test_silence_is_found(queues: Queues, observer: Engine, viewer: str) -> None:
    answer = get("/health/queues", viewer)
    assert (answer.status, answer.json["status"]) == (200, "degraded")
    assert reasons(answer.json) == {"the relay was never heard of", "the sweep was never heard of"}
    beats(observer)
    run(observer, "UPDATE heartbeats SET at = now() - interval '200 seconds' WHERE name = 'relay'")
    answer = get("/health/queues", viewer)
    assert (answer.status, answer.json["status"]) == (503, "bad")
    assert [item["runbook"] for item in answer.json["findings"]] == ["docs/runbooks/heartbeat.md"]


def test_what_waits_is_dead_paused_or_stuck_is_found(queues: Queues, observer: Engine, viewer: str) -> None:
    with observer.begin() as tx:
        old, dead, *_ = order(tx, probe(), probe(), probe())
        tx.execute(
            text("UPDATE jobs SET state = 'active', claim_token = gen_random_uuid() WHERE id = :id"), {"id": dead}
        )
        tx.execute(
            text("UPDATE jobs SET state = 'dead', claim_token = NULL, died_at = now() WHERE id = :id"), {"id": dead}
        )
        tx.execute(
            text(
                "UPDATE jobs SET run_at = now() - interval '2 hours', outbox_at = NULL, sent_at = now() WHERE id = :id"
            ),
            {"id": old},
        )
    queues.send("email-bulk", "whatever")
    beats(observer)
    answer = get("/health/queues", viewer)
    assert answer.status == 503
    upkeep = of_queue(answer.json, "upkeep")
    assert (upkeep["waiting"], upkeep["dead"], upkeep["stuck"]) == (2, 1, 1)
    assert 7200 <= upkeep["oldest_wait_seconds"] < 7300
    assert {"1 jobs of upkeep are stuck", "1 jobs of upkeep are dead"} <= reasons(answer.json)
    assert of_queue(answer.json, "email-bulk")["visible"] == 1

    run(
        observer,
        "UPDATE queues SET paused_at = now(), paused_by = 'ana', pause_reason = 'a bad release' WHERE name = 'upkeep'",
    )
    beats(observer)
    answer = get("/health/queues", viewer)
    assert answer.status == 200
    assert reasons(answer.json) == {"upkeep is paused by ana: a bad release", "1 jobs of upkeep are dead"}


def test_what_is_not_sent_is_found_unless_its_queue_is_paused(queues: Queues, observer: Engine, viewer: str) -> None:
    with observer.begin() as tx:
        order(tx, probe())
    run(observer, "UPDATE jobs SET outbox_at = now() - interval '10 minutes', run_at = now() - interval '10 minutes'")
    beats(observer)
    answer = get("/health/queues", viewer)
    assert answer.status == 503
    assert 600 <= answer.json["outbox_age_seconds"] < 700
    run(observer, "UPDATE queues SET paused_at = now() WHERE name = 'upkeep'")
    assert get("/health/queues", viewer).json["outbox_age_seconds"] == 0


def test_the_oldest_wait_is_known_behind_thousands_that_are_not_due(
    queues: Queues, observer: Engine, viewer: str
) -> None:
    with observer.begin() as tx:
        order(tx, *[probe() for _ in range(2_100)])
        [waits] = order(tx, probe())
        later = "run_at = now() + interval '1 day', outbox_at = now() + interval '1 day'"
        tx.execute(text(f"UPDATE jobs SET {later} WHERE id <> :id"), {"id": waits})
        tx.execute(text("UPDATE jobs SET run_at = now() - interval '40 minutes' WHERE id = :id"), {"id": waits})
    beats(observer)
    upkeep = of_queue(get("/health/queues", viewer).json, "upkeep")
    assert 2400 <= upkeep["oldest_wait_seconds"] < 2500


def test_throughput_is_measured_between_sweeps(queues: Queues, observer: Engine, viewer: str) -> None:
    beats(observer)
    beats(observer)
    run(
        observer,
        "INSERT INTO job_run_deltas (type, outcome, measure, bucket, runs, seconds)"
        " VALUES ('upkeep.probe', 'completed', 'duration', 3, 600, 6), ('upkeep.probe', 'dead', 'duration', 3, 9, 1)",
    )
    run(
        observer,
        "UPDATE heartbeats SET report = jsonb_set(report, '{before,at}',"
        " to_jsonb((now() - interval '10 minutes')::text)) WHERE name = 'sweep'",
    )
    found = of_queue(get("/health/queues", viewer).json, "upkeep")
    assert 59 <= found["finished_per_minute"] <= 60
    fold()
    assert 59 <= of_queue(get("/health/queues", viewer).json, "upkeep")["finished_per_minute"] <= 60


def test_the_ledger_is_shown_when_aws_does_not_answer(
    database: Engine, observer: Engine, viewer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from functions.aws.clients import client
    from functions.pipeline.settings import settings

    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setenv("QUEUE_URL_PREFIX", "http://127.0.0.1:9/000000000000/nowhere-")
    client.cache_clear()
    settings.cache_clear()
    beats(observer)
    try:
        answer = get("/health/queues", viewer)
        assert (answer.status, answer.json["status"]) == (200, "degraded")
        assert of_queue(answer.json, "upkeep")["visible"] is None
        workers = get("/health/workers", viewer)
        assert workers.status == 200
        assert {item["invocations"] for item in workers.json["functions"]} == {None}
    finally:
        client.cache_clear()
        settings.cache_clear()


def test_the_database_is_well_and_is_not(queues: Queues, observer: Engine, viewer: str) -> None:
    answer = get("/health/database", viewer)
    assert answer.status == 200, answer.text
    assert answer.json["revision"] == answer.json["expected_revision"]
    run(observer, "UPDATE alembic_version SET version_num = '0001'")
    answer = get("/health/database", viewer)
    assert answer.status == 503
    assert [item["runbook"] for item in answer.json["findings"]] == ["docs/runbooks/migration-failed.md"]


def test_the_workers_are_those_of_the_template() -> None:
    assert set(FUNCTIONS) == set(HANDLERS)


def test_schedules_say_what_was_planned_missed_and_is_late(queues: Queues, observer: Engine, viewer: str) -> None:
    today = datetime.now(UTC).date()
    with observer.begin() as tx:
        one, other = new_tenant(tx), new_tenant(tx, zone="Asia/Kathmandu")
        tx.execute(text("UPDATE schedules SET enabled_since = now() - interval '10 days'"))
        _planned(tx, one, today - timedelta(days=3), "missed")
        for schedule in CATALOG.schedules:
            for day in (0, 1):
                _planned(tx, one, today - timedelta(days=day), "planned", schedule)
    answer = get("/health/schedules", viewer)
    assert answer.status == 503
    assert len(answer.json["items"]) == 12
    assert answer.json["next_cursor"] is None
    digest = next(item for item in answer.json["schedules"] if item["name"] == "daily-digest")
    assert (digest["overdue_tenants"], digest["missed_last_week"]) == (1, 1)
    late = {(item["schedule"], item["tenant_id"]) for item in answer.json["items"] if item["overdue"]}
    assert late == {(schedule, str(other)) for schedule in CATALOG.schedules}

    first = get("/health/schedules", viewer, limit=7)
    rest = get("/health/schedules", viewer, limit=7, cursor=first.json["next_cursor"])
    assert first.json["items"] + rest.json["items"] == answer.json["items"]

    with observer.begin() as tx:
        scoped = api.token(tx, "viewer", one)
    own = get("/health/schedules", scoped)
    assert own.status == 200
    assert {item["tenant_id"] for item in own.json["items"]} == {str(one)}
    assert {item["overdue_tenants"] for item in own.json["schedules"]} == {0}
    assert get("/health/schedules", scoped, tenant_id=str(other)).status == 403
    assert get("/health/schedules", viewer, schedule="nonsense").status == 422


def _planned(tx: Connection, tenant: Any, day: Any, outcome: str, schedule: str = "daily-digest") -> None:
    tx.execute(
        text(
            "INSERT INTO schedule_runs (schedule, tenant_id, local_date, outcome, due_at, planned_at)"
            " VALUES (:schedule, :tenant, :day, :outcome, now(), now())"
        ),
        {"schedule": schedule, "tenant": tenant, "day": day, "outcome": outcome},
    )


def test_errors_are_grouped_by_what_they_have_in_common(queues: Queues, observer: Engine, viewer: str) -> None:
    with observer.begin() as tx:
        tenant, other = new_tenant(tx), new_tenant(tx)
        jobs = order(tx, *[probe() for _ in range(4)])
        tx.execute(text("UPDATE jobs SET tenant_id = :t"), {"t": tenant})
        tx.execute(text("UPDATE jobs SET tenant_id = :t WHERE id = :id"), {"t": other, "id": jobs[3]})
        told = [
            f"client 17 of {tenant} has no 'address'",
            f"client 4 of {other} has no 'phone'",
            "mail to ana@example.com refused",
            "mail to bob@example.com refused",
        ]
        for number, (job_id, error) in enumerate(zip(jobs, told, strict=True)):
            tx.execute(
                text(
                    "INSERT INTO job_attempts (job_id, run, outcome, counted, error_class, error)"
                    " VALUES (:id, :run, 'failed', true, 'Broken', :error)"
                ),
                {"id": job_id, "run": number + 1, "error": error},
            )
    groups = get("/errors", viewer).json
    assert groups["complete"] is True
    shapes = {(group["jobs"], group["error_class"]) for group in groups["items"]}
    assert (2, "Broken") in shapes
    assert "example.com" not in json.dumps(groups)

    with observer.begin() as tx:
        scoped = api.token(tx, "viewer", other)
    [own] = get("/errors", scoped).json["items"]
    assert (own["jobs"], own["example_job_id"]) == (1, str(jobs[3]))
    assert get("/errors", viewer, error_class="Other").json["items"] == []
    assert get("/errors", viewer, since="2999-01-01T00:00:00Z").json["items"] == []
