"""Rules 4 and 6: database effects exactly once, leases, and what counts as an attempt."""

from __future__ import annotations

import time

import pytest

from duecourse.local.delivery import Context
from functions.pipeline.batch import TIME_RESERVE_SECONDS
from tests import jobs
from tests.jobs import request
from tests.sql.conftest import Flow


class Killed(BaseException):
    """Ends the worker where it stands, as `kill -9` does: no handler of ours catches it."""


def _kill() -> None:
    raise Killed


def test_one_failure_does_not_undo_its_neighbours(flow: Flow) -> None:
    good, raising, bad_sql, also_good = flow.order(
        request("test.each"), request("test.each", do="raise"), request("test.each", do="bad_sql"), request("test.each")
    )
    flow.relay()
    flow.deliver(flow.receive())
    assert flow.effects() == {good: 1, also_good: 1}
    assert flow.job(raising).error == "ordered to raise"
    assert "division by zero" in flow.job(bad_sql).error
    assert {flow.job(raising).state, flow.job(bad_sql).state} == {"retrying"}


@pytest.mark.parametrize("ending", ["retry", "snooze", "give_up"])
def test_a_run_that_did_not_succeed_leaves_no_effect(flow: Flow, ending: str) -> None:
    flow.order(request("test.each", do=ending))
    flow.relay()
    flow.deliver(flow.receive())
    assert flow.effects() == {}


def test_a_worker_that_lost_its_lease_cannot_commit(flow: Flow) -> None:
    [job_id] = flow.order(request("test.each", hook="lose_lease"))
    jobs.HOOKS["lose_lease"] = lambda: _take_over(flow)
    flow.relay()
    [message] = flow.receive()
    assert flow.deliver([message]) == [message["MessageId"]]
    assert flow.effects() == {}
    assert flow.job(job_id).state == "active"  # the other worker's, untouched


def test_a_lease_lost_by_one_hands_its_neighbours_back_at_no_cost(flow: Flow) -> None:
    first, second = flow.order(request("test.each", hook="lose_lease"), request("test.each"))
    jobs.HOOKS["lose_lease"] = lambda: _take_over(flow, only=first)
    flow.relay()
    assert len(flow.deliver(flow.receive())) == 2
    assert flow.effects() == {}
    row = flow.job(second)
    assert (row.state, row.attempts, row.lost) == ("waiting", 0, 0)
    assert flow.attempts(second) == [(1, "released", False)]


def test_a_run_that_was_killed_is_lost_and_refunded_and_runs_again(flow: Flow) -> None:
    first, second = flow.order(request("test.each"), request("test.each", hook="kill"))
    jobs.HOOKS["kill"] = _kill
    flow.relay()
    messages = flow.receive()
    with pytest.raises(Killed):
        flow.deliver(messages)
    jobs.HOOKS["kill"] = lambda: None
    flow.expire_leases()
    assert flow.deliver(messages) == []
    assert flow.effects() == {first: 1, second: 1}
    for job_id in (first, second):
        row = flow.job(job_id)
        assert (row.state, row.attempts, row.runs) == ("completed", 0, 2)
        assert flow.attempts(job_id) == [(1, "lost", False)]


def test_a_job_whose_run_was_lost_runs_alone(flow: Flow) -> None:
    killer, neighbour, *others = flow.order(request("test.each", hook="kill"), *[request("test.each")] * 4)
    jobs.HOOKS["kill"] = _kill
    flow.relay()
    messages = flow.receive()
    for _ in range(3):
        with pytest.raises(Killed):
            flow.deliver(messages)
        flow.expire_leases()
    # Its first loss took the batch with it, its second none; the third came after everybody else was done.
    assert flow.effects() == dict.fromkeys([neighbour, *others], 1)
    assert (flow.job(killer).lost, flow.job(killer).lost_alone) == (2, 1)


def test_the_third_loss_alone_is_death(flow: Flow) -> None:
    [job_id] = flow.order(request("test.each", hook="kill"))
    jobs.HOOKS["kill"] = _kill
    flow.relay()
    messages = flow.receive()
    for _ in range(3):
        with pytest.raises(Killed):
            flow.deliver(messages)
        flow.expire_leases()
    assert flow.deliver(messages) == [messages[0]["MessageId"]]
    row = flow.job(job_id)
    assert (row.state, row.attempts, row.error_class) == ("dead", 0, "Crashed")
    assert row.error.startswith("crashed: 3 runs in a row")
    assert flow.attempts(job_id) == [(1, "lost", False), (2, "lost", False), (3, "lost", False)]


def test_a_run_that_ends_well_forgets_earlier_losses(flow: Flow) -> None:
    [job_id] = flow.order(request("test.each", hook="kill", do="raise"))
    jobs.HOOKS["kill"] = _kill
    flow.relay()
    messages = flow.receive()
    with pytest.raises(Killed):
        flow.deliver(messages)
    flow.expire_leases()
    jobs.HOOKS["kill"] = lambda: None
    flow.deliver(messages)
    assert (flow.job(job_id).lost, flow.job(job_id).attempts) == (0, 1)


def test_a_set_that_fails_is_done_one_by_one(flow: Flow) -> None:
    good, bad, also_good = flow.order(request("test.set"), request("test.set", do="raise"), request("test.set"))
    flow.relay()
    flow.deliver(flow.receive())
    assert flow.effects() == {good: 1, also_good: 1}
    assert flow.job(bad).state == "retrying"


def test_jobs_that_the_remaining_time_cannot_hold_are_handed_back_at_no_cost(flow: Flow) -> None:
    ids = flow.order(*[request("test.each") for _ in range(3)])
    flow.relay()
    messages = flow.receive()
    assert len(flow.deliver(messages, context=Context(seconds=1))) == 3
    assert flow.states() == {"waiting": 3}
    assert all(flow.job(job_id).runs == 0 for job_id in ids)
    assert flow.deliver(flow.receive()) == []


def test_a_batch_that_runs_out_of_time_keeps_what_is_done_and_releases_the_rest(flow: Flow) -> None:
    ids = flow.order(*[request("test.each", hook="slow") for _ in range(3)])
    jobs.HOOKS["slow"] = lambda: time.sleep(1)
    flow.relay()
    failed = flow.deliver(flow.receive(), context=Context(seconds=TIME_RESERVE_SECONDS + 1.5))
    assert len(failed) == 2
    assert flow.effects() == {ids[0]: 1}
    assert flow.states() == {"completed": 1, "waiting": 2}
    assert flow.attempts(ids[2]) == [(1, "released", False)]


def test_attempts_are_the_jobs_own_failures_never_receives(flow: Flow) -> None:
    [job_id] = flow.order(request("test.each", do="raise"))
    flow.relay()
    [message] = flow.receive()
    for attempt in (1, 2):
        for _ in range(3):  # received again and again before it is due
            assert flow.deliver([message]) == [message["MessageId"]]
        assert flow.job(job_id).attempts == attempt
        flow.make_due()
    flow.deliver([message])
    assert flow.job(job_id).state == "dead"
    assert flow.attempts(job_id) == [(1, "failed", True), (2, "failed", True), (3, "failed", True)]


def _take_over(flow: Flow, only: object = None) -> None:
    """Another worker now holds the lease."""
    flow.rows(
        "UPDATE jobs SET claim_token = gen_random_uuid() WHERE state = 'active' AND (CAST(:only AS uuid) IS NULL"
        " OR id = :only)",
        only=only,
    )
