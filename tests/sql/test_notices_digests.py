"""Planning the digests: one a reader and day, after the day's planners, after quiet hours."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, time, timedelta
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy import Connection, Engine, Row, text

from functions.core.catalog import CATALOG
from functions.core.job import JobRequest
from functions.core.outcome import Snooze
from functions.notifications.queries import Ask, Ending, mark, pending_for
from functions.notifications.rules import DIGEST_WAIT
from functions.pipeline import relay
from functions.pipeline.enqueue import enqueue
from functions.pipeline.schedule import plan_tick
from tests.harness import Queues, states, work
from tests.notices import TODAY, Firm, in_days, perform, planning_job, run

DOCUMENTS, DIGESTS = "email.document_expiry", "email.digests"


def rows(tx: Connection, statement: str, **values: Any) -> list[Row[Any]]:
    return list(tx.execute(text(statement), values))


def test_only_those_with_something_to_read_get_a_digest_and_one_for_both_categories(firm: Firm) -> None:
    reader, off, idle = firm.person(), firm.person(), firm.person()
    firm.prefer(off, "document_expiry", "email", "off")
    client = firm.client(reader)
    firm.document(client, in_days(7))
    firm.filing(client, in_days(3))
    firm.document(firm.client(off), in_days(7))
    firm.client(idle)
    for job_type in (DOCUMENTS, "email.filing_reminders"):
        run(firm.tx, job_type, firm.id)
    digests = run(firm.tx, DIGESTS, firm.id)
    assert [(order.type, order.tenant_id, order.payload) for order in digests.requests] == [
        (
            "email.digest",
            firm.id,
            {"recipient_kind": "user", "recipient_id": str(reader), "local_date": TODAY.isoformat()},
        )
    ]


def test_a_second_planning_of_the_day_orders_nobody_s_digest_twice_even_with_something_new(firm: Firm) -> None:
    person = firm.person()
    client = firm.client(person)
    firm.document(client, in_days(7))
    run(firm.tx, DOCUMENTS, firm.id)
    [order] = run(firm.tx, DIGESTS, firm.id).ordered
    firm.tx.execute(text("UPDATE jobs SET state = 'cancelled', closed_at = now() WHERE id = :id"), {"id": order.id})
    firm.document(client, in_days(7))
    run(firm.tx, DOCUMENTS, firm.id)
    again = run(firm.tx, DIGESTS, firm.id)
    assert [(item.id, item.created) for item in again.ordered] == [(order.id, False)]
    assert run(firm.tx, DIGESTS, firm.id, in_days(1)).created == 1


def test_what_an_immediate_mail_failed_to_carry_joins_the_next_day_s_digest(firm: Firm) -> None:
    person = firm.person()
    firm.prefer(person, "document_expiry", "email", "immediate")
    firm.document(firm.client(person), in_days(7))
    [mail] = run(firm.tx, DOCUMENTS, firm.id).ordered
    assert run(firm.tx, DIGESTS, firm.id).created == 0
    ask = Ask(mail.id, firm.id, "user", person, TODAY, "document_expiry")
    assert list(pending_for(firm.tx, [ask])) == [mail.id]
    assert run(firm.tx, DIGESTS, firm.id, in_days(1)).created == 0, "its own mail is still under way"
    firm.tx.execute(text("UPDATE jobs SET state = 'cancelled', closed_at = now() WHERE id = :id"), {"id": mail.id})
    assert run(firm.tx, DIGESTS, firm.id, in_days(1)).created == 1


def test_what_was_sent_needs_no_digest(firm: Firm) -> None:
    person = firm.person()
    firm.document(firm.client(person), in_days(7))
    run(firm.tx, DOCUMENTS, firm.id)
    [digest] = run(firm.tx, DIGESTS, firm.id).ordered
    pending_for(firm.tx, [Ask(digest.id, firm.id, "user", person, TODAY)])
    assert mark(firm.tx, {digest.id: Ending("sent")}) == 1
    assert run(firm.tx, DIGESTS, firm.id, in_days(1)).created == 0


# ---- after the planners --------------------------------------------------------------------------------------------


def planned(tx: Connection, schedule: str, day: datetime) -> Row[Any]:
    """The job that the schedule's tick of this day planned."""
    tx.execute(text("UPDATE schedules SET enabled_since = '2000-01-01Z'"))
    plan_tick(tx, CATALOG.schedules[schedule], day, jitter=False)
    return rows(
        tx,
        "SELECT j.* FROM schedule_runs r JOIN jobs j ON j.id = r.job_id WHERE r.schedule = :name AND planned_at = :day",
        name=schedule,
        day=day,
    )[0]


def end(tx: Connection, job_id: UUID, state: str = "completed") -> None:
    tx.execute(
        text("""
            UPDATE jobs SET state = 'active', claim_token = gen_random_uuid(), outbox_at = NULL, sent_at = now()
            WHERE id = :id
        """),
        {"id": job_id},
    )
    tx.execute(
        text(
            "UPDATE jobs SET state = CAST(:state AS text), claim_token = NULL,"
            " closed_at = CASE WHEN :state = 'completed' THEN now() END,"
            " died_at = CASE WHEN :state = 'dead' THEN now() END WHERE id = :id"
        ),
        {"id": job_id, "state": state},
    )


EVENING = datetime.combine(TODAY, time(9), tzinfo=UTC)
"""When every schedule of mail of the day has come due."""


@pytest.mark.parametrize("last", ["completed", "dead"])
@pytest.mark.parametrize("day", [EVENING, EVENING - timedelta(days=4000)], ids=["today", "replayed"])
def test_digests_wait_for_the_planners_of_that_tenant_and_day(firm: Firm, day: datetime, last: str) -> None:
    Firm.create(firm.tx)  # whose planners nobody finishes
    firm.tx.execute(text("UPDATE tenants SET created_at = '2000-01-01Z'"))
    planners = [
        row.id
        for name in ("daily-document-expiry", "daily-filing-reminders")
        for _ in [planned(firm.tx, name, day)]
        for row in rows(firm.tx, "SELECT id FROM jobs WHERE tenant_id = :id ORDER BY id", id=firm.id)
    ]
    job = planning_job(DIGESTS, firm.id, day.date())
    waits = perform(firm.tx, [job])[0].outcome
    assert isinstance(waits, Snooze)
    assert waits.reason == "waits for daily-document-expiry, daily-filing-reminders"
    assert timedelta(0) < waits.until - datetime.now(UTC) <= timedelta(minutes=10)
    first, second = dict.fromkeys(planners)
    end(firm.tx, first)
    waits = perform(firm.tx, [job])[0].outcome
    assert isinstance(waits, Snooze)
    assert waits.reason == "waits for daily-filing-reminders"
    end(firm.tx, second, last)
    assert perform(firm.tx, [job])[0].result == {"digests": 0}


def test_digests_wait_no_longer_than_their_time(firm: Firm) -> None:
    planned(firm.tx, "daily-document-expiry", EVENING)
    own = planned(firm.tx, "daily-digest", EVENING)
    job = replace(planning_job(DIGESTS, firm.id, runs=100), id=own.id)

    def made_ago(waited: timedelta) -> None:
        firm.tx.execute(
            text("UPDATE jobs SET created_at = now() - CAST(:by AS interval) WHERE id = :id"),
            {"by": waited, "id": own.id},
        )

    made_ago(DIGEST_WAIT - timedelta(minutes=3))
    waits = perform(firm.tx, [job])[0].outcome
    assert isinstance(waits, Snooze)
    assert waits.until - datetime.now(UTC) <= timedelta(minutes=3), "not beyond its time"
    made_ago(DIGEST_WAIT)
    assert perform(firm.tx, [job])[0].result == {"digests": 0}


@pytest.mark.parametrize(("days_left", "requests"), [(1, 1), (0, 1), (-3, 1), (2, 0), (7, 0)], ids=str)
def test_what_comes_after_the_digest_and_is_due_within_a_day_goes_at_once(
    firm: Firm, days_left: int, requests: int
) -> None:
    end(firm.tx, planned(firm.tx, "daily-digest", EVENING).id)
    firm.filing(firm.client(firm.person()), in_days(days_left))
    assert len(run(firm.tx, "email.filing_reminders", firm.id).requests) == requests
    [row] = firm.notices()
    assert row.mode == ("immediate" if requests else "digest")


def test_before_the_digest_even_what_is_due_today_waits_for_it(firm: Firm) -> None:
    planned(firm.tx, "daily-digest", EVENING)
    firm.filing(firm.client(firm.person()), TODAY)
    assert not run(firm.tx, "email.filing_reminders", firm.id).requests
    assert run(firm.tx, DIGESTS, firm.id).created == 1


# ---- quiet hours ---------------------------------------------------------------------------------------------------


def around_now(zone: str) -> tuple[time, time]:
    """Quiet hours in this zone, from an hour ago until an hour from now."""
    now = datetime.now(ZoneInfo(zone)).replace(second=0, microsecond=0)
    return (now - timedelta(hours=1)).time(), (now + timedelta(hours=1)).time()


@pytest.mark.parametrize("own_zone", [None, "Asia/Kathmandu"])
@pytest.mark.parametrize("mode", ["digest", "immediate"])
def test_a_mail_waits_for_the_end_of_its_reader_s_quiet_hours(
    database: Engine, own_zone: str | None, mode: str
) -> None:
    with database.begin() as tx:
        firm = Firm.create(tx, zone="America/New_York")
        start, stop = around_now(own_zone or "America/New_York")
        person = firm.person(time_zone=own_zone, quiet_from=start, quiet_until=stop)
        firm.prefer(person, "document_expiry", "email", mode)
        firm.document(firm.client(person), in_days(7))
        planner = run(tx, DOCUMENTS, firm.id)
        [order] = run(tx, DIGESTS, firm.id).requests if mode == "digest" else planner.requests
    assert order.run_at is not None
    assert timedelta(minutes=58) <= order.run_at - datetime.now(UTC) <= timedelta(hours=1)


def test_the_whole_flow_plans_the_day_from_messages(database: Engine, queues: Queues) -> None:
    with database.begin() as tx:
        firm = Firm.create(tx)
        person = firm.person()
        client = firm.client(person)
        firm.document(client, in_days(7))
        firm.filing(client, in_days(3))
    for planner in ("email.document_expiry", "email.filing_reminders", DIGESTS):
        with database.begin() as tx:
            enqueue(tx, [JobRequest(planner, {"local_date": TODAY.isoformat()}, firm.id)])
        relay.drain(queue="scheduled-email")
        work(queues, "scheduled-email", batch=100)
    with database.begin() as tx:
        assert states(tx) == {"completed": 3, "waiting": 1}
        [digest] = rows(tx, "SELECT * FROM jobs WHERE type = 'email.digest'")
        assert (digest.tenant_id, digest.group_key) == (firm.id, None)
