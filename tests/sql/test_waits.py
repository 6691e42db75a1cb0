"""Rule 8: short retries wait in the queue; every other wait goes through the ledger."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from tests.jobs import request
from tests.sql.conftest import Flow

IN_A_MONTH = datetime.now(UTC) + timedelta(days=30)


def test_a_short_retry_waits_by_visibility_under_the_same_delivery(flow: Flow) -> None:
    [job_id] = flow.order(request("test.each", do="retry", delay=120))
    flow.relay()
    [message] = flow.receive()
    assert flow.deliver([message]) == [message["MessageId"]]
    row = flow.job(job_id)
    assert (row.state, row.delivery, row.outbox_at, row.attempts) == ("retrying", 1, None, 1)
    assert 110 < (row.run_at - datetime.now(UTC)).total_seconds() <= 120
    assert flow.queues.depth("standard").in_flight == 1


def test_a_retry_of_over_fifteen_minutes_waits_in_the_ledger(flow: Flow) -> None:
    [job_id] = flow.order(request("test.each", do="retry", delay=901))
    flow.relay()
    assert flow.deliver(flow.receive()) == []
    row = flow.job(job_id)
    assert (row.state, row.delivery, row.sent_at, row.attempts) == ("retrying", 2, None, 1)
    assert row.outbox_at == row.run_at
    assert flow.queues.depth("standard").empty


def test_on_a_fifo_queue_a_retry_blocks_nobody(flow: Flow) -> None:
    failing, next_one = flow.order(
        request("test.ordered", group="a", do="retry", delay=5), request("test.ordered", group="a")
    )
    flow.relay()
    flow.work("ordered")
    assert flow.job(failing).delivery == 2
    assert flow.effects() == {next_one: 1}


def test_a_snooze_may_last_months_and_uses_no_attempt(flow: Flow) -> None:
    [job_id] = flow.order(request("test.each", do="snooze", until=IN_A_MONTH))
    flow.relay()
    assert flow.deliver(flow.receive()) == []
    row = flow.job(job_id)
    assert (row.state, row.attempts, row.delivery, row.run_at) == ("delayed", 0, 2, IN_A_MONTH)
    assert row.error == "ordered to snooze"
    assert flow.relay() == 0
    flow.make_due()
    assert flow.relay() == 1
    assert flow.job(job_id).state == "waiting"


def test_a_long_job_goes_on_from_its_checkpoint_without_using_an_attempt(flow: Flow) -> None:
    [job_id] = flow.order(request("test.each", do="step", steps=4))
    for done in (1, 2, 3):
        flow.relay()
        assert flow.deliver(flow.receive()) == []
        row = flow.job(job_id)
        assert (row.state, row.checkpoint, row.progress) == ("waiting", {"step": done}, done / 4)
    flow.relay()
    flow.work()
    row = flow.job(job_id)
    assert (row.state, row.attempts, row.runs, row.result) == ("completed", 0, 4, {"steps": 4})


def test_a_delayed_job_is_not_sent_before_its_time(flow: Flow) -> None:
    [job_id] = flow.order(request("test.each", run_at=IN_A_MONTH))
    assert flow.relay() == 0
    assert flow.job(job_id).state == "delayed"
    flow.make_due()
    assert flow.relay() == 1


def test_a_job_that_has_not_started_by_its_deadline_is_cancelled(flow: Flow) -> None:
    late, in_time = flow.order(
        request("test.each", deadline_at=IN_A_MONTH), request("test.each", deadline_at=IN_A_MONTH)
    )
    flow.rows("UPDATE jobs SET deadline_at = now() WHERE id = :id", id=late)
    flow.relay()
    flow.work()
    assert (flow.job(late).state, flow.job(late).runs) == ("cancelled", 0)
    assert flow.job(late).error == "its deadline passed before it could run"
    assert flow.effects() == {in_time: 1}


def test_what_a_finished_job_orders_is_committed_with_it(flow: Flow) -> None:
    flow.order(request("test.each", follower=True))
    flow.relay()
    flow.work()
    assert flow.states() == {"completed": 1, "waiting": 1}
    flow.relay()
    flow.work()
    assert flow.states() == {"completed": 2}


@pytest.mark.parametrize("queue", ["standard", "ordered"])
def test_a_job_dies_when_its_attempts_are_used_up(flow: Flow, queue: str) -> None:
    kind = {"standard": "test.each", "ordered": "test.ordered"}[queue]
    [job_id] = flow.order(request(kind, do="retry", delay=0))
    for _ in range(3):
        flow.relay()
        flow.work(queue)
    assert (flow.job(job_id).state, flow.job(job_id).attempts) == ("dead", 3)


def test_fifo_groups_keep_the_order_of_enqueueing(flow: Flow) -> None:
    ids = flow.order(*[request("test.ordered", group="a") for _ in range(25)])
    flow.relay()
    flow.work("ordered")
    order = [row.job_id for row in flow.rows("SELECT job_id FROM probe_effects ORDER BY id")]
    assert order == ids
