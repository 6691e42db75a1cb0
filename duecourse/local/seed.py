"""Fills the database with invented firms and their clients, the same for the same arguments.

Python draws the rows from a seeded generator (`duecourse.local.seed_world`); each table is then one INSERT … SELECT,
so that the demo's 140,000 rows take seconds.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

from sqlalchemy import Connection, text

from duecourse.local.errors import LocalError
from duecourse.local.seed_words import DOCUMENT_TYPES, FILING_TYPES
from duecourse.local.seed_world import World, imagine
from functions.core.errors import DatabaseNotMigrated

KEPT = (
    "alembic_version",
    "time_zones",
    "queues",
    "job_types",
    "job_transitions",
    "schedules",
    "operator_actions",
    "api_tokens",
    "tenants",
)
"""Tables that `reset` does not truncate: what migrate fills from the code, the record of what operators did, and, since
tokens refer to them, the tenants, which are deleted together with their own tokens alone."""

COLUMN_TYPES: dict[str, dict[str, str]] = {
    "document_types": {"code": "text", "name": "text"},
    "filing_types": {"code": "text", "name": "text"},
    "tenants": {"id": "uuid", "name": "text", "time_zone": "text"},
    "users": {"id": "uuid", "email": "text", "name": "text"},
    "tenant_users": {"tenant_id": "uuid", "user_id": "uuid", "role": "text"},
    "clients": {"tenant_id": "uuid", "id": "uuid", "name": "text", "email": "text"},
    "client_assignments": {"tenant_id": "uuid", "client_id": "uuid", "user_id": "uuid"},
    "documents": {"tenant_id": "uuid", "id": "uuid", "client_id": "uuid", "document_type": "text", "status": "text"},
    "document_versions": {"tenant_id": "uuid", "document_id": "uuid", "version": "int", "expiry_date": "date"},
    "filings": {
        "tenant_id": "uuid", "id": "uuid", "client_id": "uuid", "filing_type": "text", "status": "text",
        "due_date": "date",
    },
}  # fmt: skip
"""What is inserted, parents first."""

DATED = {"tenants", "users", "clients", "documents", "document_versions", "filings"}
"""Tables with a created_at, which is the same instant for all that is seeded."""


@dataclass(frozen=True, slots=True)
class SeedCounts:
    """Rows written."""

    tenants: int
    users: int
    clients: int
    assignments: int
    documents: int
    versions: int
    filings: int

    def __str__(self) -> str:
        return (
            f"{self.tenants} tenants, {self.users} users, {self.clients:,} clients, {self.documents:,} documents"
            f" in {self.versions:,} versions, {self.filings:,} filings"
        )


def seed(
    connection: Connection,
    *,
    day: date,
    created_at: datetime,
    tenants: int = 24,
    clients: int = 5_000,
    documents: int = 40_000,
    filings: int = 30_000,
) -> SeedCounts:
    """Write a world whose expiry and due dates lie around `day`; every tenant was created at `created_at`.

    Runs in the connection's transaction. Raises `DatabaseNotMigrated`, and `LocalError` when there are tenants already.
    """
    _require_empty(connection)
    world = imagine(day=day, tenants=tenants, clients=clients, documents=documents, filings=filings)
    rows = {"document_types": list(DOCUMENT_TYPES.items()), "filing_types": list(FILING_TYPES.items()), **world.rows()}
    for table, columns in COLUMN_TYPES.items():
        _insert(connection, table, columns, rows[table], created_at)
    connection.execute(text(f"ANALYZE {', '.join(COLUMN_TYPES)}"))
    return _counts(world)


def reset(connection: Connection) -> None:
    """Remove every tenant, user, job and count. The schema, the catalogue, the schedules and general tokens stay."""
    names = connection.scalars(
        text(
            "SELECT format('%I', relname) FROM pg_class WHERE relnamespace = current_schema()::regnamespace"
            " AND relkind IN ('r', 'p') AND NOT relispartition AND relname <> ALL(CAST(:kept AS text[]))"
        ),
        {"kept": list(KEPT)},
    ).all()
    if names:
        connection.execute(text(f"TRUNCATE {', '.join(names)} RESTART IDENTITY"))
        connection.execute(text("DELETE FROM tenants"))


def _require_empty(connection: Connection) -> None:
    if connection.scalar(text("SELECT to_regclass('tenants')")) is None:
        raise DatabaseNotMigrated("the database has no schema yet: run `duecourse db migrate`")
    if connection.scalar(text("SELECT EXISTS (SELECT FROM tenants)")):
        raise LocalError("the database has tenants already: `duecourse db seed --reset` removes them first")


def _insert(
    connection: Connection, table: str, columns: dict[str, str], rows: list[tuple[Any, ...]], created_at: datetime
) -> None:
    """One statement, one JSON parameter: pg8000 takes ten times as long to write the rows as arrays."""
    names = ", ".join(columns)
    record = ", ".join(f"{name} {kind}" for name, kind in columns.items())
    extra_column, extra_value = (", created_at", ", :created_at") if table in DATED else ("", "")
    statement = text(
        f"INSERT INTO {table} ({names}{extra_column})"
        f" SELECT {names}{extra_value} FROM json_to_recordset(CAST(:rows AS json)) AS r({record})"
    )
    values: dict[str, Any] = {"rows": json.dumps([dict(zip(columns, row, strict=True)) for row in rows])}
    connection.execute(statement, values | ({"created_at": created_at} if table in DATED else {}))


def _counts(world: World) -> SeedCounts:
    return SeedCounts(
        tenants=len(world.tenants),
        users=len(world.users),
        clients=len(world.clients),
        assignments=len(world.assignments),
        documents=len(world.documents),
        versions=len(world.versions),
        filings=len(world.filings),
    )
