"""GET /metrics and what the sweep emits: the numbers are those of the ledger, before and after it folds."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import Engine, text

from duecourse.local.delivery import Context
from functions.core.buckets import DURATION_BOUNDS
from functions.core.catalog import CATALOG
from functions.pipeline import relay, sweep, vitals
from tests import api
from tests.harness import Queues, order, probe, work


def samples(token: str) -> dict[str, dict[tuple[tuple[str, str], ...], float]]:
    """Every sample of a scrape, by name and labels."""
    answer = api.call("GET", "/metrics", token=token)
    assert answer.status == 200
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    found: dict[str, dict[tuple[tuple[str, str], ...], float]] = {}
    for family in text_string_to_metric_families(answer.text):
        for sample in family.samples:
            found.setdefault(sample.name, {})[tuple(sorted(sample.labels.items()))] = sample.value
    return found


def emitted(out: str) -> dict[str, list[tuple[dict[str, str], float]]]:
    """The EMF metrics among printed lines, each with its dimensions."""
    found: dict[str, list[tuple[dict[str, str], float]]] = {}
    for line in out.splitlines():
        blob = json.loads(line) if line.startswith('{"_aws"') else {}
        for directive in blob.get("_aws", {}).get("CloudWatchMetrics", []):
            dimensions = {name: blob[name] for name in directive["Dimensions"][0]}
            for metric in directive["Metrics"]:
                found.setdefault(metric["Name"], []).append((dimensions, sum(blob[metric["Name"]])))
    return found


@pytest.fixture
def viewer(observer: Engine) -> str:
    with observer.begin() as tx:
        return api.token(tx, "viewer")


def test_a_scrape_tells_what_ran(queues: Queues, observer: Engine, viewer: str) -> None:
    with observer.begin() as tx:
        order(tx, probe(), probe(), probe(give_up=True), probe(sleep_seconds=0))
    relay.drain()
    work(queues, "upkeep")
    before = samples(viewer)
    of_type = (("queue", "upkeep"), ("type", "upkeep.probe"))
    assert before["duecourse_jobs_enqueued_total"][of_type] == 4
    state = {dict(labels)["state"]: value for labels, value in before["duecourse_jobs"].items()}
    assert {name: value for name, value in state.items() if value} == {"completed": 3, "dead": 1}
    runs = {dict(labels)["outcome"]: value for labels, value in before["duecourse_job_runs_total"].items()}
    assert runs == {"completed": 3, "dead": 1}
    assert before["duecourse_job_duration_seconds_count"][(("type", "upkeep.probe"),)] == 4
    assert before["duecourse_job_wait_seconds_count"][(("type", "upkeep.probe"),)] == 4
    buckets = before["duecourse_job_duration_seconds_bucket"]
    assert len(buckets) == len(DURATION_BOUNDS) + 1
    assert buckets[(("le", "+Inf"), ("type", "upkeep.probe"))] == 4

    sweep.fold()
    after = samples(viewer)
    for name in ("duecourse_jobs", "duecourse_jobs_enqueued_total", "duecourse_job_runs_total"):
        assert {k: v for k, v in after[name].items() if v} == {k: v for k, v in before[name].items() if v}
    assert after["duecourse_job_duration_seconds_bucket"] == buckets


def test_a_scrape_tells_what_the_sweep_and_the_relay_found(queues: Queues, observer: Engine, viewer: str) -> None:
    assert "duecourse_conservation_holds" not in samples(viewer)
    with observer.begin() as tx:
        order(tx, probe())
        tx.execute(text("UPDATE jobs SET run_at = now() - interval '2 hours', outbox_at = now() - interval '2 hours'"))
        tx.execute(
            text(
                "INSERT INTO mail_events (id, kind, at) VALUES ('1', 'send', now()), ('2', 'bounce', now()),"
                " ('3', 'send', now() - interval '2 days')"
            )
        )
        tx.execute(text("INSERT INTO send_lanes VALUES ('all', 1, 200, 1, now() + interval '1 minute', now())"))
    first = samples(viewer)
    assert 7200 <= first["duecourse_outbox_age_seconds"][()] < 7300
    assert 7200 <= first["duecourse_queue_oldest_due_seconds"][(("queue", "upkeep"),)] < 7300
    assert 50 < first["duecourse_mail_lane_wait_seconds"][(("lane", "all"),)] <= 60
    vitals.measure(datetime.now(UTC), conservation=True)
    found = samples(viewer)
    assert found["duecourse_conservation_holds"][()] == 1
    assert found["duecourse_stuck_jobs"][(("queue", "upkeep"),)] == 1
    assert found["duecourse_mails_last_day"] == {(("outcome", "send"),): 1, (("outcome", "bounce"),): 1}
    assert found["duecourse_heartbeat_age_seconds"][(("function", "sweep"),)] < 60


def test_the_sweep_emits_what_alarms_watch(
    queues: Queues, observer: Engine, capsys: pytest.CaptureFixture[str]
) -> None:
    with observer.begin() as tx:
        order(tx, probe())
        tx.execute(text("UPDATE jobs SET run_at = now() - interval '2 hours', outbox_at = now() - interval '2 hours'"))
    report = sweep.sweep(datetime.now(UTC))
    assert report["measured"] is True
    found = emitted(capsys.readouterr().out)
    by_service = {name: values[0][1] for name, values in found.items() if values[0][0].keys() == {"service"}}
    told = {"Heartbeat": 1, "ConservationHolds": 1, "StuckJobs": 1, "ScheduleLagSeconds": 0}
    assert told.items() <= by_service.items()
    assert by_service["OutboxAgeSeconds"] == 0  # the sweep itself sent it
    assert 0 < by_service["DatabaseConnectionsPercent"] <= 100
    waits = {dimensions["queue"]: value for dimensions, value in found["OldestWaitSeconds"]}
    assert waits.keys() == CATALOG.queues.keys()
    assert 7200 <= waits["upkeep"] < 7300


def test_the_relay_beats_and_says_so_even_without_a_database(
    queues: Queues, observer: Engine, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    relay.handler({}, Context(seconds=1))
    assert emitted(capsys.readouterr().out)["Heartbeat"] == [({"service": "tests"}, 1)]
    with observer.begin() as tx:
        assert tx.execute(text("SELECT name FROM heartbeats")).scalars().all() == ["relay"]
        tx.execute(text("ALTER TABLE heartbeats RENAME TO elsewhere"))
    relay.handler({}, Context(seconds=1))
    assert emitted(capsys.readouterr().out)["Heartbeat"] == [({"service": "tests"}, 1)]


def test_a_worker_says_how_much_memory_it_used(
    queues: Queues, observer: Engine, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "4096")
    monkeypatch.setenv("POWERTOOLS_METRICS_NAMESPACE", "Duecourse/firm")
    with observer.begin() as tx:
        order(tx, probe())
    relay.drain()
    work(queues, "upkeep")
    out = capsys.readouterr().out
    [(dimensions, percent)] = emitted(out)["MemoryPercent"]
    assert dimensions["queue"] == "upkeep"
    assert 0 < percent < 100
    assert namespaces(out) == {"Duecourse/firm"}


def namespaces(out: str) -> set[Any]:
    blobs = [json.loads(line) for line in out.splitlines() if line.startswith('{"_aws"')]
    return {found["Namespace"] for blob in blobs for found in blob["_aws"]["CloudWatchMetrics"]}
