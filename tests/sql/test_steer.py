"""Pausing, resuming, retrying and removing jobs: what becomes of the row, its message and its run."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest

from functions.core.job import State
from functions.pipeline.steer import FROM, Action, Steered, steer
from tests import jobs
from tests.jobs import request
from tests.sql.conftest import Flow

HOUR = timedelta(hours=1)


def _steer(
    flow: Flow, action: Action, *ids: UUID, queue: str = "standard", tenant: UUID | None = None
) -> list[Steered]:
    with flow.observer.begin() as tx:
        return steer(tx, action, ids, queue=queue, tenant_id=tenant)


def _fail_once(flow: Flow, *, queue: str = "standard") -> UUID:
    """A job that is retrying: its first run failed, the second is ten minutes away at most."""
    [job_id] = flow.order(request("test.each" if queue == "standard" else "test.ordered", hook="fail"))
    failures = iter([True])
    jobs.HOOKS["fail"] = lambda: _raise() if next(failures, False) else None
    flow.relay()
    flow.work(queue)
    assert flow.job(job_id).state == "retrying"
    return job_id


def test_a_job_paused_before_it_was_sent_is_not_sent(flow: Flow) -> None:
    [job_id] = flow.order(request("test.each"))
    assert _steer(flow, Action.PAUSE, job_id) == [Steered(job_id, State.WAITING, State.PAUSED)]
    assert flow.relay() == 0
    _steer(flow, Action.RESUME, job_id)
    assert flow.relay() == 1
    flow.work()
    assert flow.effects() == {job_id: 1}


@pytest.mark.parametrize(("queue", "job_type"), [("standard", "test.each"), ("ordered", "test.ordered")])
def test_a_job_paused_while_its_message_is_in_flight_does_not_run_and_once_resumed_runs_once(
    flow: Flow, queue: str, job_type: str
) -> None:
    [job_id] = flow.order(request(job_type))
    flow.relay()
    [message] = flow.receive(queue)
    _steer(flow, Action.PAUSE, job_id, queue=queue)
    assert flow.deliver([message], queue) == []
    assert (flow.job(job_id).state, flow.job(job_id).runs) == ("paused", 0)
    assert _steer(flow, Action.RESUME, job_id, queue=queue) == [Steered(job_id, State.PAUSED, State.WAITING)]
    flow.relay()
    flow.work(queue)
    flow.deliver([{**message, "MessageId": "copy"}], queue)
    assert flow.effects() == {job_id: 1}
    assert flow.job(job_id).state == "completed"


def test_a_paused_job_whose_time_is_yet_to_come_is_delayed_again(flow: Flow) -> None:
    at = datetime.now(UTC) + HOUR
    [job_id] = flow.order(request("test.each", run_at=at))
    _steer(flow, Action.PAUSE, job_id)
    assert _steer(flow, Action.RESUME, job_id) == [Steered(job_id, State.PAUSED, State.DELAYED)]
    row = flow.job(job_id)
    assert (row.run_at, row.outbox_at) == (at, at)


def test_a_paused_job_that_waits_for_others_is_blocked_again(flow: Flow) -> None:
    [job_id] = flow.order(request("test.each"))
    # As an order with parents will leave it.
    flow.rows("ALTER TABLE jobs DISABLE TRIGGER jobs_transition")
    flow.rows("UPDATE jobs SET state = 'blocked', pending_parents = 1, outbox_at = NULL")
    flow.rows("UPDATE job_count_deltas SET state = 'blocked' WHERE state = 'waiting'")
    flow.rows("ALTER TABLE jobs ENABLE TRIGGER jobs_transition")
    assert _steer(flow, Action.PAUSE, job_id) == [Steered(job_id, State.BLOCKED, State.PAUSED)]
    assert _steer(flow, Action.RESUME, job_id) == [Steered(job_id, State.PAUSED, State.BLOCKED)]
    assert flow.relay() == 0


@pytest.mark.parametrize("queue", ["standard", "ordered"])
def test_a_retry_does_not_wait_for_the_backoff_and_its_old_message_is_dropped(flow: Flow, queue: str) -> None:
    job_id = _fail_once(flow, queue=queue)
    assert _steer(flow, Action.RETRY, job_id, queue=queue) == [Steered(job_id, State.RETRYING, State.WAITING)]
    flow.relay()
    flow.work(queue)
    row = flow.job(job_id)
    assert (row.state, row.runs, row.attempts) == ("completed", 2, 0)


def test_a_retry_runs_a_delayed_job_at_once(flow: Flow) -> None:
    [job_id] = flow.order(request("test.each", run_at=datetime.now(UTC) + HOUR))
    _steer(flow, Action.RETRY, job_id)
    flow.relay()
    flow.work()
    assert flow.job(job_id).state == "completed"


def test_a_retry_revives_a_dead_job_with_fresh_attempts(flow: Flow) -> None:
    [job_id] = flow.order(request("test.each", do="give_up"))
    flow.relay()
    flow.work()
    assert _steer(flow, Action.RETRY, job_id) == [Steered(job_id, State.DEAD, State.WAITING)]
    row = flow.job(job_id)
    assert (row.attempts, row.delivery, row.died_at, row.dead_message_id) == (0, 2, None, None)
    flow.relay()
    flow.work()
    assert flow.job(job_id).runs == 2


def test_a_retry_of_a_due_job_sends_it_again_under_a_new_delivery_and_it_runs_once(flow: Flow) -> None:
    [job_id] = flow.order(request("test.each"))
    flow.relay()
    [message] = flow.receive()
    assert _steer(flow, Action.RETRY, job_id) == [Steered(job_id, State.WAITING, State.WAITING)]
    flow.relay()
    flow.work()
    flow.deliver([message])
    assert (flow.job(job_id).delivery, flow.effects()) == (2, {job_id: 1})


@pytest.mark.parametrize(("state", "moves"), [("waiting", False), ("delayed", True)])
def test_a_retry_keeps_the_turn_of_what_is_due_and_brings_it_forward_for_what_is_not(
    flow: Flow, state: str, *, moves: bool
) -> None:
    at = datetime.now(UTC) + (HOUR if moves else -HOUR)
    [job_id] = flow.order(request("test.ordered", group="g", **({"run_at": at} if moves else {})))
    flow.rows("UPDATE jobs SET turn = :at, run_at = :at, outbox_at = :at", at=at)
    _steer(flow, Action.RETRY, job_id, queue="ordered")
    row = flow.job(job_id)
    assert row.outbox_at <= datetime.now(UTC)
    assert row.run_at <= row.outbox_at
    assert (row.turn == row.run_at == row.outbox_at) if moves else row.turn == at


def test_a_pause_keeps_a_turn_and_a_resume_makes_it_come_due_then(flow: Flow) -> None:
    first, later = flow.order(
        request("test.ordered", group="g"), request("test.ordered", group="g", run_at=datetime.now(UTC) + HOUR)
    )
    flow.rows("UPDATE jobs SET turn = run_at")
    turns = {job_id: flow.job(job_id).turn for job_id in (first, later)}
    _steer(flow, Action.PAUSE, first, later, queue="ordered")
    assert {job_id: flow.job(job_id).turn for job_id in (first, later)} == turns
    _steer(flow, Action.RESUME, first, later, queue="ordered")
    row = flow.job(first)
    assert row.turn == row.run_at == row.outbox_at > turns[first]
    row = flow.job(later)
    assert (row.turn, row.run_at, row.outbox_at) == (turns[later],) * 3


def test_a_resume_of_what_has_started_keeps_its_time_and_has_no_turn(flow: Flow) -> None:
    job_id = _fail_once(flow)
    flow.rows("UPDATE jobs SET turn = NULL")
    run_at = flow.job(job_id).run_at
    _steer(flow, Action.PAUSE, job_id)
    _steer(flow, Action.RESUME, job_id)
    assert (flow.job(job_id).run_at, flow.job(job_id).turn) == (run_at, None)


@pytest.mark.parametrize(
    ("action", "after"),
    [(Action.RETRY, State.WAITING), (Action.REMOVE, State.CANCELLED), (Action.PAUSE, State.PAUSED)],
)
def test_a_run_whose_lease_is_over_is_recorded_as_lost_and_its_worker_settles_no_more(
    flow: Flow, action: Action, after: State
) -> None:
    [job_id] = flow.order(request("test.each", hook="late"))
    answers: list[list[Steered]] = []

    def late() -> None:
        if not answers:
            flow.expire_leases()
            answers.append(_steer(flow, action, job_id))

    jobs.HOOKS["late"] = late
    flow.relay()
    flow.deliver(flow.receive())
    assert answers == [[Steered(job_id, State.ACTIVE, after)]]
    row = flow.job(job_id)
    assert (row.state, row.claim_token, row.lease_until) == (after, None, None)
    assert flow.attempts(job_id) == [(1, "lost", False)]
    assert flow.effects() == {}, "the late worker's writes were undone"
    [runs] = flow.rows("SELECT sum(runs) AS n FROM job_run_deltas WHERE outcome = 'lost' AND measure = 'duration'")
    assert runs.n == 1
    if action is Action.PAUSE:
        assert row.lost == 1
        _steer(flow, Action.RESUME, job_id)
    flow.work()  # the old message is dropped
    flow.relay()
    flow.work()
    assert flow.effects() == ({} if action is Action.REMOVE else {job_id: 1})


@pytest.mark.parametrize("payload", ['"text"', "5", "null", "[1]", '["url"]', "true"])
@pytest.mark.parametrize("action", Action)
def test_a_payload_that_is_no_object_keeps_nobody_from_acting(flow: Flow, action: Action, payload: str) -> None:
    odd, plain = flow.order(request("test.each"), request("test.each"))
    flow.rows("UPDATE jobs SET payload = CAST(:payload AS jsonb) WHERE id = :id", payload=payload, id=odd)
    if action is Action.RESUME:
        _steer(flow, Action.PAUSE, odd, plain)
    assert all(item.after for item in _steer(flow, action, odd, plain))


def _dead(flow: Flow, key: str | None = "k") -> UUID:
    [job_id] = flow.order(request("test.each", do="give_up", dedup_key=key))
    flow.relay()
    flow.work()
    assert flow.job(job_id).state == "dead"
    return job_id


def test_a_retried_dead_job_takes_its_key_again(flow: Flow) -> None:
    job_id = _dead(flow)
    _steer(flow, Action.RETRY, job_id)
    assert flow.order(request("test.each", dedup_key="k")) == [job_id]


def test_a_dead_job_whose_key_a_newer_one_holds_stays_dead_and_the_answer_says_so(flow: Flow) -> None:
    job_id, other = _dead(flow), _dead(flow, None)
    [newer] = flow.order(request("test.each", dedup_key="k", delay_seconds=60))
    assert _steer(flow, Action.RETRY, job_id, other) == [
        Steered(job_id, State.DEAD, None, key_taken=True),
        Steered(other, State.DEAD, State.WAITING),
    ]
    _steer(flow, Action.REMOVE, newer)
    assert _steer(flow, Action.RETRY, job_id) == [Steered(job_id, State.DEAD, State.WAITING)]


def test_a_dead_job_is_removed_whoever_holds_its_key(flow: Flow) -> None:
    job_id = _dead(flow)
    [newer] = flow.order(request("test.each", dedup_key="k", delay_seconds=60))
    assert _steer(flow, Action.REMOVE, job_id) == [Steered(job_id, State.DEAD, State.CANCELLED)]
    assert flow.order(request("test.each", dedup_key="k")) == [newer]


def test_a_removed_job_never_runs_and_its_key_is_free(flow: Flow) -> None:
    [job_id] = flow.order(request("test.each", dedup_key="report"))
    flow.relay()
    [message] = flow.receive()
    assert _steer(flow, Action.REMOVE, job_id) == [Steered(job_id, State.WAITING, State.CANCELLED)]
    assert flow.deliver([message]) == []
    assert flow.effects() == {}
    [again] = flow.order(request("test.each", dedup_key="report"))
    assert again != job_id


def test_a_removed_dead_job_is_not_revived_by_its_message(flow: Flow) -> None:
    [job_id] = flow.order(request("test.each", do="give_up"))
    flow.relay()
    flow.work()
    _steer(flow, Action.REMOVE, job_id)
    [body] = flow.queues.bodies("standard", dead_letter=True)
    flow.queues.send("standard", body)
    flow.work()
    assert (flow.job(job_id).state, flow.job(job_id).runs) == ("cancelled", 1)


@pytest.mark.parametrize("action", Action)
def test_a_running_job_is_left_alone_and_commits(flow: Flow, action: Action) -> None:
    [job_id] = flow.order(request("test.each", hook="steer"))
    answers: list[list[Steered]] = []
    jobs.HOOKS["steer"] = lambda: answers.append(_steer(flow, action, job_id))
    flow.relay()
    flow.work()
    assert answers == [[Steered(job_id, State.ACTIVE, None)]]
    assert flow.job(job_id).state == "completed"
    assert flow.effects() == {job_id: 1}


@pytest.mark.parametrize("action", Action)
def test_a_finished_job_stays_as_it_is(flow: Flow, action: Action) -> None:
    done, gone = flow.order(request("test.each"), request("test.each", delay_seconds=60))
    flow.relay()
    flow.work()
    _steer(flow, Action.REMOVE, gone)
    assert _steer(flow, action, done, gone) == [
        Steered(done, State.COMPLETED, None),
        Steered(gone, State.CANCELLED, None),
    ]


def test_a_long_job_is_paused_between_two_steps_and_goes_on_where_it_stood(flow: Flow) -> None:
    [job_id] = flow.order(request("test.each", do="step", steps=3))
    flow.relay()
    flow.work()
    assert flow.job(job_id).checkpoint == {"step": 1}
    _steer(flow, Action.PAUSE, job_id)
    assert flow.relay() == 0
    _steer(flow, Action.RESUME, job_id)
    while flow.relay():
        flow.work()
    assert flow.job(job_id).result == {"steps": 3}
    assert flow.job(job_id).runs == 3


def test_of_two_operators_at_once_one_wins_and_the_other_is_told(flow: Flow) -> None:
    ids = flow.order(*(request("test.each") for _ in range(50)))
    answers: dict[Action, list[Steered]] = {}
    barrier = threading.Barrier(2)

    def act(action: Action) -> None:
        barrier.wait()
        answers[action] = _steer(flow, action, *reversed(ids))

    threads = [threading.Thread(target=act, args=(action,)) for action in (Action.REMOVE, Action.PAUSE)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    removed, paused = answers[Action.REMOVE], answers[Action.PAUSE]
    assert all(item.after is State.CANCELLED for item in removed)
    # Whoever came second saw what the first had done.
    assert {(item.before, item.after) for item in paused} in (
        {(State.WAITING, State.PAUSED)},
        {(State.CANCELLED, None)},
    )
    assert flow.states() == {"cancelled": 50}


def test_jobs_of_another_queue_or_tenant_are_not_found(flow: Flow) -> None:
    own, other = uuid4(), uuid4()
    first, second = flow.order(request("test.each", tenant_id=own), request("test.each", tenant_id=other))
    assert _steer(flow, Action.PAUSE, first, second, uuid4(), tenant=own) == [
        Steered(first, State.WAITING, State.PAUSED, own)
    ]
    assert _steer(flow, Action.PAUSE, second, queue="ordered") == []
    assert flow.job(second).state == "waiting"


def test_every_state_has_its_answer(flow: Flow) -> None:
    """The table of what is possible agrees with the legal transitions, action by action."""
    reached = {
        Action.PAUSE: {State.PAUSED},
        Action.RESUME: {State.WAITING, State.DELAYED, State.BLOCKED},
        Action.RETRY: {State.WAITING},
        Action.REMOVE: {State.CANCELLED},
    }
    legal = {(row.from_state, row.to_state) for row in flow.rows("SELECT * FROM job_transitions")}
    moves = {(old, new) for action, states in FROM.items() for old in states for new in reached[action] if old != new}
    assert {(str(old), str(new)) for old, new in moves} <= legal


def _raise() -> None:
    raise RuntimeError("ordered to fail")
