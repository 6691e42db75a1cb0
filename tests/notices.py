"""A small firm for the tests of notices, and the planners called as the worker calls them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import Connection, Row, text

from functions.core.catalog import CATALOG
from functions.core.job import Job, JobRequest
from functions.core.outcome import Done, Outcome
from functions.core.resolve import resolve
from functions.notifications.payloads import PlanDay
from functions.pipeline.enqueue import Enqueued, enqueue
from tests.harness import new_tenant

TODAY = date(2026, 11, 24)
MAIL_PLANNERS = ("email.document_expiry", "email.filing_reminders")
PLANNERS = (*MAIL_PLANNERS, "notifications.expiry_check", "notifications.filing_check")


@dataclass
class Firm:
    """A tenant in the database, to which a test adds people, clients and what they owe."""

    tx: Connection
    id: UUID

    @classmethod
    def create(cls, tx: Connection, **options: Any) -> Firm:
        tx.execute(text("INSERT INTO document_types VALUES ('passport', 'Passport') ON CONFLICT DO NOTHING"))
        tx.execute(text("INSERT INTO filing_types VALUES ('vat', 'VAT return') ON CONFLICT DO NOTHING"))
        return cls(tx, new_tenant(tx, **options))

    def _add(self, statement: str, **values: Any) -> UUID:
        found: UUID = self.tx.execute(text(statement), {"tenant": self.id, **values}).scalar_one()
        return found

    def person(self, role: str = "staff", **columns: Any) -> UUID:
        user = uuid4()
        named = {"id": user, "email": f"{user}@example.com", "name": "Ada", **columns}
        names, values = ", ".join(named), ", ".join(f":{name}" for name in named)
        self.tx.execute(text(f"INSERT INTO users ({names}) VALUES ({values})"), named)
        return self._add(
            "INSERT INTO tenant_users VALUES (:tenant, :user, :role) RETURNING user_id", user=user, role=role
        )

    def client(self, *people: UUID, name: str = "Client") -> UUID:
        client = self._add("INSERT INTO clients (tenant_id, name) VALUES (:tenant, :name) RETURNING id", name=name)
        for person in people:
            self.assign(client, person)
        return client

    def assign(self, client: UUID, person: UUID) -> None:
        self._add(
            "INSERT INTO client_assignments VALUES (:tenant, :client, :person) RETURNING client_id",
            client=client,
            person=person,
        )

    def document(self, client: UUID, expiry: date | None, status: str = "valid") -> UUID:
        document = self._add(
            "INSERT INTO documents (tenant_id, client_id, document_type, status)"
            " VALUES (:tenant, :client, 'passport', :status) RETURNING id",
            client=client,
            status=status,
        )
        self.version(document, expiry)
        return document

    def version(self, document: UUID, expiry: date | None, number: int = 1) -> None:
        self._add(
            "INSERT INTO document_versions (tenant_id, document_id, version, expiry_date)"
            " VALUES (:tenant, :document, :number, :expiry) RETURNING document_id",
            document=document,
            number=number,
            expiry=expiry,
        )

    def filing(self, client: UUID, due: date, status: str = "draft") -> UUID:
        return self._add(
            "INSERT INTO filings (tenant_id, client_id, filing_type, status, due_date)"
            " VALUES (:tenant, :client, 'vat', :status, :due) RETURNING id",
            client=client,
            status=status,
            due=due,
        )

    def prefer(self, person: UUID, category: str, channel: str, mode: str) -> None:
        self._add(
            "INSERT INTO notification_preferences (tenant_id, recipient_kind, recipient_id, category, channel, mode)"
            " VALUES (:tenant, 'user', :person, :category, :channel, :mode) RETURNING tenant_id",
            person=person,
            category=category,
            channel=channel,
            mode=mode,
        )

    def remove(self) -> None:
        self.tx.execute(text("DELETE FROM tenants WHERE id = :id"), {"id": self.id})

    def notices(self) -> list[Row[Any]]:
        return list(
            self.tx.execute(
                text("SELECT * FROM notifications WHERE tenant_id = :id ORDER BY id"),
                {"id": self.id},
            )
        )

    def told(self) -> list[tuple[UUID, UUID, int]]:
        """Who was told of what at which milestone."""
        return sorted((row.recipient_id, row.subject_id, row.milestone) for row in self.notices())


@dataclass
class Run:
    """How one planning job ended, and what became of the jobs that it ordered."""

    outcome: Outcome
    ordered: list[Enqueued]

    @property
    def requests(self) -> Sequence[JobRequest]:
        return self.outcome.enqueue if isinstance(self.outcome, Done) else ()

    @property
    def result(self) -> Any:
        assert isinstance(self.outcome, Done), self.outcome
        return self.outcome.result

    @property
    def created(self) -> int:
        return sum(item.created for item in self.ordered)


def planning_job(job_type: str, tenant: UUID | None, day: date = TODAY, *, runs: int = 1) -> Job[PlanDay]:
    return Job(uuid4(), job_type, tenant, PlanDay(local_date=day), 0, runs, f"test/{day}", None)


def perform(tx: Connection, jobs: Sequence[Job[PlanDay]]) -> list[Run]:
    """Run jobs of one type as the worker does, and order what they ask for."""
    handler: Callable[..., list[Outcome]] = resolve(CATALOG.job_type(jobs[0].type).perform)
    outcomes = handler(jobs, tx)
    assert len(outcomes) == len(jobs)
    return [Run(item, enqueue(tx, item.enqueue) if isinstance(item, Done) else []) for item in outcomes]


def run(tx: Connection, job_type: str, tenant: UUID | None, day: date = TODAY) -> Run:
    return perform(tx, [planning_job(job_type, tenant, day)])[0]


def in_days(days: int, day: date = TODAY) -> date:
    return day + timedelta(days)
