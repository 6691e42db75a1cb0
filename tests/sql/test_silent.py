"""A job whose message is gone is sent again within an hour, however full its queue; a backlog never is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID, uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, text

from functions.pipeline import silent
from functions.pipeline.silent import FEW_PENDING, PASSED_AFTER_SECONDS, PASSED_SECONDS
from tests.harness import job
from tests.jobs import request
from tests.sql.conftest import Flow

MINUTE = 60
SLACK = 30
"""Seconds by which an age stays clear of a limit, since the clock goes on while a test runs."""
LOST = PASSED_AFTER_SECONDS + SLACK
EARLIER = LOST - PASSED_SECONDS - SLACK
"""What was sent so long ago was sent late enough to prove something of what is LOST."""

PUT = text("""
    INSERT INTO jobs (id, queue, type, state, tenant_id, group_key, payload, priority, correlation_id, run_at, sent_at,
                      started_at, claim_token, lease_until, runs, died_at, closed_at, resend_after)
    VALUES (uuid7(clock_timestamp()), :queue, 'test.each', :state, :tenant, :group, '{}', 0, 'c',
            now() - :due * interval '1 second', now() - :sent * interval '1 second',
            now() - :started * interval '1 second', CASE WHEN :state = 'active' THEN gen_random_uuid() END,
            now() - :lease * interval '1 second', CASE WHEN CAST(:started AS float8) IS NULL THEN 0 ELSE 1 END,
            CASE WHEN :state = 'dead' THEN now() END, CASE WHEN :state = 'completed' THEN now() END, :resend_after)
    RETURNING id
""")


@dataclass(frozen=True)
class Put:
    """A job as the flow leaves it; its instants are ages in seconds."""

    sent: float
    state: str = "waiting"
    tenant: UUID | None = None
    group: str | None = None
    started: float | None = None
    lease: float | None = None
    due: float = 2 * 3600
    resend_after: timedelta | None = None

    def insert(self, tx: Connection, queue: str) -> UUID:
        found: UUID = tx.execute(PUT, {**vars(self), "queue": queue}).scalar_one()
        return found


def put(flow: Flow, *jobs: Put, queue: str = "standard") -> list[UUID]:
    with flow.observer.begin() as tx:
        return [item.insert(tx, queue) for item in jobs]


def passed(flow: Flow, queue: str = "standard") -> set[UUID]:
    with flow.observer.begin() as tx:
        found = silent.passed(tx, queue, fifo=queue == "ordered", most=5000)
    return {row.id for row in found}


def done(sent: float, **options: object) -> Put:
    return Put(sent, "completed", started=sent - 1, **options)  # type: ignore[arg-type]


T, U = uuid4(), uuid4()


@pytest.mark.parametrize("queue", ["standard", "ordered"])
def test_a_lost_job_is_sent_again_beside_a_queue_that_is_never_empty_and_runs_once(flow: Flow, queue: str) -> None:
    name = "test.each" if queue == "standard" else "test.ordered"
    [lost] = flow.order(request(name, tenant_id=T, group="lost", group_key="lost"))
    flow.relay()
    flow.queues.receive(queue, visibility=0)
    for message in flow.receive(queue):
        flow.queues.send(queue, "taken", **_fifo(queue))
        _delete(flow, queue, message)
    flow.rows("UPDATE jobs SET sent_at = now() - :s * interval '1 second', run_at = run_at - interval '1 day'", s=LOST)
    [other] = flow.order(request(name, tenant_id=T, group="other", group_key="other"))
    flow.relay()
    flow.rows("UPDATE jobs SET run_at = now() - interval '1 day' WHERE id = :id", id=lost)
    messages = [item for item in flow.receive(queue) if str(other) in item["Body"]]
    flow.deliver(messages, queue)
    assert flow.job(other).state == "completed"
    assert flow.sweep()["resent"] == 1
    assert flow.sweep()["resent"] == 0
    assert flow.job(lost).delivery == 2
    flow.deliver([item for item in flow.receive(queue) if str(lost) in item["Body"]], queue)
    assert flow.effects() == {lost: 1, other: 1}


def _fifo(queue: str) -> dict[str, str]:
    return {"MessageGroupId": "noise", "MessageDeduplicationId": str(uuid4())} if queue == "ordered" else {}


def _delete(flow: Flow, queue: str, message: dict[str, str]) -> None:
    from functions.aws import sqs

    sqs.delete(flow.queues.url(queue), [message["ReceiptHandle"]])


def test_a_run_whose_worker_vanished_is_lost_too_and_is_recorded(flow: Flow) -> None:
    [lost] = put(flow, Put(2 * LOST, "active", T, started=2 * LOST, lease=LOST))
    put(flow, done(EARLIER, tenant=T), Put(MINUTE, tenant=T))
    flow.queues.send("standard", "noise")
    assert flow.sweep()["resent"] == 1
    row = flow.job(lost)
    assert (row.state, row.lost, row.claim_token, row.lease_until, row.delivery) == ("retrying", 1, None, None, 2)
    assert flow.attempts(lost) == [(1, "lost", False)]


@pytest.mark.parametrize(
    "job_",
    [
        Put(PASSED_AFTER_SECONDS - SLACK, tenant=T),
        Put(LOST, "active", T, started=LOST, lease=-MINUTE),
        Put(2 * LOST, "active", T, started=LOST, lease=PASSED_AFTER_SECONDS - SLACK),
        Put(2 * LOST, "retrying", T, due=-MINUTE),
        Put(2 * LOST, "retrying", T, due=PASSED_AFTER_SECONDS - SLACK),
        Put(LOST, tenant=T, resend_after=timedelta(hours=1)),
        Put(LOST, "dead", T),
        Put(LOST, "paused", T),
        Put(LOST, "completed", T),
    ],
    ids=[
        "sent lately",
        "running",
        "lease over lately",
        "not due",
        "due lately",
        "sent again",
        "dead",
        "paused",
        "done",
    ],
)
def test_what_was_heard_of_lately_or_waits_for_nothing_is_left_alone(flow: Flow, job_: Put) -> None:
    put(flow, job_, done(MINUTE, tenant=T), done(MINUTE, tenant=U))
    assert passed(flow) == set()


@pytest.mark.parametrize("queue", ["standard", "ordered"])
def test_where_nothing_has_started_that_was_sent_later_nothing_is_lost(flow: Flow, queue: str) -> None:
    put(flow, *(Put(3600 * hours, tenant=tenant) for hours in range(1, 30) for tenant in (T, U, None)), queue=queue)
    put(flow, done(3600 * 30), Put(MINUTE, started=1e6), Put(MINUTE, "retrying", T, started=3600 * 30), queue=queue)
    assert passed(flow, queue) == set()


def test_a_noisy_tenants_backlog_is_passed_by_its_own_jobs_alone(flow: Flow) -> None:
    noisy = put(flow, *(Put(LOST + 60 * n, tenant=T) for n in range(FEW_PENDING + 1)))
    [quiet] = put(flow, Put(LOST, tenant=U))
    put(flow, done(MINUTE, tenant=uuid4()))
    assert passed(flow) == {quiet}
    put(flow, done(EARLIER, tenant=T))
    found = passed(flow)
    assert quiet in found
    assert found - {quiet} <= set(noisy)
    assert len(found) > silent.OLDEST_ROWS - 2


def test_in_a_fifo_group_that_moves_nobody_is_lost_and_in_one_that_stands_still_its_first_is(flow: Flow) -> None:
    put(flow, done(MINUTE, group="other"), queue="ordered")
    moving = put(flow, Put(2 * LOST, "completed", group="g", started=MINUTE), queue="ordered")
    put(flow, *(Put(2 * LOST - n, group="g") for n in range(1, 6)), queue="ordered")
    assert passed(flow, "ordered") == set()
    flow.rows("UPDATE jobs SET started_at = sent_at WHERE id = :id", id=moving[0])
    [first, *_] = [row.id for row in flow.rows("SELECT id FROM jobs WHERE state = 'waiting' ORDER BY sent_at")]
    assert passed(flow, "ordered") == {first}


def test_in_a_fifo_group_that_went_on_all_who_were_left_behind_are_lost(flow: Flow) -> None:
    left = put(flow, *(Put(LOST + n, group="g") for n in range(5)), queue="ordered")
    put(flow, done(MINUTE, group="g"), queue="ordered")
    assert passed(flow, "ordered") == set(left)


def test_a_paused_queue_gets_past_nobody(flow: Flow) -> None:
    put(flow, Put(LOST, tenant=T), done(MINUTE, tenant=T))
    flow.queues.send("standard", "noise")
    flow.rows("UPDATE queues SET paused_at = now() WHERE name = 'standard'")
    assert flow.sweep()["resent"] == 0
    flow.rows("UPDATE queues SET paused_at = NULL")
    assert flow.sweep()["resent"] == 1


def test_after_an_outage_what_was_handed_back_for_an_hour_is_not_taken_for_lost(flow: Flow) -> None:
    flow.queues.send("standard", "noise")
    flow.sweep()
    put(flow, Put(3 * 3600, tenant=T), done(MINUTE, tenant=T))
    flow.rows("UPDATE heartbeats SET at = now() - interval '2 hours' WHERE name = 'sweep'")
    assert [flow.sweep()["resent"] for _ in range(2)] == [0, 0]
    since = "jsonb_build_object('steady_since', now() - interval '61 minutes')"
    flow.rows(f"UPDATE heartbeats SET report = report || {since} WHERE name = 'sweep'")
    assert flow.sweep()["resent"] == 1


AGES = [MINUTE, EARLIER, LOST, LOST + 20 * MINUTE, 6 * 3600]
RANDOM = st.builds(
    Put,
    sent=st.sampled_from(AGES),
    state=st.sampled_from(["waiting", "retrying", "completed", "dead", "paused"]),
    tenant=st.sampled_from([None, T, U]),
    started=st.sampled_from([None, 1, 12 * 3600]),
    due=st.sampled_from([*AGES, -MINUTE]),
)


def _lost(jobs: Sequence[Put]) -> set[int]:
    """The rule, said slowly: fewer are pending than count as many, so the whole queue is evidence."""
    started = [item.sent for item in jobs if item.started is not None and item.started <= item.sent]
    return {
        place
        for place, item in enumerate(jobs)
        if item.state in {"waiting", "retrying"}
        and min(item.sent, item.due) > PASSED_AFTER_SECONDS
        and any(min(item.sent, item.due) - sent >= PASSED_SECONDS for sent in started)
    }


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(jobs=st.lists(RANDOM, max_size=12))
def test_any_mix_of_jobs_is_judged_by_the_rule(flow: Flow, jobs: list[Put]) -> None:
    with flow.observer.begin() as tx:
        ids = [item.insert(tx, "standard") for item in jobs]
        found = {row.id for row in silent.passed(tx, "standard", fifo=False, most=5000)}
        assert found == {ids[place] for place in _lost(jobs)}
        assert all(job(tx, job_id).delivery == 1 for job_id in found)
        tx.rollback()
