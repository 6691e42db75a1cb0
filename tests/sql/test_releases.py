"""Releases: the row's queue decides who takes a job, and a type that only another release knows waits for that one."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any
from uuid import UUID, uuid4

import pytest

from duecourse.local.delivery import Context
from functions.core.catalog import Catalog
from functions.db.migrate import sync_catalog
from functions.pipeline.perform import UNKNOWN_TYPE_DIES_AFTER_SECONDS, UNKNOWN_TYPE_SECONDS
from tests import harness, jobs
from tests.jobs import request
from tests.sql.conftest import Flow


def catalog(*, without: str = "", moved: str = "", to: str = "") -> Catalog:
    """The tests' catalogue as another release has it."""
    rows = [row for row in jobs.CATALOG.job_types.values() if row.name != without]
    group = ("group",) if to == "ordered" else ()
    rows = [replace(row, queue=to, group=group) if row.name == moved else row for row in rows]
    return Catalog(tuple(jobs.CATALOG.queues.values()), tuple(rows), ())


def deliver(flow: Flow, messages: list[dict[str, Any]], release: Catalog, queue: str = "standard") -> list[str]:
    return harness.deliver(flow.queues, queue, messages, catalog=release, context=Context())


@pytest.mark.parametrize("now_on", ["ordered", "standard"])
def test_a_type_that_moved_does_not_strand_what_was_sent_before(flow: Flow, now_on: str) -> None:
    """Sent by the old release to the old queue, taken there by the new one, whose catalogue says another."""
    moved, was_on = ("test.each", "standard") if now_on == "ordered" else ("test.ordered", "ordered")
    ids = flow.order(*[request(moved, group="g") for _ in range(3)], request(moved, do="retry", delay=5, group="g"))
    flow.relay()
    release = catalog(moved=moved, to=now_on)
    with flow.observer.begin() as tx:
        sync_catalog(tx, release)
    deliver(flow, flow.receive(was_on), release, was_on)
    assert flow.effects() == dict.fromkeys(ids[:3], 1)
    assert flow.job(ids[3]).state == "retrying"
    flow.make_due()
    flow.relay()
    flow.queues.depth(was_on)
    [new] = flow.order(request(moved, group="g"))
    assert flow.job(new).queue == now_on


def test_a_type_that_this_release_does_not_know_is_handed_back_for_minutes(flow: Flow) -> None:
    tomorrow, today = flow.order(request("test.set"), request("test.each"))
    flow.relay()
    messages = flow.receive()
    old = catalog(without="test.set")
    for _ in range(5):
        assert len(deliver(flow, messages, old)) == 1
        messages = [item for item in messages if json.loads(item["Body"])["id"] == str(tomorrow)]
    row = flow.job(tomorrow)
    assert (row.state, row.attempts) == ("waiting", 0)
    assert row.error == "this release does not know job type 'test.set'"
    assert flow.effects() == {today: 1}
    assert flow.queues.depth("standard").in_flight == 1, f"out of sight for {UNKNOWN_TYPE_SECONDS} s"
    assert deliver(flow, messages, jobs.CATALOG) == []
    assert flow.effects() == {today: 1, tomorrow: 1}


def test_a_type_that_nobody_knows_after_an_hour_dies_with_its_reason(flow: Flow) -> None:
    [job_id] = flow.order(request("test.set"))
    flow.relay()
    messages = flow.receive()
    flow.rows("UPDATE jobs SET run_at = run_at - :s * interval '1 second'", s=UNKNOWN_TYPE_DIES_AFTER_SECONDS + 1)
    assert len(deliver(flow, messages, catalog(without="test.set"))) == 1
    row = flow.job(job_id)
    assert row.state == "dead"
    assert row.error.startswith("no release at work here knows job type 'test.set'")
    assert "redrive" in row.error


def test_a_member_of_a_group_that_only_a_later_release_knows_keeps_its_place(flow: Flow) -> None:
    first, second = flow.order(request("test.ordered_too", group="g"), request("test.ordered", group="g"))
    [other] = flow.order(request("test.ordered", group="h"))
    flow.relay()
    messages = flow.receive("ordered")
    deliver(flow, messages, catalog(without="test.ordered_too"), "ordered")
    assert flow.effects() == {other: 1}
    left = [item for item in messages if json.loads(item["Body"])["id"] != str(other)]
    deliver(flow, left, jobs.CATALOG, "ordered")
    flow.relay()
    flow.work("ordered")
    assert [row.job_id for row in flow.rows("SELECT job_id FROM probe_effects ORDER BY id")] == [other, first, second]


def message(job_id: UUID, job_type: str, delivery: int = 1) -> dict[str, Any]:
    return {"v": 1, "id": str(job_id), "delivery": delivery, "type": job_type}


@pytest.mark.parametrize("claimed_type", ["test.each", "test.ordered", "test.unheard_of"])
def test_a_message_on_another_queue_than_its_job_runs_nothing_and_says_why(flow: Flow, claimed_type: str) -> None:
    """Whatever the message says of itself: before, a delayed job of another queue ran early."""
    [job_id] = flow.order(request("test.ordered", group="g", run_at=None, delay_seconds=3_600.0))
    flow.queues.send("standard", message(job_id, claimed_type))
    flow.work()
    assert (flow.job(job_id).state, flow.job(job_id).runs) == ("delayed", 0)
    [rejected] = flow.rows("SELECT reason FROM rejected_messages")
    assert "on another queue" in rejected.reason
    assert len(flow.queues.bodies("standard", dead_letter=True)) == 1


@pytest.mark.parametrize(("sent_to", "job_type"), [("standard", "test.ordered"), ("ordered", "test.each")])
def test_a_due_job_is_not_claimed_from_another_queue(flow: Flow, sent_to: str, job_type: str) -> None:
    """There the order of its group, and its own queue's pause, would be nobody's business."""
    [job_id] = flow.order(request(job_type, group="g"))
    fifo = {"MessageGroupId": "g", "MessageDeduplicationId": "d"} if sent_to == "ordered" else {}
    flow.queues.send(sent_to, message(job_id, job_type), **fifo)
    flow.work(sent_to)
    assert (flow.job(job_id).state, flow.job(job_id).runs) == ("waiting", 0)
    flow.relay()
    flow.work(flow.job(job_id).queue)
    assert flow.effects() == {job_id: 1}


@pytest.mark.parametrize(
    ("job_type", "why"), [("test.unheard_of", "unknown job type"), ("test.ordered", "travels on queue 'ordered'")]
)
def test_what_neither_catalogue_nor_ledger_knows_is_rejected_with_its_reason(
    flow: Flow, job_type: str, why: str
) -> None:
    flow.queues.send("standard", message(uuid4(), job_type))
    [neighbour] = flow.order(request("test.each"))
    flow.relay()
    flow.work()
    [rejected] = flow.rows("SELECT reason FROM rejected_messages")
    assert why in rejected.reason
    assert flow.effects() == {neighbour: 1}
