"""A change of tables behind a long transaction: the change waits for its turn, and nobody waits behind the change."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import pytest
from alembic import command
from sqlalchemy import Connection, Engine, text
from typer.testing import CliRunner

from duecourse.cli import app
from duecourse.console import DEBUG_VARIABLE
from functions.core.errors import TablesInUse
from functions.core.job import State
from functions.db import migrate
from functions.db.migrate import MONTHS_AHEAD, _alembic_config
from functions.db.reshape import Patience
from functions.pipeline import months, sweep
from functions.pipeline.conservation import conservation
from tests.harness import Queues
from tests.partitions import add, month, name, partitions, start

BRIEF = Patience(lock_milliseconds=50, pause_seconds=0.1, seconds=1.5)
LONGEST_WAIT_SECONDS = 1.0
"""The longest that a write may take here, on a busy machine; without a limit it would take ten seconds."""


@pytest.fixture
def reading(observer: Engine) -> Iterator[Connection]:
    """A transaction that has read the ledger and goes on, as a backup or a forgotten console does."""
    with observer.connect() as connection:
        connection.execute(text("SET application_name = 'a forgotten console'"))
        connection.execute(text("SET idle_in_transaction_session_timeout = '30s'"))  # no test hangs for ever
        connection.commit()
        connection.execute(text("SELECT count(*) FROM jobs"))
        yield connection


def longest_wait(observer: Engine, reading: Connection, change: Callable[[], object]) -> tuple[float, object]:
    """Seconds that the slowest write to the ledger took while the change was tried, and how the change failed."""
    longest = 0.0
    with ThreadPoolExecutor(1) as pool:
        changing = pool.submit(change)
        try:
            while not changing.done():
                started = time.monotonic()
                with observer.begin() as tx:
                    tx.execute(text("SET LOCAL statement_timeout = '10s'"))
                    tx.execute(text("UPDATE jobs SET priority = priority WHERE id = uuid7_floor(now())"))
                longest = max(longest, time.monotonic() - started)
        finally:
            reading.rollback()
    return longest, changing.exception()


def lose_last_month(database: Engine, reading: Connection) -> None:
    """So that there is a month to make, behind what goes on reading."""
    reading.rollback()
    with database.begin() as tx:
        tx.execute(text(f"DROP TABLE {name(MONTHS_AHEAD)}"))
    reading.execute(text("SELECT count(*) FROM jobs"))


def test_nobody_waits_behind_a_month_that_cannot_be_retired(
    database: Engine, observer: Engine, reading: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(months, "PATIENCE", BRIEF)
    with database.begin() as tx:
        add(tx, start(0))
    waited, error = longest_wait(observer, reading, lambda: months.retire_old(month(months.RETENTION_MONTHS + 1)))
    assert waited < LONGEST_WAIT_SECONDS
    assert isinstance(error, TablesInUse)
    assert re.search(r"process \d+ \(a forgotten console, idle in transaction\), since [\d:]+ UTC", str(error))
    with observer.begin() as tx:
        assert name(0) in partitions(tx)


def test_nobody_waits_behind_a_month_that_cannot_be_made(
    database: Engine, observer: Engine, reading: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(months, "PATIENCE", BRIEF)
    lose_last_month(database, reading)
    waited, error = longest_wait(observer, reading, months.keep_ahead)
    assert waited < LONGEST_WAIT_SECONDS
    assert isinstance(error, TablesInUse)


def migrate_by_command() -> object:
    return CliRunner().invoke(app, ["db", "migrate"], env={DEBUG_VARIABLE: "1"}, catch_exceptions=False)


@pytest.mark.parametrize("change", [lambda: migrate.handler({}, None), migrate_by_command], ids=["deployed", "by hand"])
def test_nobody_waits_behind_a_migration(
    database: Engine,
    observer: Engine,
    reading: Connection,
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[], object],
) -> None:
    monkeypatch.setattr(migrate, "PATIENCE", BRIEF)
    reading.rollback()
    with database.begin() as tx:
        newest = tx.execute(text("SELECT version_num FROM alembic_version")).scalar_one()
        command.downgrade(_alembic_config(tx), "0008")  # 0009 adds a constraint to the ledger
    reading.execute(text("SELECT count(*) FROM jobs"))
    waited, error = longest_wait(observer, reading, change)
    assert waited < LONGEST_WAIT_SECONDS
    assert isinstance(error, TablesInUse)
    change()
    with database.begin() as tx:
        assert tx.execute(text("SELECT version_num FROM alembic_version")).scalar_one() == newest


def test_a_month_is_retired_once_the_transaction_has_ended(
    database: Engine, reading: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("functions.db.reshape.time.sleep", lambda _: reading.rollback())
    with database.begin() as tx:
        add(tx, start(0), State.CANCELLED)
    assert months.retire_old(month(months.RETENTION_MONTHS + 1)) == 1
    with database.begin() as tx:
        assert name(0) not in partitions(tx)
        assert conservation(tx).holds


def test_the_sweep_puts_it_off_and_does_all_else(
    database: Engine, reading: Connection, queues: Queues, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(months, "PATIENCE", BRIEF)
    lose_last_month(database, reading)
    report = sweep.sweep(datetime.now(UTC))
    assert report["partitions_made"] == "postponed"
    assert report["conservation"] is True
