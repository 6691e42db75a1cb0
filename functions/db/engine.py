"""One lazy connection to PostgreSQL per process: pg8000 through SQLAlchemy Core.

A Lambda process serves one event at a time, so the pool holds one connection and never overflows.
"""

from __future__ import annotations

import socket
from contextlib import contextmanager
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import create_engine, event
from sqlalchemy.exc import DBAPIError

from functions.core.errors import ConfigurationError, DatabaseAway, DatabaseNotMigrated, ServiceAway
from functions.db import sessions, sockets
from functions.db.deadline import at_most
from functions.db.settings import DatabaseSettings, load_settings
from functions.db.shared import refuse_to_end

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from sqlalchemy import Connection, Engine
    from sqlalchemy.engine import ExceptionContext

CONNECT_TIMEOUT_SECONDS = 10
RECYCLE_SECONDS = 300
"""Under the 350 s after which AWS's network forgets an idle connection, without a word to either end."""
CA_BUNDLE = Path(__file__).with_name("rds-global-bundle.pem")

AWAY_CLASSES = ("08", "53", "57P")
"""Connection failure, out of resources (connections, memory, disk), and the server ending sessions (shutdown, crash,
start). Not 57014: a statement that was cancelled, by its own time limit say, has itself to blame."""
AWAY = frozenset({"25006", "25P03", "25P04"})
"""A server that became read-only (a writer demoted by failover); a session ended since its transaction lasted."""
PARAMETERS_REFUSED = frozenset({"08P01", "0A000", "22023", "42704"})
"""How a pooler, and an older server, refuse a parameter of a connection's start."""
MISSING_OBJECT = frozenset({"42P01", "42703", "42704", "42883"})
"""Undefined table, column, object, function: the schema is older than the code.
https://www.postgresql.org/docs/current/errcodes-appendix.html"""


@cache
def engine() -> Engine:
    """The process's engine. Nothing is connected, and no secret read, until the first statement.

    The settings are read anew for each connection, so that a rotated password needs no new process. The first
    statement raises `ConfigurationError` when the environment names no database.
    """
    return _make_engine(load_settings)


def make_engine(settings: DatabaseSettings) -> Engine:
    """An engine for these settings: one connection, kept."""
    return _make_engine(lambda: settings)


def _make_engine(read_settings: Callable[[], DatabaseSettings]) -> Engine:
    made = create_engine(
        "postgresql+pg8000://",
        creator=lambda: connect(read_settings()),
        pool_size=1,
        max_overflow=0,
        pool_recycle=RECYCLE_SECONDS,
        pool_reset_on_return="rollback",
        hide_parameters=True,  # they hold personal data, and errors are logged
    )
    event.listen(made, "before_cursor_execute", refuse_to_end)
    event.listen(made, "after_cursor_execute", statements.add)
    event.listen(made, "handle_error", _judge)
    return made


def _judge(context: ExceptionContext) -> None:
    """Give up a connection that cannot be used again, and name a socket that broke."""
    error = context.original_exception
    if isinstance(error.__cause__, OSError):
        context.is_disconnect = True
        raise DatabaseAway(f"the connection to PostgreSQL broke ({error.__cause__})")
    if _says_away(sqlstate(error)) or not _in_step(context.connection):
        context.is_disconnect = True


def _in_step(connection: Connection | None) -> bool:
    if connection is None or connection.closed or connection.invalidated:
        return True
    return bool(getattr(connection.connection.driver_connection, "in_step", True))


class StatementCount:
    """How many statements this process has sent, BEGIN and COMMIT excluded: each costs round trips."""

    total = 0

    def add(self, *_: object) -> None:
        self.total += 1


statements = StatementCount()


def pg_array(texts: Iterable[str]) -> str:
    """Texts without quotes, commas or braces (ids) as PostgreSQL writes an array of them, to be cast to its type.

    pg8000 looks at each element of a list for how to write it, 15 µs for an id.
    """
    return f"{{{','.join(texts)}}}"


@contextmanager
def transaction() -> Iterator[Connection]:
    """A connection in a transaction: committed at the end of the block, rolled back when it raises.

    Raises `DatabaseNotMigrated` where a statement met a table, column or function that does not exist.
    """
    try:
        with engine().begin() as connection:
            yield connection
    except DBAPIError as error:
        if is_not_migrated(error):
            raise DatabaseNotMigrated(
                f"the schema is older than the code ({error_text(error)}): run `duecourse db migrate`"
            ) from error
        raise


def is_outage(error: BaseException) -> bool:
    """Whether the database, or the store of its password, was away, as against a statement being wrong."""
    if isinstance(error, ServiceAway):
        return True
    return isinstance(error, DBAPIError) and (error.connection_invalidated or _says_away(sqlstate(error)))


def _says_away(state: str) -> bool:
    return state in AWAY or state.startswith(AWAY_CLASSES)


def is_conflict(error: BaseException) -> bool:
    """Whether a statement lost against another transaction: a deadlock, a serialization failure, a lock not had."""
    return isinstance(error, DBAPIError) and (sqlstate(error)[:2] == "40" or sqlstate(error) == "55P03")


def is_too_slow(error: BaseException) -> bool:
    """Whether a statement took longer than it may, and was cancelled: its own fault."""
    return isinstance(error, DBAPIError) and sqlstate(error) == "57014"


def is_not_migrated(error: BaseException) -> bool:
    """Whether a statement met a table or function that does not exist yet."""
    if isinstance(error, DatabaseNotMigrated):
        return True
    return isinstance(error, DBAPIError) and sqlstate(error) in MISSING_OBJECT


def is_nobodys_fault(error: BaseException) -> bool:
    """Whether no job is to blame, outside of its own code: the database is away, behind the code or not configured,
    others won, or a statement of ours was cancelled, most often since the invocation ends.
    """
    expected = is_outage(error) or is_conflict(error) or is_too_slow(error) or is_not_migrated(error)
    return expected or isinstance(error, ConfigurationError)


def sqlstate(error: BaseException) -> str:
    """PostgreSQL's five-character error code, or an empty string."""
    return str(_details(error).get("C", ""))


def error_text(error: BaseException) -> str:
    """An error's message without the values that a database error quotes (its failing row, its parameters)."""
    if details := _details(error):
        return f"{details.get('M', '')} (SQLSTATE {details.get('C', '')})"
    if isinstance(error, DBAPIError) and error.orig is not None:
        return str(error.orig)
    try:
        return str(error)
    except Exception:  # noqa: BLE001 - an error that cannot say what it is must not take its neighbours down
        return "its text cannot be read"


def _details(error: BaseException) -> dict[str, str]:
    """The fields of a server's error, by their one-letter codes; empty for an error that is not a server's."""
    found = error.orig if isinstance(error, DBAPIError) else error
    details = found.args[0] if found is not None and found.args else None
    return details if isinstance(details, dict) else {}


def connect(settings: DatabaseSettings) -> Any:
    """A pg8000 connection: TLS verified against the RDS bundle, or a local unix socket.

    Raises `DatabaseAway` when it cannot be made, whatever the reason: nobody answers, the password has just been
    rotated, there is no room. No job and no statement can be blamed for that.
    """
    import pg8000.dbapi

    _remember_placeholders()
    try:
        with at_most(CONNECT_TIMEOUT_SECONDS):
            try:
                return _open(settings, sessions.startup_parameters(settings))
            except pg8000.dbapi.DatabaseError as error:
                if sqlstate(error) not in PARAMETERS_REFUSED:
                    raise
                return _open(settings, sessions.portable_parameters())
    except pg8000.dbapi.DatabaseError as error:
        raise DatabaseAway(
            f"PostgreSQL at {settings.host}, port {settings.port} takes no connection ({error_text(error)}): check"
            " user, password and database where they are set"
        ) from error
    except Exception as error:
        raise DatabaseAway(
            f"PostgreSQL does not answer at {settings.host}, port {settings.port} ({error}): is it running and"
            " reachable?"
        ) from error


def _open(settings: DatabaseSettings, parameters: dict[str, str]) -> Any:
    from functions.db.connection import Connection

    return Connection(
        user=settings.user,
        password=settings.password,
        database=settings.database,
        startup_params=parameters,
        **transport(settings),
    )


@cache
def _remember_placeholders() -> None:
    """Have pg8000 convert a statement's %s to $1 once: it reads the text letter by letter at every execution, which
    took 3 ms of the 15 that claiming and settling a hundred jobs took.
    """
    import pg8000.dbapi

    convert = pg8000.dbapi.convert_paramstyle

    @lru_cache(maxsize=512)
    def converted(statement: str) -> str:
        text: str = convert("format", statement, ())[0]
        return text

    def remembered(style: str, statement: str, values: Any) -> tuple[str, Any]:
        return (converted(statement), values) if style == "format" else convert(style, statement, values)

    pg8000.dbapi.convert_paramstyle = remembered


def transport(settings: DatabaseSettings) -> dict[str, Any]:
    """How pg8000 reaches the server: an open socket, and whether TLS goes on top of it. Raises `OSError`."""
    if settings.is_local_socket:
        # A unix socket has no TLS; unless told so, pg8000 spends 20 ms on loading the machine's roots before it asks.
        sock = sockets.connected(socket.AF_UNIX, f"{settings.host}/.s.PGSQL.{settings.port}")
        return {"sock": sock, "ssl_context": False}
    tls = sockets.tls_context(CA_BUNDLE) if settings.wants_tls else None
    return {"host": settings.host, "sock": sockets.dial(settings.host, settings.port), "ssl_context": tls}
