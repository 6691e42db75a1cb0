"""Dates, times and amounts that PostgreSQL stores and Python has not: they harm their own row and no other."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, Engine, text

from functions.compliance.queries import Refreshed, refresh
from functions.notifications.in_app import unread
from functions.notifications.queries import Ask, pending_for
from tests.api import call, token
from tests.mail import Post
from tests.notices import PLANNERS, TODAY, Firm, in_days, run

NEVER = ["infinity", "-infinity", "4713-01-01 BC", "0044-03-15 BC", "10000-01-01", "5874897-12-31"]
"""Days that no calendar of Python's has."""
FAR = ["0001-01-01", "9999-12-31"]
NEVER_AN_INSTANT = ["infinity", "-infinity", "0044-03-15 12:00 BC", "294276-12-31 23:59:59Z"]


def add_document(firm: Firm, client: UUID, expiry: str) -> UUID:
    """A valid document whose expiry PostgreSQL reads from text."""
    document = firm.document(client, None)
    firm.tx.execute(
        text("UPDATE document_versions SET expiry_date = CAST(:day AS date) WHERE document_id = :id"),
        {"day": expiry, "id": document},
    )
    return document


def add_filing(firm: Firm, client: UUID, due: str) -> UUID:
    filing = firm.filing(client, TODAY)
    firm.tx.execute(text("UPDATE filings SET due_date = CAST(:day AS date) WHERE id = :id"), {"day": due, "id": filing})
    return filing


@dataclass
class World:
    """A firm with two readers, of whom the second has strange quiet hours, and clients that owe something."""

    documents: list[int]
    filings: list[int]
    strange_documents: list[str]
    strange_filings: list[str]
    quiet: tuple[str, str] | None
    firm: Firm = field(init=False)
    people: list[UUID] = field(init=False)
    plain: UUID = field(init=False)
    """A client of whom nothing is strange."""

    def build(self, tx: Connection) -> None:
        self.firm = Firm.create(tx)
        self.people = [self.firm.person() for _ in range(2)]
        self.plain = self.firm.client(*self.people)
        for days in self.documents:
            self.firm.document(self.plain, in_days(days))
        for days in self.filings:
            self.firm.filing(self.plain, in_days(days))
        self.firm.prefer(self.people[1], "filing", "email", "immediate")
        if self.documents:
            # A version that never expires, and one after it that does.
            twice = add_document(self.firm, self.plain, "infinity")
            self.firm.version(twice, in_days(self.documents[0]), 2)

    def make_strange(self) -> set[UUID]:
        other = self.firm.client(*self.people)
        strange = {add_document(self.firm, other, day) for day in self.strange_documents}
        strange |= {add_filing(self.firm, other, day) for day in self.strange_filings}
        if self.quiet is not None:
            self.firm.tx.execute(
                text("UPDATE users SET quiet_from = CAST(:a AS time), quiet_until = CAST(:b AS time) WHERE id = :id"),
                {"a": self.quiet[0], "b": self.quiet[1], "id": self.people[1]},
            )
        return strange


def lived_through(world: World) -> dict[str, Any]:
    """What a day of all planners, digests and scores does, told without the ids that differ from one to the next."""
    firm = world.firm
    seen: dict[str, Any] = {}
    for job_type in PLANNERS:
        done = run(firm.tx, job_type, firm.id)
        seen[job_type] = (done.result, sorted(request.payload["recipient_id"] for request in done.requests))
    digests = run(firm.tx, "email.digests", firm.id)
    seen["digests"] = sorted(request.payload["recipient_id"] for request in digests.requests)
    asks = [Ask(uuid4(), firm.id, "user", person, TODAY) for person in world.people]
    found = pending_for(firm.tx, asks)
    seen["pending"] = [[(item.due_date, item.days_left) for item in found.get(ask.job_id, [])] for ask in asks]
    seen["unread"] = [sorted(item.subject_id for item in unread(firm.tx, firm.id, who)) for who in world.people]
    seen["told"] = firm.told()
    assert isinstance(refresh(firm.tx, {firm.id: TODAY})[firm.id], Refreshed)
    score = "SELECT score, missing, expiring, overdue FROM compliance_scores WHERE client_id = :id"
    seen["score"] = tuple(firm.tx.execute(text(score), {"id": world.plain}).one())
    return seen


strange_days = st.lists(st.sampled_from(NEVER + FAR), max_size=4)
near = st.lists(st.integers(-10, 35), max_size=4)
worlds = st.builds(
    World,
    near,
    near,
    strange_days,
    strange_days,
    st.sampled_from([None, ("22:00", "24:00"), ("24:00", "06:00"), ("24:00", "24:00")]),
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@example(World([3], [3], NEVER, NEVER, ("24:00", "06:00")))
@given(worlds)
def test_a_day_is_the_same_with_strange_values_and_without_them(database: Engine, world: World) -> None:
    with database.connect() as tx, tx.begin() as never:
        world.build(tx)
        with tx.begin_nested() as first:
            without = lived_through(world)
            first.rollback()
        strange = world.make_strange()
        with_them = lived_through(world)
        assert with_them == without
        assert not strange & {subject for _, subject, _ in with_them["told"]}
        never.rollback()


@pytest.mark.parametrize("first", ["0001-01-01", "9999-12-31"])
def test_a_digest_of_a_day_far_from_what_is_due_tells_nothing_and_says_why(firm: Firm, first: str) -> None:
    person = firm.person()
    firm.document(firm.client(person), in_days(3))
    run(firm.tx, PLANNERS[0], firm.id)
    day = type(TODAY).fromisoformat(first)
    assert pending_for(firm.tx, [Ask(uuid4(), firm.id, "user", person, day)]) == {}
    assert [row.reason for row in firm.notices()] in ([None], ["more than a century away"])


@pytest.mark.parametrize("day", NEVER)
def test_a_task_due_on_no_day_is_told_of_without_one_beside_its_neighbour(post: Post, day: str) -> None:
    add = """INSERT INTO tasks (tenant_id, client_id, title, due_date)
             VALUES (:t, :c, :title, CAST(:day AS date)) RETURNING id"""
    ids = [
        post.rows(add, t=post.tenant_id, c=post.client_id, title=title, day=due)[0].id
        for title, due in (("Someday", day), ("Tomorrow", "2026-11-25"))
    ]
    jobs = post.order(*[post.request("email.task_assignment", task_id=str(task)) for task in ids])
    post.work("email")
    assert [post.job(job).state for job in jobs] == ["completed", "completed"]
    assert sorted("Someday" in mail.text for mail in post.provider.mails()) == [False, True]


@pytest.mark.parametrize(("amount", "due"), [("NaN", "2026-11-25"), *(("1.00", day) for day in NEVER)])
def test_an_invoice_that_cannot_be_written_dies_alone_and_says_why(post: Post, amount: str, due: str) -> None:
    add = """INSERT INTO invoices (tenant_id, client_id, number, amount, currency, due_date)
             VALUES (:t, :c, :number, CAST(:amount AS numeric), 'EUR', CAST(:due AS date)) RETURNING id"""
    ids = [
        post.rows(add, t=post.tenant_id, c=post.client_id, number=number, amount=money, due=day)[0].id
        for number, money, day in (("2026-1", amount, due), ("2026-2", "1.00", "2026-11-25"))
    ]
    jobs = post.order(*[post.request("email.invoice", invoice_id=str(invoice)) for invoice in ids])
    post.work("email")
    assert [post.job(job).state for job in jobs] == ["dead", "completed"]
    assert post.job(jobs[0]).error.startswith("the invoice cannot be written about: ")


@pytest.mark.parametrize("hours", [("24:00", "06:00"), ("24:00", "24:00"), ("00:00", "24:00")])
def test_quiet_hours_that_begin_or_end_at_24_00_are_read_as_midnight(post: Post, hours: tuple[str, str]) -> None:
    post.rows(
        "UPDATE users SET quiet_from = CAST(:a AS time), quiet_until = CAST(:b AS time) WHERE id = :id",
        a=hours[0],
        b=hours[1],
        id=post.user_id,
    )
    jobs = post.order(post.custom(), post.custom(recipient_kind="client", recipient_id=str(post.client_id)))
    post.work("email")
    assert post.job(jobs[0]).state in {"completed", "delayed"}
    assert post.job(jobs[1]).state == "completed"


@pytest.mark.parametrize("created", NEVER_AN_INSTANT)
def test_a_tenant_made_at_no_instant_hides_no_other_s_schedules(database: Engine, created: str) -> None:
    with database.begin() as tx:
        strange, plain = (Firm.create(tx).id for _ in range(2))
        tx.execute(
            text("UPDATE tenants SET created_at = CAST(:at AS timestamptz) WHERE id = :id"),
            {"at": created, "id": strange},
        )
        viewer = token(tx, "viewer")
    answer = call("GET", "/health/schedules", token=viewer, query={"limit": "200"})
    assert answer.status in {200, 503}
    assert {item["tenant_id"] for item in answer.json["items"]} == {str(strange), str(plain)}
