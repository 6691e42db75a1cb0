"""Outages that are no broken socket: a server that became read-only, a password that rotated, a session that was ended.

After each the process heals by itself, and nothing is counted against a job.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, text
from sqlalchemy.exc import DBAPIError

from duecourse.local.delivery import Context
from functions.aws import secrets
from functions.core.errors import DatabaseAway, SecretsAway
from functions.db import engine as db
from functions.db.engine import is_outage, is_too_slow, transaction
from functions.db.settings import from_url
from functions.pipeline import relay as relay_function
from tests.api import Ask
from tests.jobs import request
from tests.sql.conftest import Flow

PID = text("SELECT pg_backend_pid()")


def pid() -> int:
    with transaction() as tx:
        return int(tx.execute(PID).scalar_one())


def end_sessions(flow: Flow) -> None:
    """As a failover does."""
    flow.rows(
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
        " WHERE pid <> pg_backend_pid() AND datname = current_database()"
    )


def assert_an_outage_that_heals(flow: Flow, ask: Ask, begin: Callable[[], object], end: Callable[[], object]) -> None:
    """Worker, relay and API see the outage for what it is; nothing is counted; all is well when it is over."""
    flow.order(request("test.each"), request("test.each"))
    flow.relay()
    messages = flow.receive()
    flow.order(request("test.each"))
    begin()
    assert len(flow.deliver(messages)) == 2
    assert len(flow.deliver(messages)) == 2
    assert relay_function.handler({}, Context(seconds=1)) == {"sent": 0}
    assert ask("POST", "/queues/upkeep/pause", body={}).status == 503
    end()
    assert flow.deliver(messages) == []
    assert flow.relay() == 1
    assert ask("POST", "/queues/upkeep/pause", body={}).status == 200
    assert flow.work() == 1
    assert flow.states() == {"completed": 3}
    assert {row.attempts for row in flow.rows("SELECT attempts FROM jobs")} == {0}
    assert flow.rows("SELECT 1 FROM job_attempts WHERE counted") == []


def test_a_writer_that_became_read_only(flow: Flow, ask: Ask) -> None:
    name = from_url(os.environ["DATABASE_URL"]).database

    def demote() -> None:
        flow.rows(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
        end_sessions(flow)

    def promote() -> None:
        with flow.observer.connect().execution_options(isolation_level="AUTOCOMMIT") as admin:
            admin.execute(text("SELECT set_config('default_transaction_read_only', 'off', false)"))
            admin.execute(text(f"ALTER DATABASE {name} RESET default_transaction_read_only"))
        # Sessions of the time before stay read-only for as long as they live: none may be kept.

    assert_an_outage_that_heals(flow, ask, demote, promote)


@pytest.fixture
def app_role(flow: Flow, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """The code under test logs in with a password that it reads from a secret. Yields that secret."""
    [hba] = flow.rows("SELECT current_setting('hba_file') AS path")
    file = Path(hba.path)
    if not os.access(file, os.W_OK):
        pytest.skip("the server's pg_hba.conf cannot be changed from here")
    saved = file.read_text()
    role = f"app_{os.getpid()}"
    flow.rows(f"DROP ROLE IF EXISTS {role}")
    flow.rows(f"CREATE ROLE {role} SUPERUSER LOGIN PASSWORD 'first'")
    file.write_text(f"local all {role} scram-sha-256\nhost all {role} all scram-sha-256\n{saved}")
    flow.rows("SELECT pg_reload_conf()")
    server = from_url(os.environ["DATABASE_URL"])
    secret = {
        "username": role,
        "password": "first",
        "host": server.host,
        "port": server.port,
        "dbname": server.database,
    }
    db.engine().dispose()
    monkeypatch.delenv("DATABASE_URL")
    monkeypatch.setenv("DATABASE_SECRET_ARN", "arn")
    monkeypatch.setattr(secrets, "secret_value", lambda _: json.dumps(secret))
    yield secret
    db.engine().dispose()
    file.write_text(saved)
    flow.rows("SELECT pg_reload_conf()")
    flow.rows(f"DROP ROLE {role}")


def test_a_password_that_rotated(flow: Flow, ask: Ask, app_role: dict[str, Any]) -> None:
    def rotate() -> None:
        flow.rows(f"ALTER ROLE {app_role['username']} PASSWORD 'second'")
        end_sessions(flow)

    assert_an_outage_that_heals(flow, ask, rotate, lambda: app_role.update(password="second"))


def test_a_secret_store_that_is_throttled(
    flow: Flow, ask: Ask, app_role: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    readable = secrets.secret_value

    def throttled(arn: str) -> str:
        raise SecretsAway(f"the secret {arn} cannot be read at present (ThrottlingException)")

    def begin() -> None:
        monkeypatch.setattr(secrets, "secret_value", throttled)
        end_sessions(flow)

    assert_an_outage_that_heals(flow, ask, begin, lambda: monkeypatch.setattr(secrets, "secret_value", readable))


def test_a_session_that_the_server_ended_in_a_pause_is_not_kept(flow: Flow) -> None:
    ended = []

    def pause() -> None:
        with transaction() as tx:
            ended.append(tx.execute(PID).scalar_one())
            tx.execute(text("SELECT set_config('idle_in_transaction_session_timeout', '20ms', true)"))
            while flow.rows("SELECT 1 FROM pg_stat_activity WHERE pid = :pid", pid=ended[0]):
                pass
            tx.execute(PID)

    with pytest.raises(Exception, match=r"broke|network error|idle") as error:
        pause()
    assert is_outage(error.value)
    assert pid() not in ended


def test_a_statement_over_its_time_is_its_own_fault_and_costs_no_connection(database: Engine) -> None:
    own = pid()
    with transaction() as tx:
        tx.exec_driver_sql("SAVEPOINT job")
        tx.execute(text("SELECT set_config('statement_timeout', '50ms', true)"))
        with pytest.raises(DBAPIError) as cancelled:
            tx.execute(text("SELECT pg_sleep(60)"))
        tx.exec_driver_sql("ROLLBACK TO SAVEPOINT job")
    assert is_too_slow(cancelled.value)
    assert not is_outage(cancelled.value)
    assert pid() == own


VALUES = {
    "an instant before the first year": datetime.min.replace(tzinfo=timezone(timedelta(hours=1))),
    "half of a surrogate pair": "\ud800",
    "no type that the driver knows, which fails to be written": type("Odd", (), {"__str__": lambda _: 1 / 0})(),
}


@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES)
def test_a_value_that_cannot_be_sent_is_the_callers_own_error(database: Engine, value: object) -> None:
    with transaction() as tx:
        own = tx.execute(PID).scalar_one()
        tx.exec_driver_sql("SAVEPOINT job")
        with pytest.raises(Exception, match=r".") as error:
            tx.execute(text("SELECT :value"), {"value": value})
        assert not is_outage(error.value)
        tx.exec_driver_sql("ROLLBACK TO SAVEPOINT job")
        assert tx.execute(text("SELECT CAST(:n AS int)"), {"n": 7}).scalar_one() == 7
    assert pid() == own


def test_more_values_than_the_protocol_counts_are_the_callers_own_error(database: Engine) -> None:
    names = [f"v{n}" for n in range(66_000)]
    statement = text("SELECT " + ", ".join(f":{name}" for name in names))
    with transaction() as tx:
        with pytest.raises(Exception, match=r".") as error:
            tx.execute(statement, dict.fromkeys(names, 1))
        assert not is_outage(error.value)
        assert tx.execute(text("SELECT CAST(:n AS int)"), {"n": 7}).scalar_one() == 7


@pytest.mark.parametrize("strange", ["time '24:00'", "interval '2000000000 days'"])
def test_a_value_that_python_cannot_hold_is_the_readers_own_error(database: Engine, strange: str) -> None:
    with transaction() as tx:
        own = tx.execute(PID).scalar_one()
        with pytest.raises(Exception, match=r".") as error:
            tx.execute(text(f"SELECT n, {strange} FROM generate_series(1, 3) AS n"))
        assert not is_outage(error.value)
        assert tx.execute(text("SELECT CAST(:n AS int)"), {"n": 7}).scalar_one() == 7
    assert pid() == own


def test_a_connection_that_is_out_of_step_is_not_kept(database: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    own = pid()

    def fail(*_: object) -> None:
        raise RuntimeError("in the middle of an answer")

    with database.connect() as connection:
        driver = connection.connection.driver_connection
        assert driver is not None
        monkeypatch.setitem(driver.message_types, b"C", fail)
        with pytest.raises(RuntimeError) as error:
            connection.execute(text("SELECT 1"))
    assert not is_outage(error.value)
    assert pid() != own


def test_a_database_that_is_not_there_is_an_outage(database: Engine) -> None:
    gone = from_url(os.environ["DATABASE_URL"].replace("/test_", "/gone_"))
    engine = create_engine("postgresql+pg8000://", creator=lambda: db.connect(gone))
    with pytest.raises(DatabaseAway, match=r"takes no connection .*SQLSTATE 3D000"):
        engine.connect()
