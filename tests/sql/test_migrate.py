"""Migrating: from nothing to now, again without effect, from two places at once, down and up again."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4
from zoneinfo import available_timezones

import pytest
from alembic import command
from sqlalchemy import Connection, Engine, text

from duecourse.local.delivery import Context
from functions.compliance import refresh
from functions.core.catalog import CATALOG, Catalog
from functions.core.errors import DatabaseNotMigrated, DuecourseError
from functions.core.job import TRANSITIONS
from functions.db import engine as db
from functions.db.migrate import MIGRATIONS, _alembic_config, migrate, sync_catalog
from functions.db.settings import DatabaseSettings, connection_url
from functions.pipeline import relay, sweep
from functions.pipeline.conservation import conservation
from tests.harness import Queues, order, probe, states
from tests.sql.test_planning_day import tick

MIGRATE = "from functions.db.migrate import handler; handler({}, None)"


@pytest.fixture
def empty(postgres: DatabaseSettings, monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    """A database in which nothing was ever migrated, used by the code under test too."""
    admin = db.make_engine(postgres)
    name = f"empty_{uuid4().hex}"
    with admin.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
        monkeypatch.setenv("DATABASE_URL", connection_url(replace(postgres, database=name)))
        db.engine.cache_clear()
        yield db.engine()
        db.engine().dispose()
        db.engine.cache_clear()
        connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
    admin.dispose()


def everything(tx: Connection) -> dict[str, Any]:
    """What there is: tables, functions, triggers, and the rows that mirror the catalogue."""
    queries = {
        "columns": """SELECT table_name, column_name, data_type, is_nullable, column_default
                      FROM information_schema.columns WHERE table_schema = 'public'""",
        "indexes": "SELECT indexdef FROM pg_indexes WHERE schemaname = 'public'",
        "constraints": """SELECT conrelid::regclass::text, pg_get_constraintdef(oid) FROM pg_constraint
                          WHERE connamespace = 'public'::regnamespace""",
        "functions": "SELECT pg_get_functiondef(oid) FROM pg_proc WHERE pronamespace = 'public'::regnamespace",
        "triggers": "SELECT pg_get_triggerdef(oid) FROM pg_trigger WHERE NOT tgisinternal",
        "comments": "SELECT objoid::regclass::text, objsubid, description FROM pg_description WHERE objoid > 16000",
    }
    mirrors = ["queues", "job_types", "job_transitions", "schedules", "time_zones"]
    found = {key: sorted(map(str, tx.execute(text(query)))) for key, query in queries.items()}
    if any("'queues'" in column for column in found["columns"]):
        found |= {table: sorted(map(str, tx.execute(text(f"SELECT * FROM {table}")))) for table in mirrors}
    return found


NEWEST = max(path.name[:4] for path in (MIGRATIONS / "versions").glob("*.py"))


def test_migrating_again_changes_nothing(database: Engine) -> None:
    with database.begin() as tx:
        before = everything(tx)
        order(tx, probe())
    with database.begin() as tx:
        assert migrate(tx) == NEWEST
    with database.begin() as tx:
        assert everything(tx) == before
        assert states(tx) == {"waiting": 1}


def test_two_deployments_at_once_migrate_one_after_the_other(empty: Engine) -> None:
    both = [
        subprocess.Popen([sys.executable, "-c", MIGRATE], env=dict(os.environ), stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    errors = [process.communicate(timeout=60)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], errors
    with empty.begin() as tx:
        order(tx, probe())
        assert conservation(tx).holds


def test_down_to_nothing_and_up_again_leads_to_the_same_schema(database: Engine) -> None:
    with database.begin() as tx:
        order(tx, probe())
        before = everything(tx)
        command.downgrade(_alembic_config(tx), "base")
        left = everything(tx)
        assert {line for key in ("functions", "triggers") for line in left[key]} == set()
        assert all("'alembic_version'" in line for line in left["columns"])
        migrate(tx)
        after = everything(tx)
        assert {key: after[key] for key in after if key != "schedules"} == {
            key: before[key] for key in before if key != "schedules"
        }


def test_a_migration_that_fails_leaves_the_database_as_it_was(empty: Engine) -> None:
    broken = Catalog(tuple(CATALOG.queues.values()), tuple(CATALOG.job_types.values()), ())
    broken.queues = {}  # its job types refer to queues that are not there
    with pytest.raises(Exception, match="job_types_queue_fkey"), empty.begin() as tx:
        migrate(tx, broken)
    with empty.begin() as tx:
        assert everything(tx)["columns"] == []


def test_the_catalogue_is_mirrored(database: Engine) -> None:
    with database.begin() as tx:
        queues = {tuple(row) for row in tx.execute(text("SELECT name, fifo FROM queues"))}
        types = {tuple(row) for row in tx.execute(text("SELECT name, queue FROM job_types"))}
        moves = {tuple(row) for row in tx.execute(text("SELECT from_state, to_state FROM job_transitions"))}
        schedules = {row.name for row in tx.execute(text("SELECT name FROM schedules WHERE enabled_since <= now()"))}
    assert queues == {(queue.name, queue.fifo) for queue in CATALOG.queues.values()}
    assert types == {(row.name, row.queue) for row in CATALOG.job_types.values()}
    assert moves == {(str(old), str(new)) for old, news in TRANSITIONS.items() for new in news}
    assert schedules == set(CATALOG.schedules)


def test_every_time_zone_that_python_knows_is_one_a_tenant_may_have(database: Engine) -> None:
    with database.begin() as tx:
        names = {row.name for row in tx.execute(text("SELECT name FROM time_zones"))}
    assert names == available_timezones() - {"localtime", "posixrules", "Factory"}


def test_a_type_that_moves_to_another_queue_moves_here_too(database: Engine) -> None:
    moved = replace(CATALOG.job_type("upkeep.probe"), queue="email-bulk")
    with database.begin() as tx:
        sync_catalog(tx, Catalog(tuple(CATALOG.queues.values()), (moved,), ()))
        found = tx.execute(text("SELECT queue FROM job_types WHERE name = 'upkeep.probe'")).scalar_one()
        assert found == "email-bulk"


def test_a_schedule_is_on_from_when_it_first_appears_and_a_later_deployment_does_not_touch_it(
    database: Engine,
) -> None:
    known = CATALOG.schedules["daily-compliance-refresh"]
    added = replace(known, name="daily-novelty")
    both = Catalog(tuple(CATALOG.queues.values()), tuple(CATALOG.job_types.values()), (known, added))
    with database.begin() as tx:
        tx.execute(text("UPDATE schedules SET enabled_since = NULL"))
        sync_catalog(tx, both)
        since = dict(map(tuple, tx.execute(text("SELECT name, enabled_since FROM schedules"))))
    assert since["daily-compliance-refresh"] is None, "a schedule that was switched off came on again"
    assert abs(datetime.now(UTC) - since["daily-novelty"]) < timedelta(seconds=30)


def test_a_move_that_is_no_longer_legal_is_taken_out(database: Engine) -> None:
    with database.begin() as tx:
        tx.execute(text("INSERT INTO job_transitions VALUES ('completed', 'waiting')"))
        sync_catalog(tx, CATALOG)
        query = text("SELECT count(*) FROM job_transitions WHERE from_state = 'completed'")
        assert tx.execute(query).scalar_one() == 0


def test_without_a_schema_the_cron_handler_says_what_to_do(empty: Engine, queues: Queues) -> None:
    with pytest.raises(DatabaseNotMigrated, match="run `duecourse db migrate`"):
        refresh.handler(tick("2026-11-24T02:00:00Z"), None)


def test_without_a_schema_the_sweep_says_what_to_do(empty: Engine, queues: Queues) -> None:
    with pytest.raises(DuecourseError, match="run `duecourse db migrate`"):
        sweep.sweep(datetime.now(UTC))


def test_without_a_schema_the_relay_waits_and_says_what_to_do(
    empty: Engine, queues: Queues, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from functions.pipeline import observe

    monkeypatch.setenv("POWERTOOLS_SERVICE_NAME", f"tests-{uuid4()}")
    observe.logger.cache_clear()
    assert relay.handler({}, Context(seconds=0)) == {"sent": 0}
    observe.logger.cache_clear()
    assert "run `duecourse db migrate`" in capsys.readouterr().out
