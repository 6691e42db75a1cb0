"""A database that accepts and never answers, or stops in the middle: every function ends while it still has time."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import pytest
from sqlalchemy import Engine, create_engine, text

from duecourse.local.delivery import Context
from functions.api import app
from functions.compliance import refresh
from functions.core.errors import DatabaseAway, DuecourseError
from functions.db import engine as db
from functions.db.deadline import at_most, deadline, patience
from functions.db.settings import connection_url, from_url
from functions.email import unsubscribe
from functions.email.tokens import Subscription, make_token
from functions.pipeline import relay as relay_function
from functions.pipeline import sweep
from tests import jobs, silent
from tests.jobs import request
from tests.sql.conftest import Flow

SECONDS = 6.0
"""What an invocation has: its reserve, and one second for a database that says nothing."""


@pytest.fixture(params=["tcp", "unix"])
def front(
    request: pytest.FixtureRequest, database: Engine, place: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[silent.Relay]:
    """What the code under test takes for the server; the observer's connections go past it."""
    server = from_url(os.environ["DATABASE_URL"])
    with silent.relay(server, directory=place if request.param == "unix" else None) as made:
        db.engine().dispose()
        monkeypatch.setenv("DATABASE_URL", connection_url(made.settings))
        db.engine.cache_clear()
        yield made
        db.engine().dispose()


def fall_silent_at_once(front: silent.Relay) -> None:
    front.silent.set()


def fall_silent_once_connected(front: silent.Relay) -> None:
    with db.transaction() as tx:
        tx.execute(text("SELECT 1"))
    front.silent.set()


def fall_silent_in_an_answer(front: silent.Relay) -> None:
    with db.transaction() as tx:
        tx.execute(text("SELECT 1"))
    front.answer_bytes = 30


FAILURES = [fall_silent_at_once, fall_silent_once_connected, fall_silent_in_an_answer]


@pytest.mark.parametrize("fail", FAILURES)
@pytest.mark.parametrize("front", ["tcp"], indirect=True)
def test_a_worker_hands_all_messages_back_before_its_time_is_up(
    flow: Flow, front: silent.Relay, fail: Callable[[silent.Relay], None]
) -> None:
    flow.order(*(request("test.each") for _ in range(3)))
    flow.relay()
    messages = flow.receive()
    fail(front)
    context = Context(seconds=SECONDS)
    assert len(flow.deliver(messages, context=context)) == 3
    assert context.get_remaining_time_in_millis() > 0
    front.answer_again()
    flow.expire_leases()
    assert flow.deliver(messages) == []
    assert flow.states() == {"completed": 3}
    assert {flow.job(row.id).attempts for row in flow.rows("SELECT id FROM jobs")} == {0}


def test_a_server_that_falls_silent_under_a_job_is_not_the_jobs_doing(flow: Flow, front: silent.Relay) -> None:
    [job_id] = flow.order(request("test.each", hook="silence"))
    jobs.HOOKS["silence"] = front.silent.set
    flow.relay()
    messages = flow.receive()
    context = Context(seconds=SECONDS)
    assert len(flow.deliver(messages, context=context)) == 1
    assert context.get_remaining_time_in_millis() > 0
    front.answer_again()
    jobs.HOOKS["silence"] = lambda: None
    flow.expire_leases()
    assert flow.deliver(messages) == []
    assert (flow.job(job_id).state, flow.job(job_id).attempts) == ("completed", 0)
    assert flow.effects() == {job_id: 1}


def _invoke_api(context: Context) -> int:
    event = {
        "version": "2.0",
        "rawPath": "/health",
        "rawQueryString": "",
        "headers": {},
        "requestContext": {
            "http": {"method": "GET", "path": "/health", "sourceIp": "203.0.113.7"},
            "stage": "$default",
        },
    }
    return int(app.handler(event, context)["statusCode"])


def _invoke_cron(context: Context) -> None:
    event = json.loads(Path("events/daily-compliance-refresh.json").read_text())
    with pytest.raises(DatabaseAway):
        refresh.handler(event, context)


def _invoke_sweep(context: Context) -> None:
    with pytest.raises(DuecourseError, match="the sweep could not finish"):
        sweep.handler({}, context)


HANDLERS: dict[str, Callable[[Context], object]] = {
    "relay": lambda context: relay_function.handler({}, context),
    "sweep": _invoke_sweep,
    "cron": _invoke_cron,
    "api": _invoke_api,
}


@pytest.mark.parametrize("name", HANDLERS)
@pytest.mark.parametrize("fail", FAILURES[1:2])
@pytest.mark.parametrize("front", ["tcp"], indirect=True)
def test_every_function_ends_in_time(
    flow: Flow, front: silent.Relay, fail: Callable[[silent.Relay], None], name: str
) -> None:
    fail(front)
    context = Context(seconds=SECONDS)
    answer = HANDLERS[name](context)
    assert context.get_remaining_time_in_millis() > 0
    front.answer_again()
    if name == "api":
        assert answer == 503
        assert _invoke_api(Context()) == 200


@pytest.mark.parametrize("front", ["tcp"], indirect=True)
def test_who_unsubscribes_meanwhile_is_asked_to_come_back(front: silent.Relay, monkeypatch: pytest.MonkeyPatch) -> None:
    front.silent.set()
    monkeypatch.setattr(unsubscribe, "unsubscribe_secret", lambda: "arn")
    monkeypatch.setattr(unsubscribe, "unsubscribe_key", lambda _: b"key")
    token = make_token(b"key", Subscription(uuid4(), "user", uuid4(), ("task",)), now=datetime.now(UTC))
    event = {"requestContext": {"http": {"method": "POST"}}, "queryStringParameters": {"token": token}}
    context = Context(seconds=SECONDS)
    assert unsubscribe.handler(event, context)["statusCode"] == 503
    assert context.get_remaining_time_in_millis() > 0


def test_a_statement_that_takes_too_long_is_cancelled_and_is_the_jobs_own_failure(
    flow: Flow, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow, quick = flow.order(request("test.each", do="bad_sql"), request("test.each"))
    monkeypatch.setattr(jobs, "text", lambda statement: text(statement.replace("1 / 0", "pg_sleep(60)")))
    flow.relay()
    messages = flow.receive()
    context = Context(seconds=SECONDS)
    assert len(flow.deliver(messages, context=context)) == 2
    assert context.get_remaining_time_in_millis() > 0
    [attempt] = flow.rows("SELECT counted, error FROM job_attempts WHERE job_id = :id AND outcome = 'failed'", id=slow)
    assert attempt.counted
    assert "canceling statement due to user request" in attempt.error
    monkeypatch.setattr(jobs, "text", lambda statement: text("SELECT 1"))
    flow.make_due()
    assert flow.deliver(messages) == []
    assert flow.effects() == {slow: 1, quick: 1}


def test_a_peer_that_trickles_does_not_outlast_the_deadline(database: Engine) -> None:
    server = from_url(os.environ["DATABASE_URL"])
    engine = create_engine("postgresql+pg8000://", creator=lambda: db.connect(server))
    started = time.monotonic()
    with deadline(Context(seconds=SECONDS)), engine.connect() as connection, pytest.raises(Exception, match="cancel"):
        connection.execute(text("SELECT repeat('x', 9000), pg_sleep(0.2) FROM generate_series(1, 100)"))
    assert time.monotonic() - started < SECONDS
    engine.dispose()


def test_patience_shrinks_with_the_time_and_never_ends_before_it() -> None:
    assert patience() is None
    with deadline(None):
        assert patience() is None
    for seconds, expected in [(60.0, 55.0), (10.0, 5.0), (4.0, 2.0), (0.0, 0.5)]:
        with deadline(Context(seconds=seconds)):
            assert patience() == pytest.approx(expected, abs=0.05)
            with at_most(1.0):
                assert patience() == pytest.approx(min(1.0, expected), abs=0.05)
    assert patience() is None
