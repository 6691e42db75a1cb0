"""What every session of ours is to be like: limits, so that none is left hanging, and the formats that pg8000 reads.

Never by SET, which ties a client of RDS Proxy to one connection: as parameters of the connection's start where the
server is reached directly, and as settings of our role in our database (`keep`, at every migration), which reach
through a proxy or pooler as well. docs/decisions/0016-settings-of-sessions.md
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlalchemy import Connection

    from functions.db.settings import DatabaseSettings

LIMITS: Mapping[str, str] = {
    # Longer than the timeout of any function that works in a transaction (60 s): only a session that nobody ends.
    "idle_in_transaction_session_timeout": "75s",
    "statement_timeout": "60s",
    "lock_timeout": "5s",
    "tcp_keepalives_idle": "60",
    "tcp_keepalives_interval": "10",
    "tcp_keepalives_count": "3",
}

FORMATS: Mapping[str, str] = {
    "client_encoding": "UTF8",
    "DateStyle": "ISO, MDY",
    "TimeZone": "UTC",
    "IntervalStyle": "postgres",
    "bytea_output": "hex",
    "extra_float_digits": "1",
    "standard_conforming_strings": "on",
    "array_nulls": "on",
    "transform_null_equals": "off",
    # CLAIM and TRIAGE count on seeing what was committed between them.
    "default_transaction_isolation": "read committed",
}
"""PostgreSQL's own defaults, which a database or role may have changed. `search_path` is theirs to choose."""

SETTINGS: Mapping[str, str] = {**LIMITS, **FORMATS}

EVERYWHERE = ("client_encoding", "DateStyle", "TimeZone")
"""What RDS Proxy and poolers accept at the start of a connection, as the JDBC driver sends it; others are refused."""

# Statements, quoted by the server, for what differs from what our role has in this database.
DIFFERING = text("""
    WITH wanted AS (
        SELECT key AS name, value FROM jsonb_each_text(CAST(:settings AS jsonb))
    ), present AS (
        SELECT split_part(entry, '=', 1) AS name, substr(entry, strpos(entry, '=') + 1) AS value
        FROM pg_db_role_setting s, unnest(s.setconfig) AS entry
        WHERE s.setdatabase = (SELECT oid FROM pg_database WHERE datname = current_database())
          AND s.setrole = (SELECT oid FROM pg_roles WHERE rolname = current_user)
    )
    SELECT format('ALTER ROLE CURRENT_USER IN DATABASE %I SET %I = %L', current_database(), w.name, w.value)
    FROM wanted w LEFT JOIN present p ON lower(p.name) = lower(w.name)
    WHERE p.value IS DISTINCT FROM w.value ORDER BY w.name
""")

LIFT_LIMITS = text("""
    SELECT set_config('statement_timeout', '0', :local), set_config('idle_in_transaction_session_timeout', '0', :local)
""")


def startup_parameters(settings: DatabaseSettings) -> dict[str, str]:
    """What a connection says at its start."""
    return portable_parameters() if settings.through_proxy else dict(SETTINGS)


def portable_parameters() -> dict[str, str]:
    """What it may say to a proxy or pooler."""
    return {name: SETTINGS[name] for name in EVERYWHERE}


def keep(tx: Connection) -> None:
    """Give our role these settings in this database, where they differ. No other role and no other database changes.

    A role that may not do so is logged, not raised: direct connections have the settings all the same.
    """
    statements = tx.execute(DIFFERING, {"settings": json.dumps(dict(SETTINGS))}).scalars().all()
    try:
        with tx.begin_nested():
            for statement in statements:
                tx.exec_driver_sql(statement)
    except DBAPIError as error:
        if error.connection_invalidated:
            raise
        print(json.dumps({"message": "session_settings_not_kept", "error": str(error.orig)}))


def lift_limits(connection: Connection, *, whole_session: bool = False) -> None:
    """Let statements, and the pauses between them, take as long as they need: in this transaction alone.

    `whole_session` is for a connection of one's own that runs outside transactions, as VACUUM demands.
    """
    connection.execute(LIFT_LIMITS, {"local": not whole_session})
