"""Rule 5: outside effects are prepared, sent and recorded, and a crash in between leaves the intent on record."""

from __future__ import annotations

import pytest
from sqlalchemy import text

from functions.db import engine as db
from tests import jobs
from tests.jobs import MAILER, request
from tests.sql.conftest import Flow
from tests.sql.test_leases import Killed


def _outside(flow: Flow) -> list[tuple[object, str]]:
    return [(row.job_id, row.state) for row in flow.rows("SELECT job_id, state FROM outside")]


def test_prepared_sent_and_recorded(flow: Flow) -> None:
    [job_id] = flow.order(request("test.mail"))
    flow.relay()
    flow.work()
    assert MAILER.sent == [job_id]
    assert _outside(flow) == [(job_id, "sent")]
    assert flow.job(job_id).result == {"receipt": f"receipt-{job_id}"}


def test_the_intent_is_committed_before_anything_is_sent(flow: Flow) -> None:
    seen: list[object] = []
    jobs.HOOKS["sending"] = lambda: seen.extend(_outside(flow))
    [job_id] = flow.order(request("test.mail"))
    flow.relay()
    flow.work()
    assert seen == [(job_id, "intended")]


def test_while_sending_no_connection_is_held(flow: Flow) -> None:
    held: list[int] = []
    jobs.HOOKS["sending"] = lambda: held.append(db.engine().pool.checkedout())  # type: ignore[attr-defined]
    flow.order(*[request("test.mail") for _ in range(5)])
    flow.relay()
    flow.work()
    assert held == [0] * 5


def test_sends_of_a_batch_run_in_parallel_threads(flow: Flow) -> None:
    from threading import Barrier

    together = Barrier(5, timeout=10)
    jobs.HOOKS["sending"] = together.wait
    flow.order(*[request("test.mail") for _ in range(5)])
    flow.relay()
    flow.work()
    assert len(MAILER.sent) == 5


def test_a_crash_after_sending_leaves_the_intent_in_doubt(flow: Flow, monkeypatch: pytest.MonkeyPatch) -> None:
    [job_id] = flow.order(request("test.mail"))

    def killed(*_: object) -> None:
        raise Killed

    flow.relay()
    messages = flow.receive()
    monkeypatch.setattr(MAILER, "record", killed)
    with pytest.raises(Killed):
        flow.deliver(messages)
    assert _outside(flow) == [(job_id, "intended")]
    assert flow.job(job_id).state == "active"
    flow.expire_leases()


def test_a_send_that_fails_is_the_jobs_own_failure(flow: Flow) -> None:
    MAILER.fail = True
    [job_id] = flow.order(request("test.mail"))
    flow.relay()
    flow.deliver(flow.receive())
    row = flow.job(job_id)
    assert (row.state, row.attempts, row.error) == ("retrying", 1, "the provider is away")


def test_prepare_may_end_a_job_before_it_sends(flow: Flow) -> None:
    later, now = flow.order(request("test.mail", do="snooze"), request("test.mail"))
    flow.relay()
    flow.deliver(flow.receive())
    assert MAILER.sent == [now]
    assert flow.job(later).error == "over the limit"


def test_a_prepare_that_fails_is_done_one_by_one(flow: Flow) -> None:
    good, bad = flow.order(request("test.mail"), request("test.mail"))
    with flow.observer.begin() as tx:
        tx.execute(text(f"ALTER TABLE outside ADD CHECK (job_id <> '{bad}')"))
    flow.relay()
    flow.deliver(flow.receive())
    assert MAILER.sent == [good]
    assert flow.job(good).state == "completed"
    assert (flow.job(bad).state, flow.job(bad).attempts) == ("retrying", 1)
