"""Who is told of what: the planners on a real database."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import Connection, Engine, text

from functions.core.outcome import GiveUp, Skipped
from functions.notifications.rules import DOCUMENT_EXPIRY, FILING
from tests.notices import MAIL_PLANNERS, PLANNERS, TODAY, Firm, in_days, perform, planning_job, run

DOCUMENTS, FILINGS = MAIL_PLANNERS
DOCUMENTS_IN_APP, FILINGS_IN_APP = PLANNERS[2:]


@pytest.fixture
def firm(database: Engine) -> Iterator[Firm]:
    with database.connect() as connection, connection.begin():
        yield Firm.create(connection)


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


# ---- who -----------------------------------------------------------------------------------------------------------


def test_without_anyone_assigned_the_managers_are_told_and_never_a_viewer(firm: Firm) -> None:
    manager, other, _staff, viewer = (firm.person(role) for role in ("manager", "manager", "staff", "viewer"))
    document = firm.document(firm.client(viewer), in_days(7))
    run(firm.tx, DOCUMENTS, firm.id)
    assert firm.told() == sorted([(manager, document, 7), (other, document, 7)])


def test_those_assigned_are_told_and_nobody_else(firm: Firm) -> None:
    firm.person("manager")
    staff, assigned_manager, viewer = (firm.person(role) for role in ("staff", "manager", "viewer"))
    document = firm.document(firm.client(staff, assigned_manager, viewer), in_days(7))
    run(firm.tx, DOCUMENTS, firm.id)
    assert firm.told() == sorted([(staff, document, 7), (assigned_manager, document, 7)])


def test_what_nobody_can_be_told_of_is_counted(firm: Firm) -> None:
    firm.document(firm.client(firm.person("viewer")), in_days(7))
    assert run(firm.tx, DOCUMENTS, firm.id).result == {"notices": 0, "suppressed": 0, "unheard": 1}


def test_who_is_assigned_later_is_told_once_where_it_stands(firm: Firm) -> None:
    first, second = firm.person(), firm.person()
    client = firm.client(first)
    document = firm.document(client, in_days(14))
    run(firm.tx, DOCUMENTS, firm.id)
    firm.assign(client, second)
    run(firm.tx, DOCUMENTS, firm.id, in_days(2))
    assert firm.told() == sorted([(first, document, 14), (second, document, 14)])


# ---- preferences ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("job_type", "category", "channel"),
    [
        (DOCUMENTS, "document_expiry", "email"),
        (DOCUMENTS_IN_APP, "document_expiry", "in_app"),
        (FILINGS, "filing", "email"),
        (FILINGS_IN_APP, "filing", "in_app"),
    ],
)
def test_a_preference_holds_for_its_category_and_channel_alone(
    firm: Firm, job_type: str, category: str, channel: str
) -> None:
    person = firm.person()
    client = firm.client(person)
    firm.document(client, in_days(7))
    firm.filing(client, in_days(7))
    firm.prefer(person, category, channel, "off")
    results = {name: run(firm.tx, name, firm.id).result for name in PLANNERS}
    told, refused = ({"notices": n, "suppressed": 1 - n, "unheard": 0} for n in (1, 0))
    assert results == {name: refused if name == job_type else told for name in PLANNERS}
    [row] = [row for row in firm.notices() if row.status == "suppressed"]
    assert (row.category, row.channel, row.reason, row.sent_at) == (category, channel, "preference off", None)


def test_mail_is_digested_and_the_application_tells_at_once_unless_preferred_otherwise(firm: Firm) -> None:
    firm.document(firm.client(firm.person()), in_days(7))
    for job_type in (DOCUMENTS, DOCUMENTS_IN_APP):
        assert not run(firm.tx, job_type, firm.id).requests
    found = {row.channel: (row.mode, row.status, row.sent_at is not None, row.local_date) for row in firm.notices()}
    assert found == {"email": ("digest", "pending", False, TODAY), "in_app": ("immediate", "sent", True, TODAY)}


@pytest.mark.parametrize(
    ("job_type", "category", "mail"),
    [(DOCUMENTS, "document_expiry", "email.document_expiry_warning"), (FILINGS, "filing", "email.filing_reminder")],
)
def test_who_wants_to_hear_at_once_gets_one_mail_a_run_whatever_it_lists(
    firm: Firm, job_type: str, category: str, mail: str
) -> None:
    eager, patient = firm.person(), firm.person()
    firm.prefer(eager, category, "email", "immediate")
    client = firm.client(eager, patient)
    for days in (1, 3, 7):
        firm.document(client, in_days(days))
        firm.filing(client, in_days(days))
    planned = run(firm.tx, job_type, firm.id)
    assert [(order.type, order.tenant_id, order.payload) for order in planned.requests] == [
        (mail, firm.id, {"recipient_kind": "user", "recipient_id": str(eager), "local_date": TODAY.isoformat()})
    ]
    assert planned.created == 1
    assert not run(firm.tx, job_type, firm.id).requests


# ---- what is not there ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("job_type", [*PLANNERS, "email.digests"])
def test_a_deleted_tenant_is_skipped_and_a_job_without_tenant_gives_up_beside_their_neighbours(
    firm: Firm, job_type: str
) -> None:
    tenants: list[UUID | None] = [uuid4(), None, firm.id]
    gone, none, well = perform(firm.tx, [planning_job(job_type, tenant) for tenant in tenants])
    assert gone.outcome == Skipped("the tenant was deleted")
    assert none.outcome == GiveUp(f"{job_type} needs a tenant_id")
    assert well.result


def test_tenants_of_one_batch_have_their_own_days_and_people(database: Engine) -> None:
    with database.begin() as tx:
        firms = [Firm.create(tx) for _ in range(3)]
        wanted: dict[UUID, Any] = {}
        jobs = []
        for number, firm in enumerate(firms):
            day: date = in_days(number)
            person = firm.person()
            wanted[firm.id] = [(person, firm.document(firm.client(person), in_days(7, day)), 7)]
            firm.document(firm.client(person), in_days(31, day))
            jobs.append(planning_job(DOCUMENTS, firm.id, day))
        perform(tx, jobs)
        assert {firm.id: firm.told() for firm in firms} == wanted
