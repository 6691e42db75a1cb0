"""Sessions of ours have their limits and formats, whatever a stranger set on the database or on our role."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, NullPool, create_engine, text

from functions.core.catalog import CATALOG
from functions.db import engine as db
from functions.db import sessions
from functions.db.migrate import migrate
from functions.db.reshape import Patience, reshape
from functions.db.settings import DatabaseSettings, from_url
from functions.pipeline import sweep
from functions.pipeline.rerun import rerun
from tests.harness import Queues, new_tenant

HOSTILE = {
    "DateStyle": "German",
    "IntervalStyle": "sql_standard",
    "TimeZone": "Asia/Kathmandu",
    "bytea_output": "escape",
    "standard_conforming_strings": "off",
    "extra_float_digits": "-10",
    "client_encoding": "LATIN1",
    "array_nulls": "off",
    "transform_null_equals": "on",
    "default_transaction_isolation": "serializable",
    "lc_messages": "C",
    "statement_timeout": "1",
}
LEVELS = ["ALTER DATABASE {database}", "ALTER ROLE {role}", "ALTER ROLE ALL IN DATABASE {database}"]

VALUES: dict[str, tuple[str, Any]] = {
    "date": ("date", date(2026, 12, 5)),
    "instant": ("timestamptz", datetime(2026, 12, 5, 23, 30, 1, 250_000, tzinfo=UTC)),
    "interval": ("interval", timedelta(days=3, hours=4, seconds=5, milliseconds=6)),
    "negative interval": ("interval", timedelta(days=-3, hours=4)),
    "bytes": ("bytea", b"\x00\\'\xff bytes"),
    "float": ("float8", 0.1 + 0.2),
    "decimal": ("numeric", Decimal("1234567.891")),
    "text": ("text", "back\\slash 'quoted' \\n 日本 €"),
    "array": ("text[]", ["NULL", "a\\b", "日本"]),
}
LITERALS = {
    r"SELECT 'a\n'": "a\\n",
    "SELECT date '2026-12-05'": date(2026, 12, 5),
    "SELECT CAST('{NULL}' AS text[])": [None],
    "SELECT (NULL = NULL) IS NULL": True,
    "SELECT timestamptz '2026-12-05 01:00'": datetime(2026, 12, 5, 1, tzinfo=UTC),
    "SHOW transaction_isolation": "read committed",
    "SHOW statement_timeout": "1min",
    "SHOW lock_timeout": "5s",
    "SHOW idle_in_transaction_session_timeout": "75s",
}


@contextmanager
def connected(settings: DatabaseSettings) -> Iterator[Connection]:
    engine = create_engine("postgresql+pg8000://", creator=lambda: db.connect(settings), poolclass=NullPool)
    with engine.connect() as connection:
        yield connection


@pytest.fixture
def role(database: Engine) -> Iterator[DatabaseSettings]:
    """A role of the test's own, in the test's own database, that has migrated it."""
    name = f"own_{os.getpid()}"
    own = from_url(os.environ["DATABASE_URL"])
    with database.begin() as tx:
        tx.execute(text(f"CREATE ROLE {name} SUPERUSER LOGIN PASSWORD 'x'"))
    settings = replace(own, user=name, password="x")
    with connected(settings) as connection, connection.begin():
        migrate(connection)
    yield settings
    with database.begin() as tx:
        tx.execute(text(f"DROP ROLE {name}"))


def test_every_limit_and_format_holds_directly_and_through_a_proxy(role: DatabaseSettings) -> None:
    for through_proxy in (False, True):
        with connected(replace(role, through_proxy=through_proxy)) as connection:
            found = {name: connection.execute(text(f"SHOW {name}")).scalar_one() for name in sessions.SETTINGS}
        wanted = dict(sessions.SETTINGS) | {"statement_timeout": "1min"}
        if role.is_local_socket:
            wanted |= dict.fromkeys((name for name in wanted if name.startswith("tcp_")), "0")
        assert found == wanted


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("through_proxy", [False, True], ids=["direct", "proxy"])
def test_no_setting_of_a_database_or_role_changes_what_is_read_or_written(
    role: DatabaseSettings, database: Engine, level: str, through_proxy: bool
) -> None:
    whom = level.format(database=role.database, role=role.user)
    with database.begin() as tx:
        for name, value in HOSTILE.items():
            tx.exec_driver_sql(f"{whom} SET {name} = '{value}'")
    with connected(replace(role, through_proxy=through_proxy)) as connection:
        for kind, value in VALUES.values():
            assert connection.execute(text(f"SELECT CAST(:value AS {kind})"), {"value": value}).scalar_one() == value
        for statement, expected in LITERALS.items():
            assert connection.exec_driver_sql(statement).scalar_one() == expected, statement
    with database.begin() as tx:
        tx.exec_driver_sql(f"{whom} RESET ALL")


@pytest.mark.parametrize("style", ["German", "SQL, DMY", "Postgres, DMY"])
def test_a_schedule_plans_the_same_days_and_names_under_any_date_style(database: Engine, style: str) -> None:
    """Also where a session has it all the same: no statement of the flow depends on it."""
    with database.begin() as tx:
        tx.execute(text("SELECT set_config('DateStyle', :style, true)"), {"style": style})
        tenant = new_tenant(tx)
        [schedule, *_] = CATALOG.schedules.values()
        assert rerun(tx, schedule, day=date(2026, 12, 5)).planned == 1
        [row] = tx.execute(text("SELECT correlation_id, payload FROM jobs"))
    assert row.correlation_id == f"{schedule.name}/2026-12-05/{tenant}"
    assert row.payload == {"local_date": "2026-12-05"}


def _settings_of(tx: Connection) -> set[tuple[str, str, str]]:
    found = tx.execute(
        text(
            "SELECT coalesce(d.datname, ''), coalesce(r.rolname, ''), setconfig FROM pg_db_role_setting s"
            " LEFT JOIN pg_database d ON d.oid = s.setdatabase LEFT JOIN pg_roles r ON r.oid = s.setrole"
        )
    )
    return {(database, role, entry) for database, role, entries in found for entry in entries}


def test_migrate_sets_them_for_our_role_here_and_for_nobody_else(role: DatabaseSettings) -> None:
    with connected(role) as connection, connection.begin():
        before = _settings_of(connection)
        ours = {entry for entry in before if entry[:2] == (role.database, role.user)}
        assert {entry.partition("=")[0] for _, _, entry in ours} == set(sessions.SETTINGS)
        connection.exec_driver_sql(f"ALTER ROLE {role.user} IN DATABASE {role.database} SET work_mem = '8MB'")
        connection.exec_driver_sql(f"ALTER ROLE {role.user} IN DATABASE {role.database} SET lock_timeout = '1h'")
        sessions.keep(connection)
        assert _settings_of(connection) == before | {(role.database, role.user, "work_mem=8MB")}


def test_a_role_without_that_right_migrates_all_the_same(
    database: Engine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    denied = text("SELECT 'ALTER ROLE pg_monitor SET lock_timeout = ''1s''' WHERE CAST(:settings AS text) <> ''")
    monkeypatch.setattr(sessions, "DIFFERING", denied)
    with database.begin() as tx:
        sessions.keep(tx)
        assert tx.execute(text("SELECT 1")).scalar_one() == 1
    assert "session_settings_not_kept" in capsys.readouterr().out


def test_a_database_with_a_strange_name_keeps_them_too(database: Engine, role: DatabaseSettings) -> None:
    name = 'we"ird % name'
    with database.connect().execution_options(isolation_level="AUTOCOMMIT") as admin:
        admin.exec_driver_sql('CREATE DATABASE "we""ird % name"')
        with connected(replace(role, database=name)) as connection, connection.begin():
            sessions.keep(connection)
            ours = {entry for entry in _settings_of(connection) if entry[0] == name}
            assert len(ours) == len(sessions.SETTINGS)
        admin.exec_driver_sql('DROP DATABASE "we""ird % name" WITH (FORCE)')


def test_a_change_of_tables_may_take_longer_than_a_statement_may(database: Engine) -> None:
    """It lifts the limits for its own transaction, and leaves none of that behind."""

    def limits(tx: Connection) -> list[str]:
        names = ("statement_timeout", "idle_in_transaction_session_timeout")
        return [tx.execute(text(f"SHOW {name}")).scalar_one() for name in names]

    assert reshape(limits, Patience(lock_milliseconds=50, pause_seconds=0, seconds=1)) == ["0", "0"]
    with database.begin() as tx:
        assert limits(tx) == ["1min", "75s"]


def test_a_session_that_holds_the_rows_of_queues_keeps_the_sweep_from_nothing_else(
    queues: Queues, observer: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sessions.SETTINGS, "lock_timeout", "100ms")
    with observer.connect() as dead:
        dead.execute(text("SELECT name FROM queues FOR UPDATE"))
        report = sweep.sweep(datetime.now(UTC))
        assert {"failed", "postponed", "skipped"}.isdisjoint(map(str, report.values()))
        assert report["conservation"] is True
