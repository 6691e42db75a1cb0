"""Shared fixtures: a real PostgreSQL cloned from a template database per test, and a real SQS protocol."""

from __future__ import annotations

import gc
import itertools
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from sqlalchemy import Connection, Engine, NullPool, create_engine, text

from functions.aws.clients import client
from functions.core.catalog import CATALOG
from functions.db import engine as db
from functions.db.migrate import migrate
from functions.db.sessions import lift_limits
from functions.db.settings import DatabaseSettings, connection_url, from_url
from functions.pipeline.settings import settings
from tests.harness import Queues

TEMPLATE = "duecourse_template"
MEMORY, MEMORY_BYTES = Path("/dev/shm"), 8_000_000_000
_numbers = itertools.count()


@pytest.fixture(scope="session", autouse=True)
def _plain_environment() -> Iterator[None]:
    """Tests see no AWS profile, region or endpoint of the machine they run on."""
    saved = dict(os.environ)
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        del os.environ[name]
    os.environ |= {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "POWERTOOLS_SERVICE_NAME": "tests",
        "POWERTOOLS_TRACE_DISABLED": "true",
    }
    yield
    os.environ.clear()
    os.environ.update(saved)


@pytest.fixture(scope="session")
def postgres() -> Iterator[DatabaseSettings]:
    """A PostgreSQL server with a migrated template database: DATABASE_URL's, or the embedded one."""
    if url := os.environ.get("DATABASE_URL"):
        server = from_url(url)
        yield server
        return
    from duecourse.local import postgres as embedded

    data = _place_for_databases()
    server = from_url(embedded.start(data))
    with _administration(server) as admin:
        # A test database is thrown away: it need not survive a power cut.
        for name, value in {"fsync": "off", "full_page_writes": "off", "synchronous_commit": "off"}.items():
            admin.execute(text(f"ALTER SYSTEM SET {name} = {value}"))
        admin.execute(text("SELECT pg_reload_conf()"))
    yield server
    embedded.stop(data)
    shutil.rmtree(data)


def _place_for_databases() -> Path:
    """In memory where there is room: on a disk, files that come and go with each test's database took a fifth of the
    processor's time. Named after the directory for temporary files, so that `.ci/run` finds what a killed run left.
    """
    # Not below pytest's own directory, whose rights every other pytest session of root's sets anew.
    roomy = MEMORY.is_dir() and min(psutil.virtual_memory().available, shutil.disk_usage(MEMORY).free) > MEMORY_BYTES
    prefix = f"{Path(tempfile.gettempdir()).name}-duecourse-postgres-"
    return Path(tempfile.mkdtemp(prefix=prefix, dir=MEMORY if roomy else None))


@pytest.fixture
def place() -> Iterator[Path]:
    """A short directory for state, outside of pytest's own.

    As root, PostgreSQL runs as another user, who must get in; and every pytest that starts shuts others out of
    /tmp/pytest-of-root, whoever is at work there.
    """
    with tempfile.TemporaryDirectory(prefix="duecourse-", ignore_cleanup_errors=True) as directory:
        yield Path(directory)


@pytest.fixture(scope="session")
def template_database(postgres: DatabaseSettings) -> str:
    """A migrated database that every test's own is cloned from."""
    name = f"{TEMPLATE}_{os.getpid()}"
    with _administration(postgres) as admin:
        admin.execute(text(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)"))
        admin.execute(text(f"CREATE DATABASE {name}"))
    engine = db.make_engine(_named(postgres, name))
    with engine.begin() as connection:
        migrate(connection)
    engine.dispose()
    return name


@pytest.fixture
def database(postgres: DatabaseSettings, template_database: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    """A fresh migrated database, used by the code under test too (DATABASE_URL)."""
    name = f"test_{os.getpid()}_{next(_numbers)}"
    with _administration(postgres) as admin:
        admin.execute(text(f"CREATE DATABASE {name} TEMPLATE {template_database} STRATEGY FILE_COPY"))
    monkeypatch.setenv("DATABASE_URL", connection_url(_named(postgres, name)))
    db.engine.cache_clear()
    yield db.engine()
    db.engine().dispose()
    db.engine.cache_clear()
    with _administration(postgres) as admin:
        admin.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))


@pytest.fixture
def observer(database: Engine) -> Iterator[Engine]:
    """Connections of the test's own, beside the one that the code under test keeps."""
    own = from_url(os.environ["DATABASE_URL"])
    engine = create_engine("postgresql+pg8000://", creator=lambda: db.connect(own), poolclass=NullPool)
    yield engine
    engine.dispose()


@pytest.fixture(scope="session")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of an AWS emulator of this test process's own."""
    from duecourse.local import emulator as ministack
    from duecourse.local.state import Home

    home = Home(tmp_path_factory.mktemp("emulator"))
    record = ministack.start(home)
    yield record.endpoint
    ministack.stop(home)


@pytest.fixture
def queues(emulator: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Queues]:
    """Every queue of the catalogue with its dead-letter queue, under a prefix of this test's own."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", emulator)
    client.cache_clear()
    made = Queues.create(f"t{os.getpid()}-{next(_numbers)}-", CATALOG)
    monkeypatch.setenv("QUEUE_URL_PREFIX", made.url_prefix)
    settings.cache_clear()
    yield made
    made.delete()
    settings.cache_clear()
    client.cache_clear()


@contextmanager
def _administration(server: DatabaseSettings) -> Iterator[Connection]:
    engine = create_engine("postgresql+pg8000://", creator=lambda: db.connect(server), poolclass=NullPool)
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        lift_limits(connection, whole_session=True)
        yield connection
    engine.dispose()


def _named(server: DatabaseSettings, database: str) -> DatabaseSettings:
    from dataclasses import replace

    return replace(server, database=database)


def pytest_collection_finish() -> None:
    """What is there before the first test stays: the collector need not look through it again and again."""
    gc.collect()
    gc.freeze()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything under tests/sql needs PostgreSQL, everything under tests/local the deployed template.

    Files with slow tests go first, those that ask for the most time before all: else the last of several processes
    would begin with the longest of them.
    """
    for item in items:
        folder = Path(str(item.path)).parent.name
        marker: Any = {"sql": pytest.mark.sql, "local": pytest.mark.stack}.get(folder)
        if marker is not None:
            item.add_marker(marker)
    seconds: dict[Path, int] = {}
    for item in items:
        limit = item.get_closest_marker("timeout")
        asked = limit.args[0] if limit is not None else 1 if item.get_closest_marker("slow") else 0
        seconds[item.path] = max(asked, seconds.get(item.path, 0))
    items.sort(key=lambda item: -seconds[item.path])
