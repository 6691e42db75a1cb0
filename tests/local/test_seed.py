"""Seeding a migrated database."""

from __future__ import annotations

from datetime import UTC, date, datetime

import pytest
from sqlalchemy import Connection, Engine, text

from duecourse.local import seed
from duecourse.local.errors import LocalError
from functions.core.errors import DatabaseNotMigrated

DAY = date(2026, 3, 31)
NOW = datetime(2026, 3, 30, tzinfo=UTC)


def counts(connection: Connection) -> dict[str, int]:
    return {table: connection.scalar(text(f"SELECT count(*) FROM {table}")) or 0 for table in seed.COLUMN_TYPES}


def test_seeding_writes_what_was_asked_for_and_resetting_removes_it(database: Engine) -> None:
    with database.begin() as connection:
        written = seed.seed(connection, day=DAY, created_at=NOW, tenants=3, clients=20, documents=60, filings=40)
        found = counts(connection)
        assert (written.tenants, written.clients, written.documents, written.filings) == (3, 20, 60, 40)
        assert (found["tenants"], found["clients"], found["documents"], found["filings"]) == (3, 20, 60, 40)
        assert found["document_versions"] == written.versions
        assert connection.scalars(text("SELECT DISTINCT created_at FROM tenants")).all() == [NOW]
        kept = connection.scalar(text("SELECT count(*) FROM job_types"))
        seed.reset(connection)
        assert set(counts(connection).values()) == {0}
        assert connection.scalar(text("SELECT count(*) FROM job_types")) == kept


def test_seeding_twice_is_refused(database: Engine) -> None:
    with database.begin() as connection:
        seed.seed(connection, day=DAY, created_at=NOW, tenants=1, clients=1, documents=1, filings=1)
        with pytest.raises(LocalError, match="the database has tenants already: `duecourse db seed --reset`"):
            seed.seed(connection, day=DAY, created_at=NOW, tenants=1, clients=1, documents=1, filings=1)


def test_seeding_a_database_without_schema_names_the_command(database: Engine) -> None:
    with database.begin() as connection:
        connection.execute(text("DROP SCHEMA public CASCADE; CREATE SCHEMA public"))
        with pytest.raises(DatabaseNotMigrated, match="run `duecourse db migrate`"):
            seed.seed(connection, day=DAY, created_at=NOW)
