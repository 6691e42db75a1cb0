"""What is announced, and when: the planners on a real database."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import Connection, Engine, text

from functions.core.outcome import Skipped
from functions.notifications.rules import DOCUMENT_EXPIRY, FILING
from tests.notices import MAIL_PLANNERS, PLANNERS, TODAY, Firm, in_days, perform, planning_job, run

DOCUMENTS, FILINGS = MAIL_PLANNERS
DOCUMENTS_IN_APP, FILINGS_IN_APP = PLANNERS[2:]


def audit_world(tx: Connection, *, spread: bool) -> Firm:
    """The audit's case: 100 documents on each of the five warning days, 10 users, all responsible or a tenth each."""
    firm = Firm.create(tx)
    people = [firm.person() for _ in range(10)]
    clients = [firm.client(person) for person in people] if spread else [firm.client(*people)] * 10
    for milestone in DOCUMENT_EXPIRY.milestones:
        for number in range(100):
            firm.document(clients[number % 10], in_days(milestone))
    return firm


def digest_jobs(tx: Connection) -> int:
    found: int = tx.execute(text("SELECT count(*) FROM jobs WHERE type = 'email.digest'")).scalar_one()
    return found


def test_five_thousand_obligations_are_ten_digests_however_often_the_day_is_replayed(database: Engine) -> None:
    with database.begin() as tx:
        firm = audit_world(tx, spread=False)
    for replay in range(4):
        with database.begin() as tx:
            planned = run(tx, DOCUMENTS, firm.id)
            assert planned.result == {"notices": 0 if replay else 5_000, "suppressed": 0, "unheard": 0}
            digests = run(tx, "email.digests", firm.id)
            assert digests.created == (0 if replay else 10)
    with database.begin() as tx:
        assert digest_jobs(tx) == 10
        assert tx.execute(text("SELECT count(*) FROM jobs")).scalar_one() == 10


def test_overlapping_runs_write_each_notice_once_and_order_each_digest_once(database: Engine, observer: Engine) -> None:
    with database.begin() as tx:
        firm = audit_world(tx, spread=False)

    def day(_: int) -> tuple[int, int]:
        with observer.begin() as tx:
            notices = run(tx, DOCUMENTS, firm.id).result["notices"]
        with observer.begin() as tx:
            return notices, run(tx, "email.digests", firm.id).created

    with ThreadPoolExecutor(4) as threads:
        done = list(threads.map(day, range(4)))
    assert sum(notices for notices, _ in done) == 5_000
    assert sum(digests for _, digests in done) == 10
    with database.begin() as tx:
        assert digest_jobs(tx) == 10


def test_with_assignments_spread_each_document_reaches_its_own_people_only(database: Engine) -> None:
    with database.begin() as tx:
        firm = audit_world(tx, spread=True)
        assert run(tx, DOCUMENTS, firm.id).result["notices"] == 500
        strangers = tx.execute(
            text("""
                SELECT count(*) FROM notifications n WHERE NOT EXISTS (
                    SELECT FROM documents d JOIN client_assignments a USING (tenant_id, client_id)
                    WHERE d.tenant_id = n.tenant_id AND d.id = n.subject_id AND a.user_id = n.recipient_id)
            """)
        ).scalar_one()
        assert strangers == 0
        assert run(tx, "email.digests", firm.id).created == 10


@pytest.mark.parametrize("days_left", range(-12, 35))
def test_a_new_document_is_announced_at_its_tightest_milestone(firm: Firm, days_left: int) -> None:
    person = firm.person()
    document = firm.document(firm.client(person), in_days(days_left))
    run(firm.tx, DOCUMENTS, firm.id)
    reached = {**dict.fromkeys(range(-7, 2), 1), 2: 3, 3: 3, **dict.fromkeys(range(4, 8), 7)}
    reached |= dict.fromkeys(range(8, 15), 14) | dict.fromkeys(range(15, 31), 30)
    expected = [(person, document, reached[days_left])] if days_left in reached else []
    assert firm.told() == expected


@pytest.mark.parametrize("days_left", range(-12, 18))
def test_a_new_filing_is_announced_at_its_tightest_milestone(firm: Firm, days_left: int) -> None:
    person = firm.person()
    filing = firm.filing(firm.client(person), in_days(days_left))
    run(firm.tx, FILINGS, firm.id)
    reached = {day: day for day in range(-7, 1)} | dict.fromkeys(range(1, 4), 3) | dict.fromkeys(range(4, 8), 7)
    reached |= dict.fromkeys(range(8, 15), 14)
    expected = [(person, filing, reached[days_left])] if days_left in reached else []
    assert firm.told() == expected


@pytest.mark.parametrize("status", ["pending_review", "rejected", "archived"])
def test_a_document_that_is_not_valid_is_not_announced(firm: Firm, status: str) -> None:
    firm.document(firm.client(firm.person()), in_days(3), status)
    run(firm.tx, DOCUMENTS, firm.id)
    assert firm.told() == []


@pytest.mark.parametrize(("status", "told"), [("draft", 1), ("prepared", 1), ("filed", 0), ("cancelled", 0)])
def test_a_filing_is_announced_while_it_is_open(firm: Firm, status: str, told: int) -> None:
    firm.filing(firm.client(firm.person()), in_days(0), status)
    run(firm.tx, FILINGS, firm.id)
    assert len(firm.told()) == told


def test_the_latest_version_counts_and_a_new_expiry_is_a_new_obligation(firm: Firm) -> None:
    person = firm.person()
    document = firm.document(firm.client(person), in_days(3))
    run(firm.tx, DOCUMENTS, firm.id)
    firm.version(document, in_days(400), 2)
    run(firm.tx, DOCUMENTS, firm.id, in_days(2))
    assert firm.told() == [(person, document, 3)]
    run(firm.tx, DOCUMENTS, firm.id, in_days(397))
    assert [(row.due_date, row.milestone) for row in firm.notices()] == [(in_days(3), 3), (in_days(400), 3)]


def test_after_an_outage_of_three_days_each_obligation_gets_one_notice_at_its_tightest_milestone(firm: Firm) -> None:
    person = firm.person()
    client = firm.client(person)
    documents = {days: firm.document(client, in_days(days)) for days in range(4, 40)}
    filings = {days: firm.filing(client, in_days(days)) for days in range(-3, 20)}
    for job_type in MAIL_PLANNERS:
        run(firm.tx, job_type, firm.id)
    before = {row.id for row in firm.notices()}
    for job_type in MAIL_PLANNERS:
        run(firm.tx, job_type, firm.id, in_days(4))
    since = [row for row in firm.notices() if row.id not in before]
    assert len({row.subject_id for row in since}) == len(since)

    def tightest(milestones: tuple[int, ...], days: int) -> int | None:
        """What has been reached on the fourth day and had not been on the first."""
        return min((m for m in milestones if days - 4 <= m < days or (m == days - 4)), default=None)

    expected = {
        subject: milestone
        for subjects, warnings in ((documents, DOCUMENT_EXPIRY), (filings, FILING))
        for days, subject in subjects.items()
        if (milestone := tightest(warnings.milestones, days)) is not None
    }
    assert {row.subject_id: row.milestone for row in since} == expected


def test_a_replay_of_an_earlier_day_announces_nothing_wider(firm: Firm) -> None:
    person = firm.person()
    document = firm.document(firm.client(person), in_days(10))
    run(firm.tx, DOCUMENTS, firm.id, in_days(7))
    run(firm.tx, DOCUMENTS, firm.id, in_days(0))
    assert firm.told() == [(person, document, 3)]


def test_an_overdue_filing_is_announced_daily_for_a_week(firm: Firm) -> None:
    firm.filing(firm.client(firm.person()), TODAY)
    for day in range(-20, 20):
        run(firm.tx, FILINGS, firm.id, in_days(day))
    assert [row.milestone for row in firm.notices()] == [14, 7, 3, 0, -1, -2, -3, -4, -5, -6, -7]


def test_two_days_of_one_tenant_in_a_batch_are_no_burst(firm: Firm) -> None:
    firm.document(firm.client(firm.person()), in_days(8))
    first, second = perform(
        firm.tx, [planning_job(DOCUMENTS, firm.id, in_days(1)), planning_job(DOCUMENTS, firm.id, in_days(5))]
    )
    assert isinstance(first.outcome, Skipped)
    assert second.result["notices"] == 1
    assert [row.milestone for row in firm.notices()] == [3]
