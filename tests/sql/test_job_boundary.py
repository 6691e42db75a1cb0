"""The boundary of a job: whatever its own code gets wrong ends that job, in that run, and no neighbour notices."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from functions.core.errors import ConfigurationError
from functions.core.job import Job, JobRequest
from functions.core.outcome import Continue, Done, GiveUp, Outcome, Retry, Skipped, Snooze
from tests import jobs
from tests.jobs import request
from tests.sql.conftest import Flow

Code = Callable[[Job[Any], Connection], Any]


def swallow(job: Job[Any], tx: Connection) -> Outcome:
    with suppress(DBAPIError):
        tx.execute(text("SELECT 1 / 0"))
    return Done()


def deferred(job: Job[Any], tx: Connection) -> Outcome:
    """Breaks a constraint that is checked at the commit."""
    tx.execute(text("INSERT INTO deferred VALUES (:id)"), {"id": job.id})
    return Done()


def says(statement: str) -> Code:
    def run(job: Job[Any], tx: Connection) -> Outcome:
        tx.exec_driver_sql(statement)
        return Done()

    return run


def calls(method: str, of: Callable[[Any], Any] = lambda tx: tx) -> Code:
    def run(job: Job[Any], tx: Connection) -> Outcome:
        getattr(of(tx), method)()
        return Done()

    return run


def returns(make: Callable[[], object]) -> Code:
    return lambda job, tx: make()


def raises(error: BaseException) -> Code:
    def run(job: Job[Any], tx: Connection) -> Outcome:
        raise error

    return run


def leaves_a_savepoint(job: Job[Any], tx: Connection) -> Outcome:
    tx.begin_nested()
    return Done()


def unloads(job: Job[Any], tx: Connection) -> Outcome:
    sys.exit(3)


class Unreadable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


UNKNOWN = JobRequest("test.unknown", {})
INVALID = JobRequest("test.each", {"steps": "many"})
UNSTORABLE = JobRequest("test.each", {"do": "\x00"})

BAD: dict[str, tuple[Code, str]] = {
    "swallows a failed statement": (swallow, "a statement failed and the job went on"),
    "commits": (calls("commit"), "must not commit, roll back or close"),
    "rolls back": (calls("rollback"), "must not commit, roll back or close"),
    "closes": (calls("close"), "must not commit, roll back or close"),
    "says COMMIT": (says("COMMIT"), "must not commit, roll back or close"),
    "says end, commented": (says("/* done */ -- so\n  end"), "must not commit, roll back or close"),
    "says ROLLBACK WORK": (says("rollback work"), "must not commit, roll back or close"),
    "says START TRANSACTION": (says("START  TRANSACTION"), "must not commit, roll back or close"),
    "says SET TRANSACTION READ ONLY": (says("SET TRANSACTION READ ONLY"), "must not commit, roll back or close"),
    "says DO COMMIT": (says("DO $$ BEGIN COMMIT; END $$"), "invalid transaction termination"),
    "commits by the driver": (calls("commit", lambda tx: tx.connection.driver_connection), "must not commit"),
    "commits its root": (
        calls("commit", lambda tx: tx.get_transaction()),
        "ended the transaction that it shares",
    ),
    "leaves a savepoint": (leaves_a_savepoint, "left a savepoint open"),
    "breaks a deferred constraint": (deferred, "violates foreign key constraint"),
    "orders an invalid follower": (returns(lambda: Done(enqueue=[INVALID])), "steps: Input should be a valid integer"),
    "orders an unknown follower": (returns(lambda: Done(enqueue=[UNKNOWN])), "unknown job type 'test.unknown'"),
    "orders an unstorable follower": (returns(lambda: Done(enqueue=[UNSTORABLE])), "nothing PostgreSQL can store"),
    "orders what is no order": (returns(lambda: Done(enqueue=["test.each"])), "Done.enqueue is a list of JobRequest"),  # type: ignore[list-item]
    "retries with an error": (returns(lambda: Retry(ValueError("why"))), "Retry.reason is text, not ValueError('why')"),  # type: ignore[arg-type]
    "gives up with nothing": (returns(lambda: GiveUp(None)), "GiveUp.reason is text"),  # type: ignore[arg-type]
    "snoozes with a number": (returns(lambda: Snooze(datetime.now(UTC), 3)), "Snooze.reason is text"),  # type: ignore[arg-type]
    "skips with bytes": (returns(lambda: Skipped(b"why")), "Skipped.reason is text"),  # type: ignore[arg-type]
    "forgets its return": (returns(lambda: None), "returned NoneType, not an outcome"),
    "returns a class": (returns(lambda: Done), "returned type, not an outcome"),
    "returns what is no JSON": (returns(lambda: Done({"at": datetime.now(UTC)})), "is not JSON that can be stored"),
    "returns NUL": (returns(lambda: Done({"text": "\x00"})), "NUL character"),
    "returns NaN": (returns(lambda: Continue({"x": float("nan")})), "NaN"),
    "returns too much": (returns(lambda: Done({"text": "x" * 70_000})), "65536 are the most"),
    "goes on with too much": (returns(lambda: Continue({"text": "x" * 270_000})), "262144 are the most"),
    "snoozes for ever": (returns(lambda: Snooze(datetime.max.replace(tzinfo=UTC), "late")), "ten years"),
    "snoozes into the past": (returns(lambda: Snooze(datetime(1, 1, 1, tzinfo=UTC), "early")), "14 days ago"),
    "waits for ever": (returns(lambda: Continue({}, until=datetime.max.replace(tzinfo=UTC))), "ten years"),
    "exits": (unloads, "SystemExit: 3"),
    "is cancelled": (raises(asyncio.CancelledError("by itself")), "CancelledError: by itself"),
    "raises the unreadable": (raises(Unreadable()), "its text cannot be read"),
    "raises an odd class": (raises(type("Odd" * 200, (Exception,), {})("odd")), "odd"),
    "overflows": (lambda job, tx: tx.execute(text("SELECT 1 WHERE 1 = :n"), {"n": 10**30}) and Done(), ""),
}


ALONE = ("commits its root", "breaks a deferred constraint", "forgets its return", "swallows a failed statement")


@pytest.mark.parametrize(("name", "around"), [*((name, 3) for name in BAD), *((name, 0) for name in ALONE)], ids=str)
def test_what_a_job_gets_wrong_ends_that_job_alone(flow: Flow, name: str, around: int) -> None:
    code, why = BAD[name]
    jobs.CODE["bad"] = code
    flow.rows("CREATE TABLE things (id uuid PRIMARY KEY)")
    flow.rows("CREATE TABLE deferred (id uuid REFERENCES things DEFERRABLE INITIALLY DEFERRED)")
    neighbours = [request("test.each")] * around
    ids = flow.order(*neighbours, request("test.each", code="bad"), *neighbours)
    bad = ids.pop(around)
    flow.relay()
    flow.deliver(flow.receive())
    row = flow.job(bad)
    assert (row.state, row.attempts, row.runs) == ("retrying", 1, 1), row.error
    assert why in row.error
    assert flow.attempts(bad) == [(1, "failed", True)]
    assert flow.effects() == dict.fromkeys(ids, 1), "what it wrote is undone, and nobody else's"
    for job_id in ids:
        neighbour = flow.job(job_id)
        assert (neighbour.state, neighbour.attempts, neighbour.runs) == ("completed", 0, 1)


@pytest.mark.parametrize(
    "name", ["forgets its return", "retries with an error", "swallows a failed statement", "exits"]
)
def test_a_set_is_done_one_by_one_where_a_member_gets_it_wrong(flow: Flow, name: str) -> None:
    jobs.CODE["bad"] = BAD[name][0]
    first, bad, last = flow.order(request("test.set"), request("test.set", code="bad"), request("test.set"))
    flow.relay()
    flow.deliver(flow.receive())
    assert (flow.job(bad).state, flow.job(bad).attempts) == ("retrying", 1)
    assert BAD[name][1] in flow.job(bad).error
    assert flow.effects() == {first: 1, last: 1}


@pytest.mark.parametrize("name", ["swallows a failed statement", "commits", "retries with an error", "is cancelled"])
def test_a_prepare_that_gets_it_wrong_ends_its_job_alone(flow: Flow, name: str) -> None:
    jobs.CODE["bad"] = BAD[name][0]
    good, bad = flow.order(request("test.mail"), request("test.mail", code="bad"))
    flow.relay()
    flow.deliver(flow.receive())
    assert (flow.job(bad).state, flow.job(bad).attempts) == ("retrying", 1)
    assert jobs.MAILER.sent == [good]
    assert flow.job(good).state == "completed"


@pytest.mark.parametrize("job_type", ["test.gone", "test.no_contract"])
def test_code_that_cannot_be_imported_is_its_jobs_failure(flow: Flow, job_type: str) -> None:
    good, bad = flow.order(request("test.each"), request("test.each"))
    flow.rows("UPDATE jobs SET type = :type WHERE id = :id", type=job_type, id=bad)
    flow.relay()
    flow.deliver(flow.receive())
    row = flow.job(bad)
    assert (row.state, row.attempts, row.error_class) == ("retrying", 1, "ModuleNotFoundError")
    assert "tests.no_such_module" in row.error
    assert flow.effects() == {good: 1}


def test_a_job_may_use_savepoints_of_its_own(flow: Flow) -> None:
    def careful(job: Job[Any], tx: Connection) -> Outcome:
        with pytest.raises(DBAPIError), tx.begin_nested():
            tx.execute(text("SELECT 1 / 0"))
        tx.exec_driver_sql("SAVEPOINT mine")
        tx.exec_driver_sql("ROLLBACK TO SAVEPOINT mine")
        return Done()

    jobs.CODE["careful"] = careful
    [job_id] = flow.order(request("test.each", code="careful"))
    flow.relay()
    flow.deliver(flow.receive())
    assert flow.job(job_id).state == "completed"
    assert flow.effects() == {job_id: 1}


@pytest.mark.parametrize("sqlstate", ["40P01", "40001", "55P03"])
@pytest.mark.parametrize("kind", ["test.each", "test.set"])
def test_who_loses_against_another_transaction_is_released_at_no_cost(flow: Flow, sqlstate: str, kind: str) -> None:
    lost = [True]

    def deadlocked(job: Job[Any], tx: Connection) -> Outcome:
        if lost:
            tx.exec_driver_sql(f"DO $$ BEGIN RAISE EXCEPTION 'in the way' USING ERRCODE = '{sqlstate}'; END $$")
        return Done()

    jobs.CODE["deadlocked"] = deadlocked
    unlucky, neighbour = flow.order(request(kind, code="deadlocked"), request(kind))
    flow.relay()
    messages = flow.receive()
    assert len(flow.deliver(messages)) == 1
    row = flow.job(unlucky)
    assert (row.state, row.attempts) == ("waiting", 0)
    assert flow.attempts(unlucky) == [(1, "released", False)]
    assert flow.effects() == {neighbour: 1}
    lost.clear()
    flow.deliver(messages)
    assert flow.effects() == {neighbour: 1, unlucky: 1}


def test_a_real_deadlock_with_an_application_costs_no_attempt(flow: Flow) -> None:
    from concurrent.futures import ThreadPoolExecutor
    from threading import Barrier

    flow.rows("CREATE TABLE account (name text PRIMARY KEY, n int)")
    flow.rows("INSERT INTO account VALUES ('a', 0), ('b', 0)")
    both, lock = Barrier(2, timeout=20), "UPDATE account SET n = n + 1 WHERE name = :name"
    crossed = [True]

    def cross(job: Job[Any], tx: Connection) -> Outcome:
        tx.execute(text(lock), {"name": "a"})
        if crossed:
            crossed.clear()
            both.wait()
        tx.execute(text(lock), {"name": "b"})
        return Done()

    def application() -> None:
        with flow.observer.begin() as tx:
            tx.exec_driver_sql("SET LOCAL deadlock_timeout = '10s'")  # the worker is the one to notice
            tx.execute(text(lock), {"name": "b"})
            both.wait()
            tx.execute(text(lock), {"name": "a"})

    jobs.CODE["cross"] = cross
    job_id, neighbour = flow.order(request("test.each", code="cross"), request("test.each"))
    flow.relay()
    messages = flow.receive()
    with ThreadPoolExecutor(1) as threads:
        other = threads.submit(application)
        flow.deliver(messages)
        other.result()
    assert (flow.job(job_id).state, flow.job(job_id).attempts) == ("waiting", 0)
    assert flow.job(neighbour).state == "completed"
    flow.deliver(messages)
    assert flow.job(job_id).state == "completed"
    assert [row.n for row in flow.rows("SELECT n FROM account")] == [2, 2]


def test_a_missing_setting_is_the_operators_to_mend_and_costs_no_attempt(flow: Flow) -> None:
    missing = [ConfigurationError("MAIL_SENDER is not set")]

    def unset(job: Job[Any], tx: Connection) -> Outcome:
        if missing:
            raise missing[0]
        return Done()

    jobs.CODE["unset"] = unset
    job_id, neighbour = flow.order(request("test.each", code="unset"), request("test.each"))
    flow.relay()
    messages = flow.receive()
    assert len(flow.deliver(messages)) == 1
    assert (flow.job(job_id).state, flow.job(job_id).attempts) == ("waiting", 0)
    assert flow.job(job_id).error == "ConfigurationError: MAIL_SENDER is not set"
    assert flow.job(neighbour).state == "completed"
    missing.clear()
    flow.deliver(messages)
    assert flow.job(job_id).state == "completed"


def test_attempts_start_anew_with_each_completed_step(flow: Flow) -> None:
    def hiccup(job: Job[Any], tx: Connection) -> Outcome:
        step = int((job.checkpoint or {}).get("step", 0))
        if job.attempts < 2:  # of three
            return Retry("a hiccup", delay_seconds=0)
        return Continue({"step": step + 1}) if step < 9 else Done()

    jobs.CODE["hiccup"] = hiccup
    [job_id] = flow.order(request("test.each", code="hiccup"))
    for _ in range(10):
        flow.relay()
        flow.work()
    row = flow.job(job_id)
    assert (row.state, row.attempts, row.runs) == ("completed", 2, 30)


def test_a_release_after_a_commit_that_was_made_after_all_counts_nothing_twice(
    flow: Flow, monkeypatch: pytest.MonkeyPatch
) -> None:
    from functions.core.errors import DatabaseAway
    from functions.pipeline import settlement

    [job_id] = flow.order(request("test.each"))
    flow.relay()
    messages = flow.receive()
    commit = settlement._commit

    def committed_and_unanswered(*args: Any) -> Any:
        commit(*args)
        raise DatabaseAway("the answer to COMMIT never came")

    monkeypatch.setattr(settlement, "_commit", committed_and_unanswered)
    flow.deliver(messages)
    assert flow.job(job_id).state == "completed"
    runs = flow.rows("SELECT outcome, runs FROM job_run_deltas WHERE measure = 'duration'")
    assert [(row.outcome, row.runs) for row in runs] == [("completed", 1)]
    assert flow.attempts(job_id) == []


def test_the_metrics_of_an_invocation_that_raises_are_there(
    flow: Flow, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from functions.pipeline import settlement

    flow.order(request("test.each"))
    flow.relay()
    messages = flow.receive()
    monkeypatch.setattr(settlement, "parse", None)
    with pytest.raises(TypeError):
        flow.deliver(messages)
    assert "JobsStarted" in capsys.readouterr().out
