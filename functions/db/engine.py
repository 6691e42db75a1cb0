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

from functions.core.errors import DatabaseAway, DatabaseNotMigrated
from functions.db.settings import DatabaseSettings, load_settings
from functions.db.shared import refuse_to_end

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterable, Iterator

    from sqlalchemy import Connection, Engine
    from sqlalchemy.engine import ExceptionContext

CONNECT_TIMEOUT_SECONDS = 10
IDLE_RECYCLE_SECONDS = 600
"""Under the 1,800 s after which RDS Proxy closes an idle client connection."""
CA_BUNDLE = Path(__file__).with_name("rds-global-bundle.pem")

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
        pool_recycle=IDLE_RECYCLE_SECONDS,
        pool_reset_on_return="rollback",
        hide_parameters=True,  # they hold personal data, and errors are logged
    )
    event.listen(made, "before_cursor_execute", refuse_to_end)
    event.listen(made, "after_cursor_execute", statements.add)
    event.listen(made, "handle_error", _socket_error_is_an_outage)
    return made


def _socket_error_is_an_outage(context: ExceptionContext) -> None:
    """pg8000 lets some errors of its socket through as they are; a job must not be blamed for them."""
    if isinstance(context.original_exception, OSError):
        context.is_disconnect = True
        raise DatabaseAway(f"the connection to PostgreSQL broke ({context.original_exception})")


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
    """Whether the database was away, as against a statement being wrong."""
    if isinstance(error, DatabaseAway):
        return True
    # Class 08 is connection failure, 57 operator intervention (shutdown), 53 out of resources (connections, disk).
    return isinstance(error, DBAPIError) and (error.connection_invalidated or sqlstate(error)[:2] in {"08", "57", "53"})


def is_conflict(error: BaseException) -> bool:
    """Whether a statement lost against another transaction: a deadlock, a serialization failure, a lock not had."""
    return isinstance(error, DBAPIError) and (sqlstate(error)[:2] == "40" or sqlstate(error) == "55P03")


def is_not_migrated(error: BaseException) -> bool:
    """Whether a statement met a table or function that does not exist yet."""
    if isinstance(error, DatabaseNotMigrated):
        return True
    return isinstance(error, DBAPIError) and sqlstate(error) in MISSING_OBJECT


def sqlstate(error: DBAPIError) -> str:
    """PostgreSQL's five-character error code, or an empty string."""
    details = error.orig.args[0] if error.orig is not None and error.orig.args else None
    return str(details.get("C", "")) if isinstance(details, dict) else ""


def error_text(error: BaseException) -> str:
    """An error's message without the values that a database error quotes (its failing row, its parameters)."""
    if isinstance(error, DBAPIError) and error.orig is not None:
        details = error.orig.args[0] if error.orig.args else ""
        message = details.get("M", "") if isinstance(details, dict) else str(error.orig)
        return f"{message} (SQLSTATE {sqlstate(error)})" if sqlstate(error) else message
    try:
        return str(error)
    except Exception:  # noqa: BLE001 - an error that cannot say what it is must not take its neighbours down
        return "its text cannot be read"


def connect(settings: DatabaseSettings) -> Any:
    """A pg8000 connection: TLS verified against the RDS bundle, or a local unix socket.

    Raises `DatabaseAway` when nobody answers there.
    """
    import pg8000.dbapi

    _remember_placeholders()
    transport: dict[str, Any] = {}
    try:
        transport = _transport(settings)
        connection = pg8000.dbapi.connect(
            user=settings.user, password=settings.password, database=settings.database, **transport
        )
        connection._usock.settimeout(None)  # the timeout was for the handshake; statements may take long
        return connection
    except (OSError, pg8000.dbapi.Error) as error:
        if "sock" in transport:
            transport["sock"].close()
        if not isinstance(error, OSError | pg8000.dbapi.InterfaceError):
            raise
        raise DatabaseAway(
            f"PostgreSQL does not answer at {settings.host}, port {settings.port} ({error}): is it running and"
            " reachable?"
        ) from error


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


def _transport(settings: DatabaseSettings) -> dict[str, Any]:
    if settings.is_local_socket:
        # A unix socket has no TLS; unless told so, pg8000 spends 20 ms on loading the machine's roots before it asks.
        return {"unix_sock": f"{settings.host}/.s.PGSQL.{settings.port}", "ssl_context": False}
    # pg8000 leaves Nagle's algorithm on; a socket of our own makes a TLS connect 3 ms instead of 47.
    sock = socket.create_connection((settings.host, settings.port), timeout=CONNECT_TIMEOUT_SECONDS)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    tls = _tls_context() if settings.wants_tls else None
    return {"host": settings.host, "port": settings.port, "sock": sock, "ssl_context": tls}


def _tls_context() -> ssl.SSLContext:
    import ssl

    # The public roots stay trusted: RDS Proxy's certificate is Amazon Trust Services', not the RDS bundle's.
    context = ssl.create_default_context()
    context.load_verify_locations(CA_BUNDLE)
    return context
