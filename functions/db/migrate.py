"""Brings the database up to date: schema by alembic, then the tables that mirror the code's catalogue.

Runs as the function `migrate` on deploy and as `duecourse db migrate`. Running it again changes nothing.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zoneinfo import available_timezones

from sqlalchemy import text

from functions.core.catalog import CATALOG, Catalog
from functions.core.clock import is_zone
from functions.core.job import TRANSITIONS
from functions.db import sessions
from functions.db.custom_resource import answer, is_request
from functions.db.deadline import deadline
from functions.db.engine import engine, error_text, is_outage
from functions.db.reshape import Patience, reshape

if TYPE_CHECKING:
    from alembic.config import Config
    from sqlalchemy import Connection

MIGRATIONS = Path(__file__).parents[2] / "infra" / "migrations"
MONTHS_AHEAD = 3
DATABASE_PATIENCE_SECONDS = 120
DATABASE_POLL_SECONDS = 3
PATIENCE = Patience(lock_milliseconds=1_000, pause_seconds=3, seconds=120)
"""A deployment holds the ledger up for a second at a time."""
MIGRATION_LOCK = 4_735_911
"""Key of the transaction-level advisory lock that makes two deployments migrate one after the other."""

SYNC_TIME_ZONES = text("INSERT INTO time_zones SELECT unnest(CAST(:names AS text[])) ON CONFLICT DO NOTHING")

SYNC_QUEUES = text("""
    INSERT INTO queues (name, fifo)
    SELECT name, fifo FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS r(name text, fifo boolean)
    ON CONFLICT (name) DO UPDATE SET fifo = excluded.fifo
""")

SYNC_JOB_TYPES = text("""
    INSERT INTO job_types (name, queue, group_by)
    SELECT name, queue, group_by FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS r(
        name text, queue text, group_by text[])
    ON CONFLICT (name) DO UPDATE SET queue = excluded.queue, group_by = excluded.group_by
""")

SYNC_TRANSITIONS = text("""
    WITH legal AS (
        SELECT * FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS r(from_state text, to_state text)
    ), outdated AS (
        DELETE FROM job_transitions WHERE (from_state, to_state) NOT IN (SELECT from_state, to_state FROM legal)
    )
    INSERT INTO job_transitions SELECT from_state, to_state FROM legal ON CONFLICT DO NOTHING
""")

# A schedule is on from the moment it first exists here: what is already past today does not fire.
SYNC_SCHEDULES = text("""
    INSERT INTO schedules (name, enabled_since) SELECT unnest(CAST(:names AS text[])), now() ON CONFLICT DO NOTHING
""")

ENSURE_PARTITIONS = text("SELECT ensure_job_partitions(:months_ahead)")


def migrate(connection: Connection, catalog: Catalog = CATALOG) -> str:
    """Upgrade the schema to the newest revision and mirror the catalogue, all in the connection's transaction.

    Returns the revision reached. A schema that a later release made is left as it is.
    """
    from alembic import command
    from alembic.runtime.migration import MigrationContext
    from alembic.script import ScriptDirectory

    connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": MIGRATION_LOCK})
    config = _alembic_config(connection)
    current = MigrationContext.configure(connection).get_current_revision()
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    if current is not None and current not in known:
        # A deployment is being rolled back. Migrations expand before they contract, so this code can run on it.
        print(json.dumps({"message": "schema_is_newer_than_the_code", "revision": current}))
        return current
    command.upgrade(config, "head")
    sync_catalog(connection, catalog)
    connection.execute(ENSURE_PARTITIONS, {"months_ahead": MONTHS_AHEAD})
    sessions.keep(connection)
    return MigrationContext.configure(connection).get_current_revision() or "none"


def sync_catalog(connection: Connection, catalog: Catalog) -> None:
    """Mirror queues, job types, legal transitions, schedules and time zones into the tables that SQL reads."""
    connection.execute(SYNC_TIME_ZONES, {"names": sorted(filter(is_zone, available_timezones()))})
    queues = [{"name": queue.name, "fifo": queue.fifo} for queue in catalog.queues.values()]
    connection.execute(SYNC_QUEUES, {"rows": json.dumps(queues)})
    job_types = [
        {"name": row.name, "queue": row.queue, "group_by": row.group or None} for row in catalog.job_types.values()
    ]
    connection.execute(SYNC_JOB_TYPES, {"rows": json.dumps(job_types)})
    moves = [{"from_state": old, "to_state": new} for old, news in TRANSITIONS.items() for new in news]
    connection.execute(SYNC_TRANSITIONS, {"rows": json.dumps(moves)})
    connection.execute(SYNC_SCHEDULES, {"names": sorted(catalog.schedules)})


def _alembic_config(connection: Connection) -> Config:
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.attributes["connection"] = connection
    return config


def handler(event: Any, context: Any) -> dict[str, Any]:
    """Lambda `migrate`: on every deployment as a CloudFormation custom resource, or by hand with any event."""
    with deadline(context):
        if is_request(event):
            reply = answer(event, _migrate)
            print(json.dumps({"message": "deployment_migrated", "status": reply["Status"], "reason": reply["Reason"]}))
            return reply
        return _migrate()


def _migrate() -> dict[str, str]:
    await_database()
    revision = reshape(migrate, PATIENCE)
    print(json.dumps({"message": "migrated", "revision": revision}))
    return {"revision": revision}


def await_database(patience_seconds: float = DATABASE_PATIENCE_SECONDS) -> None:
    """Wait until the database answers: on a first deployment the proxy is there before it has found its target.

    Raises `DatabaseAway` when patience is over.
    """
    deadline = time.monotonic() + patience_seconds
    while True:
        try:
            with engine().connect() as connection:
                connection.execute(text("SELECT 1"))
        except Exception as error:
            if not is_outage(error) or time.monotonic() > deadline:
                raise
            print(json.dumps({"message": "waiting_for_the_database", "error": error_text(error)}))
            time.sleep(DATABASE_POLL_SECONDS)
        else:
            return
