"""What a mail takes with it, and how its notices end."""

from __future__ import annotations

from uuid import UUID, uuid4

import pytest
from sqlalchemy import text

from functions.core.job import JobRequest
from functions.notifications.queries import Ask, Ending, Notice, mark, pending_for
from tests.harness import order
from tests.notices import TODAY, Firm, in_days, run

DOCUMENTS, FILINGS = "email.document_expiry", "email.filing_reminders"


def digest_job(firm: Firm, person: UUID) -> UUID:
    payload = {"recipient_kind": "user", "recipient_id": str(person), "local_date": TODAY.isoformat()}
    return order(firm.tx, JobRequest("email.digest", payload, firm.id))[0]


def ask(firm: Firm, person: UUID, job: UUID | None = None, days: int = 0) -> Ask:
    return Ask(job or digest_job(firm, person), firm.id, "user", person, in_days(days))


def take(firm: Firm, wanted: Ask) -> list[Notice]:
    return pending_for(firm.tx, [wanted]).get(wanted.job_id, [])


def endings(firm: Firm) -> list[tuple[str, str | None]]:
    return sorted((row.status, row.reason) for row in firm.notices())


def test_a_digest_lists_documents_and_filings_by_name_most_urgent_first(firm: Firm) -> None:
    person = firm.person()
    client = firm.client(person, name="Bakery")
    firm.document(client, in_days(7))
    firm.filing(client, in_days(-2))
    firm.document(client, in_days(1))
    for job_type in (DOCUMENTS, FILINGS):
        run(firm.tx, job_type, firm.id)
    found = take(firm, ask(firm, person))
    assert [(item.category, item.title, item.client_name, item.due_date, item.days_left) for item in found] == [
        ("filing", "VAT return", "Bakery", in_days(-2), -2),
        ("document_expiry", "Passport", "Bakery", in_days(1), 1),
        ("document_expiry", "Passport", "Bakery", in_days(7), 7),
    ]


def test_readers_of_one_batch_get_their_own_and_nobody_gets_another_tenant_s(firm: Firm) -> None:
    people = [firm.person() for _ in range(3)]
    documents = [firm.document(firm.client(person), in_days(7)) for person in people]
    run(firm.tx, DOCUMENTS, firm.id)
    other = Firm.create(firm.tx)
    asks = [ask(firm, person) for person in people]
    foreign = Ask(uuid4(), other.id, "user", people[0], TODAY)
    found = pending_for(firm.tx, [*asks, foreign])
    subjects = {row.id: row.subject_id for row in firm.notices()}
    assert {job: [subjects[item.id] for item in items] for job, items in found.items()} == {
        wanted.job_id: [document] for wanted, document in zip(asks, documents, strict=True)
    }


def test_an_immediate_mail_takes_its_own_category_and_leaves_the_digest_s(firm: Firm) -> None:
    person = firm.person()
    firm.prefer(person, "filing", "email", "immediate")
    client = firm.client(person)
    firm.document(client, in_days(7))
    firm.filing(client, in_days(7))
    for job_type in (DOCUMENTS, FILINGS):
        run(firm.tx, job_type, firm.id)
    asks = [
        Ask(digest_job(firm, person), firm.id, "user", person, TODAY, kind) for kind in ("filing", "document_expiry")
    ]
    digest = ask(firm, person)
    found = pending_for(firm.tx, [*asks, digest])
    assert {job: [item.category for item in items] for job, items in found.items()} == {
        asks[0].job_id: ["filing"],
        digest.job_id: ["document_expiry"],
    }


def test_a_retry_takes_the_same_and_another_mail_takes_nothing_until_the_first_is_dead(firm: Firm) -> None:
    person = firm.person()
    firm.document(firm.client(person), in_days(7))
    run(firm.tx, DOCUMENTS, firm.id)
    first, second = ask(firm, person), ask(firm, person)
    assert len(take(firm, first)) == 1
    assert take(firm, first) == take(firm, first) != []
    assert take(firm, second) == []
    firm.tx.execute(text("UPDATE jobs SET state = 'cancelled', closed_at = now() WHERE id = :id"), {"id": first.job_id})
    assert len(take(firm, second)) == 1


def test_two_digests_of_one_reader_in_a_batch_do_not_list_the_same(firm: Firm) -> None:
    person = firm.person()
    firm.document(firm.client(person), in_days(7))
    run(firm.tx, DOCUMENTS, firm.id)
    assert len(pending_for(firm.tx, [ask(firm, person), ask(firm, person)])) == 1


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("UPDATE documents SET status = 'archived'", "no longer due"),
        ("INSERT INTO document_versions SELECT tenant_id, id, 2, '2030-01-01' FROM documents", "no longer due"),
        ("DELETE FROM documents", "no longer due"),
        ("UPDATE tenant_users SET role = 'viewer'", "recipient left"),
        ("DELETE FROM tenant_users", "recipient left"),
        (
            "INSERT INTO notification_preferences"
            " SELECT tenant_id, 'user', user_id, 'document_expiry', 'email', 'off' FROM tenant_users",
            "preference off",
        ),
    ],
)
def test_what_has_become_pointless_since_it_was_planned_is_suppressed_with_the_reason(
    firm: Firm, change: str, reason: str
) -> None:
    person = firm.person()
    firm.document(firm.client(person), in_days(7))
    run(firm.tx, DOCUMENTS, firm.id)
    firm.tx.execute(text(change))
    assert take(firm, ask(firm, person)) == []
    assert endings(firm) == [("suppressed", reason)]


@pytest.mark.parametrize("change", ["status = 'filed'", "due_date = due_date + 1"])
def test_a_filing_that_was_filed_or_moved_is_suppressed(firm: Firm, change: str) -> None:
    person = firm.person()
    firm.filing(firm.client(person), in_days(3))
    run(firm.tx, FILINGS, firm.id)
    firm.tx.execute(text(f"UPDATE filings SET {change}"))
    assert take(firm, ask(firm, person)) == []
    assert endings(firm) == [("suppressed", "no longer due")]


def test_after_days_without_mail_a_digest_lists_each_obligation_once(firm: Firm) -> None:
    person = firm.person()
    firm.filing(firm.client(person), TODAY)
    for day in range(-7, 4):
        run(firm.tx, FILINGS, firm.id, in_days(day))
    [item] = take(firm, ask(firm, person, days=3))
    assert item.days_left == -3
    assert endings(firm) == [("pending", None)] + [("suppressed", "a later notice covers it")] * 5


def test_notices_end_with_their_mail_and_only_once(firm: Firm) -> None:
    people = [firm.person() for _ in range(3)]
    for person in people:
        firm.document(firm.client(person), in_days(7))
    run(firm.tx, DOCUMENTS, firm.id)
    asks = [ask(firm, person) for person in people]
    pending_for(firm.tx, asks)
    sent, failed, _ = (wanted.job_id for wanted in asks)
    assert mark(firm.tx, {sent: Ending("sent"), failed: Ending("failed", "the address bounced")}) == 2
    assert mark(firm.tx, {sent: Ending("failed", "too late")}) == 0
    assert endings(firm) == [("failed", "the address bounced"), ("pending", None), ("sent", None)]
    assert [row.sent_at is not None for row in firm.notices()].count(True) == 1
