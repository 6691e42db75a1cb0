"""Who is told, and how: those responsible, by their preferences, each tenant for itself."""

from __future__ import annotations

from datetime import date
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import Engine

from functions.core.outcome import GiveUp, Skipped
from tests.notices import MAIL_PLANNERS, PLANNERS, TODAY, Firm, in_days, perform, planning_job, run

DOCUMENTS, FILINGS = MAIL_PLANNERS
DOCUMENTS_IN_APP, FILINGS_IN_APP = PLANNERS[2:]


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
