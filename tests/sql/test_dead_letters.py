"""Rules 7 and 11: who decides that a job is dead, how its message gets to the DLQ and back, and what poison does."""

from __future__ import annotations

import json
from uuid import UUID

import pytest

from functions.aws import sqs
from functions.core.job import ENVELOPE_VERSION
from functions.pipeline import redrive
from functions.pipeline.triage import LATE_COPY_SECONDS
from tests import jobs
from tests.jobs import request
from tests.sql.conftest import Flow


def _kill_for_good(flow: Flow, *requests: object, queue: str = "standard") -> list[UUID]:
    ids = flow.order(*requests)  # type: ignore[arg-type]
    flow.relay()
    flow.work(queue)
    return ids


def _move_back(flow: Flow, queue: str = "standard", *, seconds: float = LATE_COPY_SECONDS + 1) -> int:
    """What the console's redrive does, so long after the deaths: each message leaves the DLQ and is sent to its source
    anew.
    """
    flow.rows("UPDATE jobs SET died_at = now() - :seconds * interval '1 second' WHERE state = 'dead'", seconds=seconds)
    url, moved = flow.queues.url(queue, dead_letter=True), 0
    while messages := sqs.receive(url, visibility_seconds=30):
        for message in messages:
            extra = {"MessageGroupId": "g", "MessageDeduplicationId": message["MessageId"]} if "ordered" in url else {}
            flow.queues.send(queue, message["Body"], **extra)
            moved += 1
        sqs.delete(url, [message["ReceiptHandle"] for message in messages])
    return moved


def test_a_dead_jobs_message_ends_in_the_dlq_by_sqs_itself(flow: Flow) -> None:
    [job_id] = _kill_for_good(flow, request("test.each", do="give_up"))
    assert flow.job(job_id).state == "dead"
    [body] = flow.queues.bodies("standard", dead_letter=True)
    assert json.loads(body)["id"] == str(job_id)
    assert flow.queues.depth("standard").empty


def test_a_message_moved_back_by_sqs_revives_its_job_with_fresh_attempts(flow: Flow) -> None:
    [job_id] = flow.order(request("test.each", hook="fail_once"))
    failures = iter([True, True, True])
    jobs.HOOKS["fail_once"] = lambda: _raise() if next(failures, False) else None
    flow.relay()
    [message] = flow.receive()
    for _ in range(3):
        flow.deliver([message])
        flow.make_due()
    assert flow.job(job_id).attempts == 3
    sqs.change_visibility(flow.queues.url("standard"), {message["ReceiptHandle"]: 0})
    flow.work()
    assert _move_back(flow) == 1
    flow.work()
    row = flow.job(job_id)
    assert (row.state, row.attempts, row.runs, row.delivery) == ("completed", 0, 4, 1)
    assert flow.effects() == {job_id: 1}


def test_a_message_moved_back_leaves_its_job_dead_where_a_newer_one_holds_its_key(flow: Flow) -> None:
    [dead] = _kill_for_good(flow, request("test.each", do="give_up", dedup_key="k"))
    [newer] = flow.order(request("test.each", dedup_key="k"))
    assert newer != dead
    assert _move_back(flow) == 1
    flow.work()
    assert flow.job(dead).state == "dead"
    assert flow.queues.depth("standard").empty
    flow.relay()
    flow.work()
    assert flow.job(newer).state == "completed"


def test_a_message_moved_back_takes_its_key_again_where_it_is_free(flow: Flow) -> None:
    failing = [True]
    jobs.HOOKS["fail_once"] = lambda: _raise() if failing else None
    ids = flow.order(*[request("test.each", hook="fail_once", dedup_key=f"k{n}") for n in range(2)])
    flow.relay()
    messages = flow.receive()
    for _ in range(3):
        flow.deliver(messages)
        flow.make_due()
    sqs.change_visibility(flow.queues.url("standard"), {item["ReceiptHandle"]: 0 for item in messages})
    flow.work()
    assert {flow.job(job_id).state for job_id in ids} == {"dead"}
    assert _move_back(flow) == 2
    failing.clear()
    messages = flow.receive()
    jobs.HOOKS["fail_once"] = lambda: flow.order(request("test.each", dedup_key="k0"))
    flow.deliver(messages)
    assert flow.states() == {"completed": 2}, "while they ran, an order of the same key created nothing"


def test_the_dlq_copy_of_a_finished_job_moved_back_is_dropped(flow: Flow) -> None:
    [job_id] = flow.order(request("test.each", hook="fail_once"))
    failing = [True]
    jobs.HOOKS["fail_once"] = lambda: _raise() if failing else None
    flow.relay()
    [message] = flow.receive()
    for _ in range(3):
        flow.deliver([message])
        flow.make_due()
    sqs.change_visibility(flow.queues.url("standard"), {message["ReceiptHandle"]: 0})
    flow.work()
    failing.clear()
    _redrive(flow, job_id)
    flow.work()
    assert flow.job(job_id).state == "completed"
    assert _move_back(flow) == 1
    flow.work()
    assert flow.effects() == {job_id: 1}
    assert flow.queues.depth("standard").empty
    assert flow.queues.depth("standard", dead_letter=True).empty


def test_a_late_copy_of_a_dead_jobs_message_does_not_revive_it(flow: Flow) -> None:
    [job_id] = flow.order(request("test.each", do="give_up"))
    flow.relay()
    [message] = flow.receive()
    flow.deliver([message])
    # Sent by a relay before the job died, delivered after.
    copy = {**message, "MessageId": "another"}
    assert flow.deliver([copy]) == []
    assert flow.job(job_id).runs == 1


@pytest.mark.parametrize("queue", ["standard", "ordered"])
def test_a_copy_that_sqs_takes_soon_after_the_death_is_dead_lettered(flow: Flow, queue: str) -> None:
    job_type = "test.each" if queue == "standard" else "test.ordered"
    [job_id] = _kill_for_good(flow, request(job_type, do="give_up"), queue=queue)
    assert _move_back(flow, queue, seconds=LATE_COPY_SECONDS - 15) == 1
    flow.work(queue)
    assert (flow.job(job_id).state, flow.job(job_id).runs) == ("dead", 1)
    assert flow.queues.depth(queue).empty
    # Nothing is lost where it was an operator in a hurry: he does it again.
    assert _move_back(flow, queue) == 1
    flow.work(queue)
    assert (flow.job(job_id).state, flow.job(job_id).runs) == ("dead", 2)


def test_our_redrive_sends_a_new_delivery_and_drains_only_the_stale_copies(flow: Flow) -> None:
    first, second = _kill_for_good(flow, request("test.each", do="give_up"), request("test.each", do="give_up"))
    flow.queues.send("standard", "poison")
    flow.work()
    assert flow.queues.depth("standard", dead_letter=True).visible == 3
    assert _redrive(flow, first) == [first]
    assert redrive.drain_stale("standard", catalog=jobs.CATALOG) == 1
    assert (flow.job(first).delivery, flow.job(first).attempts, flow.job(first).state) == (2, 0, "waiting")
    assert flow.job(second).state == "dead"
    assert flow.queues.depth("standard", dead_letter=True).in_flight == 2  # the other dead job's, and the poison


def test_redriving_what_is_not_dead_changes_nothing(flow: Flow) -> None:
    [job_id] = flow.order(request("test.each"))
    assert _redrive(flow, job_id) == []
    assert flow.job(job_id).state == "waiting"


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("not json", "the body is no JSON"),
        ('["a"]', "the body is a JSON array"),
        ('{"v": 1, "type": "nobody.knows", "id": "01a20cce-372d-7483-bccd-27ef0cae7d3f"}', "unknown job type"),
        ('{"v": 1, "type": "test.each"}', "needs the id of its job"),
        (
            '{"v": 1, "type": "test.ordered", "id": "01a20cce-372d-7483-bccd-27ef0cae7d3f"}',
            "travels on queue 'ordered'",
        ),
    ],
)
def test_poison_goes_to_the_dlq_with_its_reason_and_harms_no_neighbour(flow: Flow, body: str, reason: str) -> None:
    flow.queues.send("standard", body)
    [job_id] = flow.order(request("test.each"))
    flow.relay()
    flow.work()
    [row] = flow.rows("SELECT * FROM rejected_messages")
    assert reason in row.reason
    assert row.receives == jobs.CATALOG.max_receive_count("standard")
    assert flow.queues.bodies("standard", dead_letter=True) == [body]
    assert flow.effects() == {job_id: 1}


def test_poison_delivered_twice_in_one_batch_is_one_row_and_harms_no_neighbour(flow: Flow) -> None:
    [neighbour] = flow.order(request("test.each"))
    flow.relay()
    flow.queues.send("standard", "noise")
    messages = flow.receive()
    [poison] = [message for message in messages if message["Body"] == "noise"]
    flow.deliver([*messages, poison])
    assert len(flow.rows("SELECT * FROM rejected_messages")) == 1
    assert flow.effects() == {neighbour: 1}


def test_poison_releases_its_fifo_group(flow: Flow) -> None:
    flow.queues.send("ordered", "poison", MessageGroupId="a", MessageDeduplicationId="p")
    [job_id] = flow.order(request("test.ordered", group="a"))
    flow.relay()
    flow.work("ordered")
    assert flow.effects() == {job_id: 1}
    assert flow.queues.bodies("ordered", dead_letter=True) == ["poison"]


def test_a_dead_job_releases_its_fifo_group(flow: Flow) -> None:
    dead, alive = flow.order(request("test.ordered", group="a", do="give_up"), request("test.ordered", group="a"))
    flow.relay()
    flow.work("ordered")
    assert flow.job(dead).state == "dead"
    assert flow.effects() == {alive: 1}


def test_a_fifo_message_moved_back_revives_its_job(flow: Flow) -> None:
    [job_id] = flow.order(request("test.ordered", group="g", do="give_up"))
    flow.relay()
    flow.work("ordered")
    assert _move_back(flow, "ordered") == 1
    flow.work("ordered")
    assert flow.job(job_id).runs == 2


def test_an_envelope_of_a_later_release_is_handed_back_for_five_minutes(flow: Flow) -> None:
    body = {"v": ENVELOPE_VERSION + 1, "id": "01a20cce-372d-7483-bccd-27ef0cae7d3f", "delivery": 1, "type": "test.each"}
    flow.queues.send("standard", body)
    [message] = flow.receive()
    assert flow.deliver([message]) == [message["MessageId"]]
    assert flow.rows("SELECT * FROM rejected_messages") == []
    assert flow.queues.depth("standard").in_flight == 1


def _redrive(flow: Flow, *ids: UUID) -> list[UUID]:
    with flow.observer.begin() as tx:
        revived = redrive.redrive(tx, ids).revived
    flow.relay()
    return revived


def _raise() -> None:
    raise RuntimeError("ordered to fail")
