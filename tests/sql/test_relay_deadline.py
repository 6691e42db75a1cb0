"""A drain ends when its caller's time is over, whatever SQS does, and has marked by then what it knows to be sent."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from uuid import UUID

import pytest
from sqlalchemy import Engine

from duecourse.local.delivery import Context
from functions.aws.clients import client
from functions.compliance import refresh
from functions.pipeline import relay
from functions.pipeline.settings import settings
from functions.pipeline.steer import Action, steer
from tests import jobs
from tests.harness import order
from tests.jobs import request
from tests.lanes import CATALOG, Due, Lanes
from tests.sql.conftest import Flow

TOO_LONG = 10.0
"""For a call that hangs, in seconds; no test waits for its end."""


@pytest.fixture
def never_answers(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An SQS that takes every connection and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.getsockname()[1]}")
        monkeypatch.setenv("QUEUE_URL_PREFIX", f"http://127.0.0.1:{server.getsockname()[1]}/000000000000/t-")
        client.cache_clear()
        settings.cache_clear()
        yield
    client.cache_clear()
    settings.cache_clear()


def test_a_drain_ends_in_time_beside_an_sqs_that_never_answers(
    database: Engine, observer: Engine, never_answers: None
) -> None:
    with database.begin() as tx:
        jobs.install(tx)
        order(tx, *[request("test.each") for _ in range(200)], request("test.ordered", group="g"), catalog=jobs.CATALOG)
    began = time.monotonic()
    assert relay.drain(within=0.5, catalog=jobs.CATALOG).sent == 0
    assert time.monotonic() - began < 0.5 + 1.0
    with observer.begin() as tx:
        assert tx.exec_driver_sql("SELECT count(*) FROM jobs WHERE outbox_at IS NOT NULL").scalar_one() == 201


def test_an_invocation_ends_before_its_timeout_with_its_marks_committed(lanes: Lanes) -> None:
    hung = lanes.add(*[Due("email-bulk", ago=60)] * 100)
    sent = lanes.add(*[Due("upkeep")] * 20)
    context = Context(seconds=1.2)
    with hanging(lanes, "email-bulk"):
        assert relay.handler({}, context) == {"sent": 20}
        assert context.get_remaining_time_in_millis() > 0
    assert lanes.left() == set(hung)
    assert set(lanes.sqs.of("upkeep")) == set(sent)
    [beat] = lanes.rows("SELECT report FROM heartbeats WHERE name = 'relay'")
    assert beat.report == {"sent": 20}


def test_a_cron_handler_ends_before_its_timeout(lanes: Lanes) -> None:
    lanes.rows("INSERT INTO tenants (name, time_zone, created_at) VALUES ('Firm', 'UTC', '2020-01-01')")
    lanes.rows("UPDATE schedules SET enabled_since = '2020-01-01'")
    event = {
        "source": "aws.events",
        "detail-type": "Scheduled Event",
        "time": f"{datetime.now(UTC):%Y-%m-%dT23:00:00Z}",
    }
    context = Context(seconds=1.0)
    with hanging(lanes, "compliance-refresh"):
        counts = refresh.handler(event | {"detail": {"jitter": False}}, context)
        assert context.get_remaining_time_in_millis() > 0
    assert (counts["planned"], counts["sent"]) == (1, 0)
    assert len(lanes.left()) == 1


def test_no_call_begins_after_the_deadline(lanes: Lanes) -> None:
    lanes.add(*[Due("ordered", "g", ago=60 - n) for n in range(50)])
    lanes.sqs.before = lambda _: time.sleep(0.02)
    drained = lanes.drain(within=0.2)
    sent = len(lanes.sqs.arrived)
    assert 0 < drained.sent <= sent < 50
    assert lanes.drain(within=0.0).sent == 0
    assert len(lanes.sqs.arrived) == sent
    assert len(lanes.left()) == 50 - drained.sent


def test_an_sqs_slower_than_a_pass_is_sent_to_once(lanes: Lanes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its answers come when the pass is over, and are marked then: nothing is sent for ever."""
    monkeypatch.setattr(relay, "PASS_SECONDS", 0.01)
    monkeypatch.setattr(relay, "LOCK_SECONDS", 0.02)
    ids = lanes.add(*[Due("bulk")] * 120, *[Due("ordered", f"g{n % 10}", ago=60 - n) for n in range(20)])
    lanes.sqs.before = lambda _: time.sleep(0.08)
    assert lanes.drain().sent == 140
    assert Counter(job for _, job in lanes.sqs.arrived) == Counter(ids)
    assert lanes.left() == set()


@pytest.mark.parametrize("actions", [(Action.PAUSE,), (Action.REMOVE,), (Action.PAUSE, Action.RESUME)])
def test_a_late_answer_marks_nothing_that_has_changed_meanwhile(
    lanes: Lanes, monkeypatch: pytest.MonkeyPatch, actions: tuple[Action, ...]
) -> None:
    monkeypatch.setattr(relay, "PASS_SECONDS", 0.01)
    monkeypatch.setattr(relay, "LOCK_SECONDS", 0.02)
    [job_id] = lanes.add(Due("bulk"))
    steered = threading.Event()

    def interfere(_: str) -> None:
        if not steered.is_set():
            with lanes.observer.begin() as tx:  # has the row as soon as the pass lets it go
                for action in actions:
                    steer(tx, action, [job_id], queue="bulk", catalog=CATALOG)
            steered.set()

    lanes.sqs.before = interfere
    lanes.drain()
    [row] = lanes.rows("SELECT state, delivery, sent_at, outbox_at FROM jobs")
    if actions[-1] is Action.RESUME:
        assert lanes.sqs.deliveries == [(job_id, 1), (job_id, 2)]
        assert (row.state, row.delivery, row.outbox_at) == ("waiting", 2, None)
        assert row.sent_at is not None
    else:
        assert lanes.sqs.deliveries == [(job_id, 1)]
        assert row.sent_at is None


def test_an_old_row_with_a_correlation_id_of_a_megabyte_is_sent(flow: Flow) -> None:
    ids = flow.order(*[request("test.each") for _ in range(10)], *[request("test.ordered", group="g")] * 10)
    flow.rows("ALTER TABLE jobs DROP CONSTRAINT jobs_correlation_id_size")  # as it was when the rows were written
    flow.rows("UPDATE jobs SET correlation_id = repeat('x', 1100000)")
    assert flow.relay() == 20
    bodies = [json.loads(message["Body"]) for name in ("standard", "ordered") for message in flow.receive(name)]
    assert {UUID(body["id"]) for body in bodies} >= set(ids[:11])
    assert {len(body["correlation_id"]) for body in bodies} == {256}


@contextmanager
def hanging(lanes: Lanes, queue: str) -> Iterator[None]:
    """Calls to this queue do not come back while it lasts."""
    over = threading.Event()
    lanes.sqs.before = lambda name: over.wait(TOO_LONG) if name == queue else None
    try:
        yield
    finally:
        over.set()
