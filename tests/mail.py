"""What the tests of mail act with: a provider that can fail in every way, and a worker fed without a queue."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import Connection, Engine, Row, text

from duecourse.local.delivery import Context
from functions.aws import ses, sqs
from functions.core.catalog import CATALOG
from functions.core.job import JobRequest
from functions.email import settings as mail_settings
from functions.pipeline.settings import settings as queue_settings
from functions.pipeline.worker import handle
from tests.harness import new_tenant, order

ENVIRONMENT = {
    "MAIL_SENDER": "no-reply@firm.example",
    "MAIL_CONFIGURATION_SET": "duecourse",
    "UNSUBSCRIBE_URL": "https://unsubscribe.example/",
    "UNSUBSCRIBE_SECRET_ARN": "arn:of:key",
    "QUEUE_URL_PREFIX": "http://localhost/none-",
}
KEY = b"the tests' own key, 32 bytes long"


class Killed(BaseException):
    """The worker's process dies here."""


@dataclass
class Provider:
    """SES as the sender sees it: accepts, refuses, or loses the connection."""

    limits: ses.Quota = field(default_factory=lambda: ses.Quota(1000, -1))
    accepted: list[tuple[float, ses.Mail]] = field(default_factory=list)
    before: Callable[[ses.Mail], object] = lambda _: None
    after: Callable[[ses.Mail], object] = lambda _: None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def send(self, mail: ses.Mail) -> str:
        self.before(mail)
        with self._lock:
            self.accepted.append((time.monotonic(), mail))
            number = len(self.accepted)
        self.after(mail)
        return f"ses-{number}-{mail.tags['job']}"

    def quota(self) -> ses.Quota:
        return self.limits

    def mails(self, job_id: UUID | None = None) -> list[ses.Mail]:
        return [mail for _, mail in self.accepted if job_id is None or mail.tags["job"] == str(job_id)]


@dataclass
class Post:
    """The mail workers over a real database, with a provider of the tests' own."""

    observer: Engine
    provider: Provider
    tenant_id: UUID
    user_id: UUID
    client_id: UUID

    def rows(self, statement: str, **values: Any) -> list[Row[Any]]:
        with self.observer.begin() as tx:
            result = tx.execute(text(statement), values)
            return list(result) if result.returns_rows else []

    def order(self, *requests: JobRequest) -> list[UUID]:
        with self.observer.begin() as tx:
            return order(tx, *requests)

    def work(self, queue: str, *, batch: int = 10) -> int:
        """Hand the due jobs of a queue to its worker, batch after batch; returns how many runs that took."""
        runs = 0
        while messages := self.take(queue, batch):
            runs += 1
            self.deliver(queue, messages)
        return runs

    def take(self, queue: str, most: int = 10, *, only: UUID | None = None) -> list[dict[str, Any]]:
        """What the relay would send, as messages; `only` one job's."""
        rows = self.rows(
            """UPDATE jobs SET outbox_at = NULL, sent_at = clock_timestamp(),
                   state = CASE state WHEN 'delayed' THEN 'waiting' ELSE state END
               WHERE id IN (SELECT id FROM jobs WHERE queue = :queue AND outbox_at <= clock_timestamp()
                                AND (CAST(:only AS uuid) IS NULL OR id = :only)
                            ORDER BY priority DESC, outbox_at, id LIMIT :most FOR UPDATE SKIP LOCKED)
               RETURNING id, delivery, type, tenant_id""",
            queue=queue,
            most=most,
            only=only,
        )
        return [self.message(row) for row in rows]

    def redeliver(self, queue: str) -> list[dict[str, Any]]:
        """The messages of runs whose worker died: the leases have run out, SQS shows them again."""
        rows = self.rows(
            """UPDATE jobs SET lease_until = now() - interval '1 second' WHERE state = 'active' AND queue = :queue
               RETURNING id, delivery, type, tenant_id""",
            queue=queue,
        )
        return [self.message(row) for row in rows]

    def message(self, row: Row[Any]) -> dict[str, Any]:
        return record({"v": 1, "id": str(row.id), "delivery": row.delivery, "type": row.type})

    def deliver(self, queue: str, messages: Sequence[dict[str, Any]]) -> dict[str, Any]:
        return handle({"Records": list(messages)}, Context(), queue=queue)

    def events(self, *details: dict[str, Any]) -> None:
        """The provider's events arrive, as the event rule makes them."""
        bodies = [
            {"v": 1, "external": True, "type": "email.event", "dedup_key": str(uuid4()), "payload": detail}
            for detail in details
        ]
        for start in range(0, len(bodies), 10):
            answer = self.deliver("ses-events", [record(body) for body in bodies[start : start + 10]])
            assert answer == {"batchItemFailures": []}

    def make_due(self) -> None:
        """As if every wait were over."""
        self.rows("UPDATE jobs SET run_at = now(), outbox_at = now() WHERE outbox_at > now()")

    def age(self, **interval: float) -> None:
        """As if all that has been written were older."""
        [(unit, amount)] = interval.items()
        for table, column in (("email_messages", "intended_at"), ("mail_events", "at"), ("send_slots", "at")):
            self.rows(f"UPDATE {table} SET {column} = {column} - CAST(:age AS interval)", age=f"{amount} {unit}")

    def job(self, job_id: UUID) -> Row[Any]:
        return self.rows("SELECT * FROM jobs WHERE id = :id", id=job_id)[0]

    def row(self, job_id: UUID) -> Row[Any]:
        return self.rows("SELECT * FROM email_messages WHERE job_id = :id", id=job_id)[0]

    def custom(self, **payload: Any) -> JobRequest:
        return self.request("email.custom", subject="Hello", body="A word from your firm.", **payload)

    def reset(self, **payload: Any) -> JobRequest:
        expires = datetime.now(UTC).replace(year=datetime.now(UTC).year + 1, day=1).isoformat()
        return self.request("email.password_reset", url="https://app.example/reset", expires_at=expires, **payload)

    def request(self, job_type: str, **payload: Any) -> JobRequest:
        who = {"recipient_kind": "user", "recipient_id": str(self.user_id)}
        return JobRequest(job_type, who | payload, tenant_id=self.tenant_id)


def record(body: object) -> dict[str, Any]:
    """A message as the event source mapping shows it."""
    return {
        "messageId": str(uuid4()),
        "receiptHandle": "none",
        "body": json.dumps(body),
        "attributes": {"ApproximateReceiveCount": "1", "SentTimestamp": str(int(time.time() * 1000))},
        "eventSource": "aws:sqs",
    }


def new_user(tx: Connection, tenant_id: UUID, email: str) -> UUID:
    user: UUID = tx.execute(
        text("INSERT INTO users (email, name) VALUES (:email, 'Ana Example') RETURNING id"), {"email": email}
    ).scalar_one()
    tx.execute(text("INSERT INTO tenant_users VALUES (:t, :u, 'staff')"), {"t": tenant_id, "u": user})
    return user


def new_client(tx: Connection, tenant_id: UUID, email: str | None) -> UUID:
    found: UUID = tx.execute(
        text("INSERT INTO clients (tenant_id, name, email) VALUES (:t, 'Bakery', :email) RETURNING id"),
        {"t": tenant_id, "email": email},
    ).scalar_one()
    return found


def open_post(observer: Engine, monkeypatch: pytest.MonkeyPatch) -> Post:
    """A post with one tenant, user and client; SES and SQS are the tests' own."""
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    mail_settings.settings.cache_clear()
    queue_settings.cache_clear()
    monkeypatch.setattr("functions.email.send.unsubscribe_key", lambda _: KEY)
    monkeypatch.setattr("functions.email.unsubscribe.unsubscribe_key", lambda _: KEY)
    monkeypatch.setattr(sqs, "change_visibility", lambda *_: 0)
    provider = Provider()
    monkeypatch.setattr(ses, "send", provider.send)
    monkeypatch.setattr(ses, "quota", provider.quota)
    with observer.begin() as tx:
        tenant = new_tenant(tx)
        user = new_user(tx, tenant, "Ana@Example.com")
        client = new_client(tx, tenant, "bakery@example.com")
    assert CATALOG.queues["email"].fifo
    return Post(observer, provider, tenant, user, client)
