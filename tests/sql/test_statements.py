"""Rule 3: statements per batch, not per job. Counted by the server, in its own log; BEGIN and COMMIT excluded."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import Engine, text

from duecourse.local import postgres as embedded
from duecourse.local.delivery import Context
from functions.core.job import JobRequest
from functions.db import engine as db
from functions.db.migrate import migrate
from functions.pipeline import relay
from tests.harness import Queues, deliver, order, probe, states

STATEMENT = re.compile(
    r"\[(?P<pid>\d+)\] LOG:  (?:statement|execute [^:]*): (?P<sql>.*?)(?=\n\d{4}-\d\d-\d\d |\Z)", re.DOTALL
)
NOT_COUNTED = re.compile(r"begin|commit", re.IGNORECASE)


class ServerLog:
    """What the server says that one backend executed."""

    def __init__(self, path: Path, pid: int) -> None:
        self._path, self._pid = path, pid

    @contextmanager
    def statements(self) -> Iterator[list[str]]:
        """The statements executed within the block."""
        found: list[str] = []
        start = self._path.stat().st_size
        yield found
        time.sleep(0.1)
        with self._path.open("rb") as log:
            log.seek(start)
            written = log.read().decode()
        found += [
            " ".join(match["sql"].split())
            for match in STATEMENT.finditer(written)
            if int(match["pid"]) == self._pid and not NOT_COUNTED.match(match["sql"])
        ]


@pytest.fixture
def logged(place: Path, queues: Queues, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Engine, ServerLog]]:
    """A server of this test's own that logs every statement, and its log."""
    data = place / "pg"
    monkeypatch.setenv("DATABASE_URL", embedded.start(data))
    db.engine.cache_clear()
    with db.engine().begin() as tx:
        migrate(tx)
        tx.execute(text("SET log_statement = 'all'"))
        pid = tx.execute(text("SELECT pg_backend_pid()")).scalar_one()
    yield db.engine(), ServerLog(data / "log", pid)
    db.engine().dispose()
    db.engine.cache_clear()
    embedded.stop(data)


def test_enqueueing_ten_thousand_jobs_takes_at_most_ten_statements(logged: tuple[Engine, ServerLog]) -> None:
    engine, log = logged
    with log.statements() as executed, engine.begin() as tx:
        order(tx, *[probe(note=str(n)) for n in range(10_000)])
    assert 1 <= len(executed) <= 10
    with engine.begin() as tx:
        assert states(tx) == {"waiting": 10_000}


def test_the_relay_takes_at_most_two_statements_per_thousand(
    logged: tuple[Engine, ServerLog], queues: Queues, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, log = logged
    for limit in ("PASS_SECONDS", "LOCK_SECONDS"):  # the emulator may be slow where much else runs
        monkeypatch.setattr(relay, limit, 20.0)
    with engine.begin() as tx:
        order(tx, *[probe() for _ in range(2_000)])
    with log.statements() as executed:
        assert relay.drain().sent == 2_000
    # One more look finds the outbox empty.
    assert len(executed) <= 2 * 2 + 1
    assert queues.depth("upkeep").visible == 2_000


@pytest.mark.parametrize("size", [1, 100])
def test_a_batch_takes_at_most_three_statements_besides_the_jobs_own(
    logged: tuple[Engine, ServerLog], queues: Queues, size: int
) -> None:
    engine, log = logged
    with engine.begin() as tx:
        tenants = tx.execute(
            text("INSERT INTO tenants (name, time_zone) SELECT 'Firm', 'UTC' FROM generate_series(1, :n) RETURNING id"),
            {"n": size},
        )
        requests = [JobRequest("compliance.refresh", {"local_date": "2026-11-24"}, row.id) for row in tenants]
        order(tx, *requests)
    relay.drain()
    messages = queues.receive("compliance-refresh")
    assert len(messages) == size
    with log.statements() as executed:
        assert deliver(queues, "compliance-refresh", messages, context=Context()) == []
    own = [sql for sql in executed if "compliance_scores" in sql]
    assert len(executed) - len(own) <= 3, executed
    assert 1 <= len(own) <= 2
    with engine.begin() as tx:
        assert states(tx) == {"completed": size}
