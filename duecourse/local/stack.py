"""The whole local stack: PostgreSQL, the emulator, and the template deployed on it. Up, down and what is there.

`DATABASE_URL` and `AWS_ENDPOINT_URL` name a database and an emulator of one's own; ours is then not started.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from duecourse.local import api_token, aws, deploy, emulator, postgres
from duecourse.local.errors import LocalError, NotRunning
from duecourse.local.state import REPOSITORY, Home, default_home, exclusive, load_emulator
from functions.core.errors import DatabaseAway
from functions.db.settings import DatabaseSettings, from_url

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine

Step = Callable[[str], AbstractContextManager[Callable[[str], None]]]
"""Announces a step: `with step("Starting …") as note: …; note("what came of it")`."""


@contextmanager
def silent(title: str) -> Iterator[Callable[[str], None]]:
    """A `Step` that says nothing."""
    del title
    yield lambda _: None


@dataclass(frozen=True, slots=True)
class Stack:
    """A running stack: where its two halves are."""

    endpoint: str
    database_url: str
    outputs: Mapping[str, str] = field(default_factory=dict)
    """The root template's outputs."""
    name: str = deploy.STACK_NAME

    def client(self, service: str) -> Any:
        """A boto3 client of the stack's endpoint."""
        return aws.client(self.endpoint, service)

    def engine(self) -> Engine:
        """A SQLAlchemy engine on the stack's database, with one connection."""
        from functions.db.engine import make_engine

        return make_engine(self.database)

    @property
    def api_url(self) -> str | None:
        """Where the endpoint serves the management API; None for a stack without one."""
        host = urlsplit(self.outputs.get("ApiUrl", "")).hostname
        return f"{self.endpoint.rstrip('/')}/_aws/execute-api/{host.partition('.')[0]}/$default" if host else None

    @property
    def database(self) -> DatabaseSettings:
        return from_url(self.database_url)

    def queue_url(self, queue: str) -> str:
        """The URL of a queue by its catalogue name, e.g. `compliance-refresh` or `email-dlq.fifo`."""
        url = self.client("sqs").get_queue_url(QueueName=f"{self.name}-{queue}")["QueueUrl"]
        return str(url)


def up(home: Home | None = None, *, port: int | None = None, step: Step = silent) -> Stack:
    """Start what does not run and deploy what changed; a second call finds everything done.

    Raises `LocalError` naming the cause and the fix; what had started by then keeps running.
    """
    home = home or default_home()
    _import_libraries(home)
    with exclusive(home), ThreadPoolExecutor(1) as pool:
        with step("PostgreSQL") as note:
            endpoint = pool.submit(start_emulator, home, port)
            database_url = _own_database_url(home) or postgres.start(home.postgres)
            migrated = is_migrated(from_url(database_url))
            note(without_password(database_url))
        with step("AWS emulator") as note:
            url = endpoint.result()
            if not migrated:  # a new database: warm functions hold connections to the one before
                emulator.end_functions(home)
            note(url)
        with step("CloudFormation stack") as note:
            made = deploy.deploy(url, from_url(database_url), repository=REPOSITORY, migrated=migrated)
            if "ApiUrl" in made.outputs:
                with _connected(from_url(database_url)) as connection, connection.begin():
                    api_token.ensure(home, connection)
            note(f"{deploy.STACK_NAME} {'deployed' if made.changed else 'is up to date'}, {made.release}")
        return Stack(url, database_url, made.outputs)


def _import_libraries(home: Home) -> None:
    """Import what PostgreSQL's start needs while there is one thread.

    Ctrl-C in the midst of an import can leave Python's import lock held (3.11), and the thread that starts the emulator
    would wait for it for ever when it imports something itself.
    """
    for library in ("pg8000.dbapi", "sqlalchemy.dialects.postgresql.pg8000", "functions.db.engine"):
        import_module(library)
    if not (_own_database_url(home) or postgres.running(home.postgres)):
        postgres.import_pgserver()


def down(home: Home | None = None, *, purge: bool = False, step: Step = silent) -> None:
    """Stop what `up` started, never what the environment named; with `purge` remove all local state, too."""
    home = home or default_home()
    with exclusive(home):
        with step("Stopping the AWS emulator") as note:
            note("stopped" if emulator.stop(home) else "was not running")
        with step("Stopping PostgreSQL") as note:
            note("stopped" if postgres.stop(home.postgres) else "was not running")
        if purge:
            with step(f"Removing what {home.directory} holds"):
                home.clear()


def current(home: Home | None = None) -> Stack:
    """The deployed stack, whose database may be away: functions and their logs are what one looks at then.

    Raises `NotRunning` when AWS does not answer, or nothing is deployed there.
    """
    home = home or default_home()
    endpoint = current_endpoint(home)
    found = deploy.describe(endpoint)
    if found is None:
        raise NotRunning(f"nothing is deployed at {endpoint}: run `duecourse up`")
    try:
        database_url = current_database_url(home)
    except NotRunning:
        database_url = ""
    return Stack(endpoint, database_url, deploy.outputs(found))


def current_endpoint(home: Home) -> str:
    """Where AWS is. Raises `NotRunning` when nothing answers there."""
    record = load_emulator(home)
    endpoint = _own_endpoint(home) or (record.endpoint if record and record.process.process() else None)
    if endpoint is None:
        raise NotRunning("the AWS emulator is not running: start it with `duecourse up`")
    if not emulator.answers(endpoint):
        raise NotRunning(f"nothing answers at {endpoint}: start it with `duecourse up`, or unset AWS_ENDPOINT_URL")
    return endpoint


def current_database_url(home: Home) -> str:
    """Where the database is. Raises `NotRunning` when ours is meant and does not run."""
    if own := _own_database_url(home):
        return own
    if postgres.running(home.postgres) is None:
        raise NotRunning("PostgreSQL is not running: start it with `duecourse up`, or name yours with DATABASE_URL")
    return postgres.url(home.postgres)


@contextmanager
def database_transaction(home: Home | None = None) -> Iterator[Connection]:
    """A connection to the database alone, whatever else runs, in a transaction that the block's end commits.

    Raises `NotRunning` when there is no database.
    """
    with _connected(from_url(current_database_url(home or default_home()))) as connection, connection.begin():
        yield connection


def is_migrated(database: DatabaseSettings) -> bool:
    """Whether the schema is there. Raises `LocalError` when the database cannot be reached."""
    from sqlalchemy import text

    with _connected(database) as connection:
        return bool(connection.scalar(text("SELECT to_regclass('alembic_version') IS NOT NULL")))


@contextmanager
def _connected(database: DatabaseSettings) -> Iterator[Connection]:
    from sqlalchemy.exc import DBAPIError

    from functions.db.engine import error_text, make_engine

    engine = make_engine(database)
    try:
        try:
            connection = engine.connect()
        except (DBAPIError, DatabaseAway) as error:
            raise LocalError(
                f"the database {database.database!r} cannot be used ({error_text(error)}): correct DATABASE_URL,"
                " or unset it to use the embedded PostgreSQL"
            ) from None
        with connection:
            yield connection
    finally:
        engine.dispose()


def without_password(url: str) -> str:
    """The URL as it may be shown."""
    return re.sub(r"(://[^:/@]*):[^@/]*@", r"\1:***@", url)


def is_own_database(home: Home | None = None) -> bool:
    """Whether DATABASE_URL names a database that is not the embedded one."""
    return _own_database_url(home or default_home()) is not None


def _own_database_url(home: Home, environ: Mapping[str, str] = os.environ) -> str | None:
    """DATABASE_URL, unless it only repeats what `duecourse status --env` printed for ours."""
    given = environ.get("DATABASE_URL")
    if not given:
        return None
    named = from_url(given)
    return None if (named.host, named.database) == (str(home.postgres), postgres.DATABASE) else given


def _own_endpoint(home: Home, environ: Mapping[str, str] = os.environ) -> str | None:
    """AWS_ENDPOINT_URL, unless it only repeats the endpoint of ours, which may have stopped since."""
    given = (environ.get("AWS_ENDPOINT_URL") or "").rstrip("/")
    record = load_emulator(home)
    return None if not given or (record and given == record.endpoint) else given


def start_emulator(home: Home, port: int | None) -> str:
    """Start ours, or check the one that was named; then have it load CloudFormation, which takes it a second."""
    if endpoint := _own_endpoint(home):
        if not emulator.is_healthy(endpoint):
            raise LocalError(
                f"no ministack answers at AWS_ENDPOINT_URL {endpoint}: start it, unset the variable to use ours,"
                " or deploy to another emulator with `sam build` and `sam deploy` (docs/local.md)"
            )
    else:
        endpoint = emulator.start(home, port=port).endpoint
    deploy.describe(endpoint)
    return endpoint
