"""Rule 9: the database may be away. Nothing is counted, nothing lost, nothing dead-lettered for hours."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.exc import DBAPIError

from duecourse.local import postgres as embedded
from functions.core.errors import DatabaseAway
from functions.db import engine as db
from functions.db.migrate import migrate
from functions.db.settings import DatabaseSettings, load_settings
from functions.pipeline import batch, triage
from tests import jobs
from tests.jobs import request
from tests.sql.conftest import Flow


@pytest.fixture
def server(place: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A PostgreSQL of this test's own, which it may stop, in place of the shared one."""
    _forget_connection()
    monkeypatch.setenv("DATABASE_URL", embedded.start(place / "pg"))
    with db.engine().begin() as tx:
        migrate(tx)
        jobs.install(tx)
    yield place / "pg"
    _forget_connection()
    embedded.stop(place / "pg")


@pytest.fixture
def away(flow: Flow, server: Path) -> Iterator[Flow]:
    """The flow on that server; the shared fixture's own database stays unused."""
    shared = flow.observer
    flow.observer = db.make_engine(load_settings(os.environ))
    yield flow
    assert flow.conservation().holds
    flow.observer.dispose()
    flow.observer = shared


def test_away_before_the_claim_hands_back_with_growing_patience(away: Flow, server: Path) -> None:
    away.order(request("test.each"))
    away.relay()
    _stop(away, server)
    waits = []
    [message] = away.receive()
    for receives in (1, 2, 3, 9, 18):
        message["Attributes"]["ApproximateReceiveCount"] = str(receives)
        assert away.deliver([message]) == [message["MessageId"]]
        waits.append(min(batch.OUTAGE_FIRST_SECONDS * 2 ** (receives - 1), batch.OUTAGE_LONGEST_SECONDS))
    assert waits == [15, 30, 60, 3600, 3600]
    assert away.queues.depth("standard").in_flight == 1
    embedded.start(server)
    assert away.deliver([message]) == []
    assert away.states() == {"completed": 1}


def test_the_patience_of_a_message_outlasts_an_outage_of_hours() -> None:
    receives = jobs.CATALOG.max_receive_count("standard")
    waited = sum(min(15 * 2**n, batch.OUTAGE_LONGEST_SECONDS) for n in range(receives))
    assert waited > 8 * 3600


def test_away_in_mid_run_loses_nothing_doubles_nothing_and_costs_no_attempt(away: Flow, server: Path) -> None:
    first, second, third = away.order(request("test.each"), request("test.each", hook="stop"), request("test.each"))
    jobs.HOOKS["stop"] = partial(embedded.stop, server)
    away.relay()
    messages = away.receive()
    away.observer.dispose()
    assert len(away.deliver(messages)) == 3
    assert len(away.deliver(messages)) == 3
    embedded.start(server)
    jobs.HOOKS["stop"] = lambda: None
    assert len(away.deliver(messages)) == 3  # their leases still run
    away.expire_leases()
    assert away.deliver(messages) == []
    assert away.effects() == {first: 1, second: 1, third: 1}
    for job_id in (first, second, third):
        assert away.job(job_id).attempts == 0
        assert away.attempts(job_id) == [(1, "lost", False)]


def test_killed_under_the_worker_is_an_outage_too(away: Flow, server: Path) -> None:
    [job_id] = away.order(request("test.each", hook="kill"))
    process = embedded.running(server)
    assert process is not None

    def kill() -> None:
        for victim in [process, *process.children()]:  # our own backend among them, which would live on for a moment
            victim.kill()

    jobs.HOOKS["kill"] = kill
    away.relay()
    messages = away.receive()
    away.observer.dispose()
    assert len(away.deliver(messages)) == 1
    embedded.start(server)
    jobs.HOOKS.clear()
    jobs.HOOKS["kill"] = lambda: None
    away.expire_leases()
    assert away.deliver(messages) == []
    assert away.effects() == {job_id: 1}
    assert away.job(job_id).attempts == 0


def test_a_socket_that_breaks_in_mid_statement_is_an_outage(database: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    def reset(*_: object) -> bytes:
        raise ConnectionResetError(104, "Connection reset by peer")

    with database.begin() as tx:
        tx.execute(text("SELECT 1"))
    with monkeypatch.context() as broken:
        broken.setattr("pg8000.core._read", reset)
        with pytest.raises(DatabaseAway, match="Connection reset"), database.begin() as tx:
            tx.execute(text("SELECT 1"))
    with database.begin() as tx:  # on a new connection
        assert tx.execute(text("SELECT 1")).scalar_one() == 1


def _reset(connection: Any) -> None:
    def recv_into(*_: object) -> int:
        raise ConnectionResetError(104, "Connection reset by peer")

    connection._usock.recv_into = recv_into


def _silent(connection: Any) -> None:
    def recv_into(*_: object) -> int:
        raise TimeoutError("timed out")

    connection._usock.recv_into = recv_into


def _hung_up(connection: Any) -> None:
    connection._usock.shutdown(socket.SHUT_RDWR)


def _terminated(connection: Any) -> None:
    """As by an operator, or a server that shuts down: it says so before it hangs up."""
    pid = int.from_bytes(connection._backend_key_data[:4], "big")
    administration = db.make_engine(load_settings(os.environ))
    with administration.begin() as tx:
        tx.execute(text("SELECT pg_terminate_backend(:pid, 10000)"), {"pid": pid})
    administration.dispose()


@pytest.mark.parametrize("breaks", [_reset, _silent, _hung_up, _terminated])
@pytest.mark.parametrize("call", ["_get_server_version_info", "do_rollback", "get_default_isolation_level"])
def test_a_connection_that_breaks_while_it_is_made_is_an_outage(
    call: str, breaks: Callable[[Any], None], database: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLAlchemy asks an engine's first connection some things, and rolls back, by calls of the driver alone."""
    made = db.make_engine(load_settings(os.environ))
    opened: list[Any] = []
    connect, original = db.connect, getattr(made.dialect, call)

    def remember(settings: DatabaseSettings) -> Any:
        opened.append(connect(settings))
        return opened[-1]

    def broken(*arguments: object) -> object:
        breaks(opened[-1])
        return original(*arguments)

    with monkeypatch.context() as first:
        first.setattr(db, "connect", remember)
        first.setattr(made.dialect, call, broken)
        with pytest.raises((DBAPIError, DatabaseAway)) as raised, made.connect():
            pass
    assert db.is_outage(raised.value), repr(raised.value)
    with made.begin() as tx:  # on a new connection
        assert tx.execute(text("SELECT 1")).scalar_one() == 1
    made.dispose()


def test_a_restart_between_two_batches_costs_at_most_one_hand_back(away: Flow, server: Path) -> None:
    away.order(request("test.each"), request("test.each"))
    away.relay()
    first, second = away.receive()
    assert away.deliver([first]) == []
    _stop(away, server)
    embedded.start(server)
    if away.deliver([second]):
        assert away.deliver([second]) == []
    assert away.states() == {"completed": 2}


def test_a_database_that_is_not_migrated_is_named_and_nothing_is_lost(
    away: Flow, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    away.order(request("test.each"))
    away.relay()
    messages = away.receive()
    with away.observer.connect().execution_options(isolation_level="AUTOCOMMIT") as admin:
        admin.execute(text("CREATE DATABASE empty"))
    with monkeypatch.context() as elsewhere:
        _forget_connection()
        elsewhere.setenv("DATABASE_URL", os.environ["DATABASE_URL"].replace("/duecourse?", "/empty?"))
        assert len(away.deliver(messages)) == 1
        _forget_connection()
    assert "run `duecourse db migrate`" in _logged(caplog)
    assert away.deliver(messages) == []


def test_a_missing_variable_is_named_and_nothing_is_lost(
    away: Flow, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    away.order(request("test.each"))
    away.relay()
    messages = away.receive()
    with monkeypatch.context() as bare:
        _forget_connection()
        bare.delenv("DATABASE_URL")
        assert len(away.deliver(messages)) == 1
    assert "neither DATABASE_URL nor DATABASE_SECRET_ARN is set" in _logged(caplog)
    assert away.deliver(messages) == []


def _stop(flow: Flow, server: Path) -> None:
    flow.observer.dispose()
    embedded.stop(server)


def _forget_connection() -> None:
    """As in a new process: the next statement reads the settings and connects."""
    db.engine().dispose()
    db.engine.cache_clear()


def _logged(caplog: pytest.LogCaptureFixture) -> str:
    return " ".join(str(vars(record).get("error", "")) for record in caplog.records)


def _restart(away: Flow, server: Path) -> None:
    away.observer.dispose()
    embedded.stop(server)
    embedded.start(server)


def test_outages_under_a_job_that_is_alone_in_its_batch_are_not_its_doing(away: Flow, server: Path) -> None:
    [job_id] = away.order(request("test.each", hook="outage"))
    jobs.HOOKS["outage"] = partial(_restart, away, server)
    away.relay()
    [message] = away.receive()
    for _ in range(triage.LOSSES_ALONE_UNTIL_DEATH + 1):
        assert away.deliver([message]) == [message["MessageId"]]
        away.expire_leases()
    jobs.HOOKS["outage"] = lambda: None
    assert away.deliver([message]) == []
    row = away.job(job_id)
    assert (row.state, row.attempts) == ("completed", 0)
    assert away.effects() == {job_id: 1}


def test_a_job_that_takes_the_database_down_with_it_again_and_again_dies_in_the_end(away: Flow, server: Path) -> None:
    [job_id] = away.order(request("test.each"))
    away.relay()
    [message] = away.receive()
    away.rows(
        "UPDATE jobs SET state = 'active', claim_token = gen_random_uuid(), claimed_alone = true, runs = 10,"
        " lost = :lost, started_at = pg_postmaster_start_time() - interval '1 minute',"
        " lease_until = now() - interval '1 second' WHERE id = :id",
        id=job_id,
        lost=triage.LOSSES_UNTIL_DEATH - 1,
    )
    assert away.deliver([message]) == [message["MessageId"]]
    row = away.job(job_id)
    assert (row.state, row.error_class) == ("dead", "Crashed")
    assert row.error == "crashed: 10 runs in a row were lost before they settled, 0 of them alone"


def test_a_connection_that_breaks_under_a_run_gives_the_job_back_at_once(away: Flow) -> None:
    [job_id] = away.order(request("test.each", hook="break"))
    jobs.HOOKS["break"] = lambda: away.rows(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND state <> 'idle'"
        " AND backend_type = 'client backend'"
    )
    away.relay()
    [message] = away.receive()
    assert away.deliver([message]) == [message["MessageId"]]
    row = away.job(job_id)
    assert (row.state, row.attempts, row.lost) == ("waiting", 0, 0)
    jobs.HOOKS["break"] = lambda: None
    assert away.deliver([message]) == []
    assert away.effects() == {job_id: 1}
