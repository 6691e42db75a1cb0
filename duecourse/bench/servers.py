"""The servers that a benchmark runs on: one PostgreSQL for us and for our rivals on it, one Redis for theirs."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from sqlalchemy import Connection, NullPool, create_engine, text

from duecourse.bench.peers import PeerMissing, Peers
from duecourse.local import postgres
from functions.db import engine as db
from functions.db.migrate import migrate
from functions.db.sessions import lift_limits
from functions.db.settings import connection_url, from_url

SETTINGS = {"shared_buffers": "1GB", "max_wal_size": "4GB", "checkpoint_timeout": "15min"}
"""As RDS sets such a server. What makes a commit durable stays on: fsync, synchronous_commit, full_page_writes."""
TEMPLATE = "bench_template"
READY_SECONDS = 10
POLL_SECONDS = 0.02
LAST_LINES = 3


@dataclass(frozen=True, slots=True)
class Postgres:
    """A running server."""

    url: str

    def url_of(self, database: str) -> str:
        return connection_url(replace(from_url(self.url), database=database))

    @contextmanager
    def administration(self) -> Iterator[Connection]:
        engine = create_engine(
            "postgresql+pg8000://", creator=lambda: db.connect(from_url(self.url)), poolclass=NullPool
        )
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            lift_limits(connection, whole_session=True)
            yield connection
        engine.dispose()

    @contextmanager
    def database(self, name: str, *, migrated: bool = True) -> Iterator[str]:
        """A fresh database, dropped at the end; its URL."""
        template = TEMPLATE if migrated else "template0"
        with self.administration() as admin:
            admin.execute(text(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)"))
            admin.execute(text(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY FILE_COPY"))
        try:
            yield self.url_of(name)
        finally:
            with self.administration() as admin:
                admin.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))

    @contextmanager
    def under_test(self, name: str) -> Iterator[str]:
        """A fresh database that the code under test uses while it lasts; its URL."""
        with self.database(name) as url, used(url):
            yield url


@contextmanager
def used(url: str) -> Iterator[None]:
    """The code under test uses this database while it lasts (DATABASE_URL), by a connection of its own."""
    before = os.environ.get("DATABASE_URL")
    os.environ["DATABASE_URL"] = url
    db.engine.cache_clear()
    try:
        yield
    finally:
        db.engine().dispose()
        db.engine.cache_clear()
        del os.environ["DATABASE_URL"]
        if before is not None:
            os.environ["DATABASE_URL"] = before


@contextmanager
def running_postgres(directory: Path) -> Iterator[Postgres]:
    """An embedded server on a data directory that is made for it, and removed at the end, with a migrated template."""
    _remove(directory)  # what a run that was killed left
    try:
        server = Postgres(postgres.start(directory))
        with server.administration() as admin:
            for name, value in SETTINGS.items():
                admin.execute(text(f"ALTER SYSTEM SET {name} = '{value}'"))
        postgres.stop(directory)
        server = Postgres(postgres.start(directory))
        with server.administration() as admin:
            admin.execute(text(f"CREATE DATABASE {TEMPLATE}"))
        engine = db.make_engine(from_url(server.url_of(TEMPLATE)))
        with engine.begin() as connection:
            migrate(connection)
        engine.dispose()
        yield server
    finally:
        _remove(directory)


def _remove(directory: Path) -> None:
    postgres.stop(directory)
    shutil.rmtree(directory, ignore_errors=not directory.exists())


@contextmanager
def running_redis(peers: Peers) -> Iterator[Path]:
    """A Redis on a unix socket, whose path this yields. It appends with fsync every second, as BullMQ advises.

    https://docs.bullmq.io/guide/going-to-production. Raises `PeerMissing`.
    """
    if peers.redis_server is None:
        raise PeerMissing(f"redis: {peers.missing.get('redis', 'not installed')}")
    with tempfile.TemporaryDirectory(prefix="duecourse-redis-") as directory:
        socket = Path(directory) / "redis.sock"
        options = ["--port", "0", "--unixsocket", str(socket), "--dir", directory, "--save", ""]
        options += ["--appendonly", "yes", "--appendfsync", "everysec"]
        options += ["--maxmemory-policy", "noeviction"]
        log = Path(directory) / "log"
        with log.open("w") as output:
            server = subprocess.Popen([peers.redis_server, *options], env=peers.environment(), stdout=output)
        try:
            deadline = time.monotonic() + READY_SECONDS
            while not socket.exists():
                if server.poll() is not None or time.monotonic() > deadline:
                    raise PeerMissing(f"redis does not start: {' '.join(log.read_text().splitlines()[-LAST_LINES:])}")
                time.sleep(POLL_SECONDS)
            yield socket
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait()
