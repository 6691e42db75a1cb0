"""The sweep: keys that expire, silent jobs that are sent again and backlogs that are not."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from functions.aws import sqs
from functions.core.errors import DuecourseError
from functions.pipeline import sweep, worker
from functions.pipeline.sweep import FIRST_RESEND_SECONDS, MESSAGE_RETENTION, RESEND_BEFORE_EXPIRY
from tests import jobs
from tests.jobs import request
from tests.sql.conftest import Flow

NOW = datetime.now(UTC)
LONG = FIRST_RESEND_SECONDS + 1


def resent(flow: Flow) -> int:
    return int(flow.sweep()["resent"])


def lose(flow: Flow) -> None:
    """Take every message out of the queue, as if SQS had lost it."""
    messages = flow.receive()
    assert messages
    lose_receipts(flow, messages)


def lose_receipts(flow: Flow, messages: list[dict[str, Any]]) -> None:
    sqs.delete(flow.queues.url("standard"), [message["ReceiptHandle"] for message in messages])


def age(flow: Flow, seconds: float) -> None:
    """As if everything had been sent so long ago."""
    flow.rows("UPDATE jobs SET sent_at = now() - :s * interval '1 second' WHERE sent_at IS NOT NULL", s=seconds)


def lost_job(flow: Flow, **order: object) -> UUID:
    """A job whose message is gone, long enough ago to be noticed."""
    [job_id] = flow.order(request("test.each", **order))
    flow.relay()
    lose(flow)
    age(flow, LONG)
    return job_id


def test_a_job_whose_message_is_gone_is_sent_again_after_two_idle_sweeps_and_runs_once(flow: Flow) -> None:
    job_id = lost_job(flow)
    assert [resent(flow), resent(flow), resent(flow)] == [0, 1, 0]
    row = flow.job(job_id)
    assert (row.state, row.delivery, row.attempts, row.runs) == ("waiting", 2, 0, 0)
    flow.work()
    assert flow.effects() == {job_id: 1}


def test_a_lost_message_that_turns_up_after_all_is_acknowledged_unread(flow: Flow) -> None:
    [job_id] = flow.order(request("test.each"))
    flow.relay()
    messages = flow.receive()
    lose_receipts(flow, messages)
    age(flow, LONG)
    flow.sweep()
    flow.sweep()
    assert flow.deliver(messages) == []
    assert flow.job(job_id).runs == 0
    flow.work()
    assert flow.effects() == {job_id: 1}


def test_nothing_is_sent_again_while_the_queue_holds_any_message(flow: Flow) -> None:
    lost_job(flow)
    flow.order(request("test.each"))
    flow.relay()
    assert [resent(flow) for _ in range(3)] == [0, 0, 0], "a message was visible"
    messages = flow.receive(visibility=30)
    assert len(messages) == 1
    assert [resent(flow) for _ in range(3)] == [0, 0, 0], "a message was in flight"
    flow.deliver(messages)
    assert [resent(flow) for _ in range(3)] == [0, 1, 0]


def test_the_two_idle_sweeps_must_follow_one_another(flow: Flow) -> None:
    lost_job(flow)
    assert resent(flow) == 0
    flow.queues.send("standard", "noise")
    assert resent(flow) == 0
    lose(flow)
    assert [resent(flow), resent(flow)] == [0, 1]


def test_a_message_just_sent_is_given_time(flow: Flow) -> None:
    lost_job(flow)
    age(flow, FIRST_RESEND_SECONDS - 30)
    assert [resent(flow) for _ in range(3)] == [0, 0, 0]


def test_the_interval_doubles_with_each_time_a_job_is_sent_again(flow: Flow) -> None:
    lost_job(flow)
    flow.sweep()
    for doublings in range(4):
        wait = FIRST_RESEND_SECONDS * 2**doublings
        age(flow, wait - 30)
        assert [resent(flow), resent(flow)] == [0, 0]
        age(flow, wait + 1)
        assert resent(flow) == 1
        lose(flow)
        flow.sweep()


def test_near_the_end_of_retention_a_job_is_sent_again_even_into_a_full_queue(flow: Flow) -> None:
    old = lost_job(flow)
    age(flow, (MESSAGE_RETENTION - RESEND_BEFORE_EXPIRY).total_seconds() + 60)
    [young] = flow.order(request("test.each"))
    flow.relay()
    assert resent(flow) == 1
    assert (flow.job(old).delivery, flow.job(young).delivery) == (2, 1)


def test_a_run_whose_worker_vanished_with_its_message_is_lost_and_runs_again_at_no_cost(flow: Flow) -> None:
    [job_id] = flow.order(request("test.each", hook="vanish"))
    flow.relay()
    messages = flow.receive()

    class Vanished(BaseException):
        pass

    def vanish() -> None:
        raise Vanished

    jobs.HOOKS["vanish"] = vanish
    with pytest.raises(Vanished):
        flow.deliver(messages)
    lose_receipts(flow, messages)
    age(flow, LONG)
    assert [resent(flow) for _ in range(3)] == [0, 0, 0], "its lease still ran"
    flow.expire_leases()
    assert resent(flow) == 1
    row = flow.job(job_id)
    assert (row.state, row.attempts, row.lost, row.claim_token) == ("retrying", 0, 1, None)
    assert flow.attempts(job_id) == [(1, "lost", False)]
    jobs.HOOKS["vanish"] = lambda: None
    flow.work()
    assert flow.effects() == {job_id: 1}


@pytest.mark.parametrize("at_work", [True, False], ids=["in its first run", "after it"])
def test_what_a_relay_sent_and_did_not_mark_is_missed_like_any_other(
    flow: Flow, monkeypatch: pytest.MonkeyPatch, at_work: bool
) -> None:
    [job_id] = flow.order(request("test.each", do="retry", delay=600))
    flow.relay_and_die_unmarked(monkeypatch)
    messages = flow.receive()
    if at_work:
        with monkeypatch.context() as broken:
            broken.setattr(worker, "settle", None)
            with pytest.raises(TypeError):
                flow.deliver(messages)
        flow.expire_leases()
    else:
        flow.deliver(messages)
    lose_receipts(flow, messages)
    flow.make_due()
    age(flow, LONG)
    assert [resent(flow), resent(flow)] == [0, 1]
    assert flow.work() == 1
    assert flow.job(job_id).runs == 2


def test_a_job_that_is_neither_sent_nor_to_be_sent_cannot_be_written(flow: Flow) -> None:
    flow.order(request("test.each"))
    with pytest.raises(DBAPIError, match="jobs_reach_their_queue"):
        flow.rows("UPDATE jobs SET outbox_at = NULL")


@pytest.mark.parametrize(
    ("options", "state"),
    [({"do": "give_up"}, "dead"), ({"do": "snooze", "until": NOW + timedelta(days=1)}, "delayed"), ({}, "completed")],
    ids=["dead", "delayed", "completed"],
)
def test_a_job_that_waits_for_nothing_from_sqs_is_left_alone(flow: Flow, options: dict[str, Any], state: str) -> None:
    [job_id] = flow.order(request("test.each", **options))
    flow.relay()
    flow.work()
    assert flow.job(job_id).state == state
    age(flow, 10 * LONG)
    assert [resent(flow) for _ in range(3)] == [0, 0, 0]


def test_a_retry_that_has_not_come_due_is_left_alone(flow: Flow) -> None:
    [job_id] = flow.order(request("test.each", do="retry", delay=600))
    flow.relay()
    messages = flow.receive()
    flow.deliver(messages)
    lose_receipts(flow, messages)
    age(flow, LONG)
    assert [resent(flow), resent(flow)] == [0, 0]
    flow.make_due()
    assert resent(flow) == 1
    assert flow.job(job_id).delivery == 2


def test_one_queues_silence_is_not_anothers(flow: Flow) -> None:
    lost_job(flow)
    [ordered] = flow.order(request("test.ordered", group="g"))
    flow.relay()
    age(flow, LONG)
    assert [resent(flow), resent(flow)] == [0, 1]
    assert flow.job(ordered).delivery == 1


def test_expired_keys_go_and_others_stay(flow: Flow) -> None:
    for key, window in {"ended": 1, "lasting": 3600, "open": None}.items():
        flow.order(request("test.each", dedup_key=key, dedup_window_seconds=window))
    flow.rows("UPDATE job_keys SET expires_at = now() - interval '1 second' WHERE key LIKE '%ended'")
    assert flow.sweep()["keys_expired"] == 1
    assert sorted(row.key.rsplit("/", 1)[1] for row in flow.rows("SELECT key FROM job_keys")) == ["lasting", "open"]


def test_what_fell_due_is_sent_by_the_sweep_too(flow: Flow) -> None:
    flow.order(request("test.each"))
    assert flow.sweep()["relayed"] == 1
    assert len(flow.receive()) == 1


def test_a_task_that_fails_does_not_stop_the_others_and_is_named(flow: Flow, monkeypatch: pytest.MonkeyPatch) -> None:
    flow.order(request("test.each", dedup_key="k", dedup_window_seconds=1))
    flow.rows("UPDATE job_keys SET expires_at = now() - interval '1 second'")
    monkeypatch.setattr(sweep, "FOLD", text("SELECT 1 / 0"))
    with pytest.raises(DuecourseError, match=r"the sweep could not finish: folded: .*division by zero"):
        flow.sweep()
    assert flow.rows("SELECT key FROM job_keys") == []
    assert len(flow.receive()) == 1
