"""Rules 1 and 2: what is committed is sent, nothing else; and a message may come twice without harm."""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import uuid4

import pytest
from sqlalchemy import Engine

from functions.pipeline import relay
from tests import harness, jobs
from tests.jobs import request
from tests.sql.conftest import Flow


def test_what_is_rolled_back_is_never_sent(flow: Flow, observer: Engine) -> None:
    with observer.connect() as tx, tx.begin() as transaction:
        harness.order(tx, request("test.each"), catalog=jobs.CATALOG)
        transaction.rollback()
    assert flow.relay() == 0
    assert flow.receive() == []


def test_nothing_is_sent_before_the_commit(flow: Flow, observer: Engine) -> None:
    with observer.begin() as tx:
        harness.order(tx, request("test.each"), catalog=jobs.CATALOG)
        assert flow.relay() == 0
    assert flow.relay() == 1


def test_a_relay_that_dies_between_send_and_mark_sends_again_and_the_job_runs_once(
    flow: Flow, monkeypatch: pytest.MonkeyPatch
) -> None:
    [job_id] = flow.order(request("test.each"))
    flow.relay_and_die_unmarked(monkeypatch)
    assert flow.relay() == 1
    first, second = flow.receive()
    assert flow.deliver([first]) == []
    assert flow.deliver([second]) == []
    assert flow.effects() == {job_id: 1}


def test_two_copies_in_one_batch_run_once(flow: Flow) -> None:
    [job_id] = flow.order(request("test.each"))
    flow.relay()
    [message] = flow.receive()
    copy = {**message, "MessageId": str(uuid4())}
    assert flow.deliver([message, copy]) == [copy["MessageId"]]
    assert flow.deliver([copy]) == []
    assert flow.effects() == {job_id: 1}


def test_a_copy_that_arrives_while_the_job_runs_is_handed_back_not_run(flow: Flow) -> None:
    [job_id] = flow.order(request("test.each", hook="deliver_copy"))
    flow.relay()
    [message] = flow.receive()
    copy = {**message, "MessageId": str(uuid4())}
    handed_back: list[str] = []
    # Delivered by another worker, in the middle of the first one's run.
    jobs.HOOKS["deliver_copy"] = lambda: handed_back.extend(_in_another_process(flow, copy))
    assert flow.deliver([message]) == []
    assert handed_back == [copy["MessageId"]]
    assert flow.deliver([copy]) == []
    assert flow.effects() == {job_id: 1}


def test_a_message_of_an_earlier_delivery_is_acknowledged_unread(flow: Flow) -> None:
    [job_id] = flow.order(request("test.each", do="snooze", until=datetime(2030, 1, 1, tzinfo=UTC)))
    flow.relay()
    [message] = flow.receive()
    flow.deliver([message])
    assert flow.job(job_id).delivery == 2
    assert flow.deliver([message]) == []
    assert flow.job(job_id).runs == 1


def test_a_message_whose_job_is_gone_is_acknowledged(flow: Flow) -> None:
    body = {"v": 1, "id": str(uuid4()), "delivery": 1, "type": "test.each"}
    flow.queues.send("standard", body)
    assert flow.deliver(flow.receive()) == []


def test_relays_at_work_at_once_send_each_job_once(flow: Flow, observer: Engine) -> None:
    flow.order(*[request("test.each") for _ in range(30)])
    with observer.begin() as tx:
        # Another relay holds ten rows; this one takes the others and does not wait.
        tx.exec_driver_sql("SELECT id FROM jobs ORDER BY id LIMIT 10 FOR UPDATE")
        assert flow.relay() == 20
    assert flow.relay() == 10
    assert len(flow.receive()) == 30


def test_a_queue_that_refuses_does_not_hold_up_the_others(flow: Flow) -> None:
    from functions.aws.clients import client

    [ordered] = flow.order(request("test.ordered"))
    [standard] = flow.order(request("test.each"))
    client("sqs").delete_queue(QueueUrl=flow.queues.url("ordered"))
    drained = relay.drain(catalog=jobs.CATALOG)
    assert (drained.sent, list(drained.failing)) == (1, ["ordered"])
    assert flow.job(standard).sent_at is not None
    assert flow.job(ordered).outbox_at is not None
    client("sqs").create_queue(QueueName=flow.queues.url("ordered").rsplit("/", 1)[1], Attributes={"FifoQueue": "true"})


def test_an_external_message_becomes_a_job_once(flow: Flow) -> None:
    body = {"v": 1, "type": "test.each", "external": True, "payload": {}, "dedup_key": "invoice-17"}
    flow.queues.send("standard", body)
    flow.queues.send("standard", body)
    assert flow.work() > 0
    assert list(flow.effects().values()) == [1]
    assert flow.states() == {"completed": 1}


def test_an_external_message_with_a_wrong_payload_is_dead_with_its_reason(flow: Flow) -> None:
    body = {"v": 1, "type": "test.each", "external": True, "payload": {"steps": "many"}, "dedup_key": "k"}
    flow.queues.send("standard", body)
    flow.work()
    [row] = flow.rows("SELECT state, error FROM jobs")
    assert row.state == "dead"
    assert row.error.startswith("the payload of test.each is invalid: steps: Input should be a valid integer")
    assert len(flow.queues.bodies("standard", dead_letter=True)) == 1


def _in_another_process(flow: Flow, message: dict[str, object]) -> list[str]:
    """The other worker has its own connection, as another process would."""
    from concurrent.futures import ThreadPoolExecutor

    from functions.db import engine as db

    own, held = db.engine.__wrapped__(), db.engine
    try:
        db.engine = lambda: own  # type: ignore[assignment]
        with ThreadPoolExecutor(1) as thread:
            return thread.submit(flow.deliver, [message]).result()
    finally:
        db.engine = held
        own.dispose()
