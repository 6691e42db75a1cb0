"""Fixtures for the tests of the flow: a database and queues that know the tests' own job types."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import Engine, Row, text

from duecourse.local.delivery import Context
from functions.aws.clients import client
from functions.core.job import JobRequest
from functions.db.migrate import sync_catalog
from functions.email import settings as mail_settings
from functions.pipeline import relay, sweep
from functions.pipeline.conservation import Conservation, conservation
from functions.pipeline.settings import settings
from tests import harness, jobs
from tests.api import PREFIX, Answer, Ask, call, token
from tests.harness import Queues
from tests.lanes import CATALOG, Lanes, Sqs
from tests.mail import Post, open_post
from tests.notices import Firm


@dataclass
class Flow:
    """The whole flow under the tests' own catalogue, driven by hand."""

    observer: Engine
    queues: Queues

    def order(self, *requests: JobRequest) -> list[UUID]:
        with self.observer.begin() as tx:
            return harness.order(tx, *requests, catalog=jobs.CATALOG)

    def relay(self) -> int:
        return relay.drain(catalog=jobs.CATALOG).sent

    def relay_and_die_unmarked(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A relay that sends what is due and dies before it has marked it as sent."""

        def die(*_: object) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as broken:
            broken.setattr(relay, "mark_sent", die)
            with pytest.raises(KeyboardInterrupt):
                self.relay()

    def sweep(self) -> dict[str, Any]:
        return sweep.sweep(datetime.now(UTC), catalog=jobs.CATALOG)

    def receive(self, queue: str = "standard", **options: Any) -> list[dict[str, Any]]:
        return self.queues.receive(queue, **options)

    def deliver(
        self, messages: Sequence[dict[str, Any]], queue: str = "standard", context: Context | None = None
    ) -> list[str]:
        return harness.deliver(self.queues, queue, messages, catalog=jobs.CATALOG, context=context)

    def work(self, queue: str = "standard", batch: int = 10) -> int:
        return harness.work(self.queues, queue, catalog=jobs.CATALOG, batch=batch)

    def job(self, job_id: UUID) -> Row[Any]:
        with self.observer.begin() as tx:
            return harness.job(tx, job_id)

    def states(self) -> dict[str, int]:
        with self.observer.begin() as tx:
            return harness.states(tx)

    def effects(self) -> dict[UUID, int]:
        return {
            row.job_id: row.n for row in self.rows("SELECT job_id, count(*) AS n FROM probe_effects GROUP BY job_id")
        }

    def attempts(self, job_id: UUID) -> list[tuple[int, str, bool]]:
        found = self.rows("SELECT run, outcome, counted FROM job_attempts WHERE job_id = :id ORDER BY run", id=job_id)
        return [(row.run, row.outcome, row.counted) for row in found]

    def rows(self, statement: str, **values: Any) -> list[Row[Any]]:
        with self.observer.begin() as tx:
            result = tx.execute(text(statement), values)
            return list(result) if result.returns_rows else []

    def conservation(self) -> Conservation:
        with self.observer.begin() as tx:
            return conservation(tx)

    def expire_leases(self) -> None:
        """As if the workers had been gone for long: their leases have run out."""
        self.rows("UPDATE jobs SET lease_until = now() - interval '1 second' WHERE state = 'active'")

    def make_due(self) -> None:
        """As if the waits were over, in the ledger."""
        self.rows("UPDATE jobs SET run_at = now(), outbox_at = outbox_at - (outbox_at - now()) WHERE run_at > now()")


@pytest.fixture
def flow(
    database: Engine, observer: Engine, emulator: str, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Iterator[Flow]:
    """A flow whose every job must be accounted for when the test ends."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", emulator)
    client.cache_clear()
    queues = Queues.create(f"f{abs(hash(request.node.nodeid)) % 10**8}-", jobs.CATALOG)
    monkeypatch.setenv("QUEUE_URL_PREFIX", queues.url_prefix)
    settings.cache_clear()
    with database.begin() as tx:
        jobs.install(tx)
    made = Flow(observer, queues)
    yield made
    assert made.conservation().holds
    queues.delete()
    settings.cache_clear()
    client.cache_clear()


@pytest.fixture
def post(database: Engine, observer: Engine, monkeypatch: pytest.MonkeyPatch) -> Iterator[Post]:
    """Mail under the code's own catalogue, whose every job must be accounted for when the test ends."""
    made = open_post(observer, monkeypatch)
    yield made
    with observer.begin() as tx:
        assert conservation(tx).holds
    mail_settings.settings.cache_clear()


@pytest.fixture
def firm(database: Engine) -> Iterator[Firm]:
    """A firm to plan notices for, in a transaction of the test's own."""
    with database.connect() as connection, connection.begin():
        yield Firm.create(connection)


@pytest.fixture
def queue_prefix(monkeypatch: pytest.MonkeyPatch) -> None:
    """The queues of a deployment on AWS, none of which is reached."""
    monkeypatch.setenv("QUEUE_URL_PREFIX", PREFIX)
    settings.cache_clear()


@pytest.fixture
def tokens(database: Engine) -> dict[str, str]:
    """A bearer token for each role."""
    with database.begin() as tx:
        return {role: token(tx, role) for role in ("viewer", "operator", "admin")}


@pytest.fixture
def ask(tokens: dict[str, str]) -> Ask:
    """Send a request as somebody, an operator unless told otherwise."""

    def send(method: str, path: str, *, role: str = "operator", **options: Any) -> Answer:
        return call(method, path, **{"token": tokens[role], **options})

    return send


@pytest.fixture
def lanes(database: Engine, observer: Engine, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lanes]:
    """An outbox with several queues, and an SQS in memory."""
    monkeypatch.setenv("QUEUE_URL_PREFIX", f"{PREFIX.rpartition('/')[0]}/t-")
    settings.cache_clear()
    with database.begin() as tx:
        sync_catalog(tx, CATALOG)
    sqs = Sqs()
    monkeypatch.setattr("functions.aws.sqs.send_batch", sqs.send_batch)
    yield Lanes(observer, sqs)
    settings.cache_clear()
