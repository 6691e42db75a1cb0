"""The notices in the application: what is unread, and reading it."""

from __future__ import annotations

from functions.notifications.in_app import mark_read, unread
from tests.notices import TODAY, Firm, in_days, run

DOCUMENTS, FILINGS = "notifications.expiry_check", "notifications.filing_check"


def test_a_user_reads_the_own_notices_newest_first_and_once(firm: Firm) -> None:
    ana, ben = firm.person(), firm.person()
    bakery, mill = firm.client(ana, name="Bakery"), firm.client(ben, name="Mill")
    document, filing = firm.document(bakery, in_days(7)), firm.filing(bakery, in_days(3))
    firm.document(mill, in_days(7))
    run(firm.tx, DOCUMENTS, firm.id)
    run(firm.tx, FILINGS, firm.id)
    run(firm.tx, "email.document_expiry", firm.id)  # a notice of another channel

    found = unread(firm.tx, firm.id, ana)
    assert [(one.category, one.title, one.client_name, one.subject_id, one.due_date) for one in found] == [
        ("filing", "VAT return", "Bakery", filing, in_days(3, TODAY)),
        ("document_expiry", "Passport", "Bakery", document, in_days(7, TODAY)),
    ]
    assert unread(firm.tx, firm.id, ana, most=1) == found[:1]
    assert unread(firm.tx, firm.id, ana, before=found[0].id) == found[1:]

    assert mark_read(firm.tx, firm.id, ana, [found[1].id]) == 1
    assert mark_read(firm.tx, firm.id, ana, [found[1].id]) == 0
    assert unread(firm.tx, firm.id, ana) == found[:1]


def test_nobody_reads_for_somebody_else(firm: Firm) -> None:
    ana, ben = firm.person(), firm.person()
    firm.document(firm.client(ana), in_days(7))
    run(firm.tx, DOCUMENTS, firm.id)
    [notice] = unread(firm.tx, firm.id, ana)
    elsewhere = Firm.create(firm.tx)
    assert unread(firm.tx, elsewhere.id, ana) == []
    assert mark_read(firm.tx, firm.id, ben, [notice.id]) == mark_read(firm.tx, elsewhere.id, ana, [notice.id]) == 0
    assert unread(firm.tx, firm.id, ana) == [notice]
