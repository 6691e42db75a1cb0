"""A paused queue: nothing is sent to it and nothing taken from it; resumed, nothing is lost and FIFO keeps order."""

from __future__ import annotations

from functions.core.job import JobRequest
from tests.sql.conftest import Flow


def pause(flow: Flow, queue: str, *, paused: bool = True) -> None:
    flow.rows(
        "UPDATE queues SET paused_at = CASE WHEN :paused THEN now() END WHERE name = :queue", queue=queue, paused=paused
    )


def test_the_relay_sends_nothing_to_a_paused_queue(flow: Flow) -> None:
    pause(flow, "standard")
    flow.order(JobRequest("test.each", {}))
    assert flow.relay() == 0
    pause(flow, "standard", paused=False)
    assert flow.relay() == 1
    assert flow.work() == 1
    assert flow.states() == {"completed": 1}


def test_what_is_under_way_is_handed_back_and_costs_nothing(flow: Flow) -> None:
    [job_id] = flow.order(JobRequest("test.each", {}))
    flow.relay()
    messages = flow.receive(visibility=1)
    pause(flow, "standard")
    assert flow.deliver(messages) == [messages[0]["MessageId"]]
    assert flow.effects() == {}
    job = flow.job(job_id)
    assert (job.state, job.attempts, job.runs, job.delivery) == ("waiting", 0, 0, 1)
    pause(flow, "standard", paused=False)
    assert flow.deliver(messages) == []
    assert flow.effects() == {job_id: 1}
    assert flow.conservation().holds


def test_a_fifo_group_keeps_its_order_over_a_pause(flow: Flow) -> None:
    ids = flow.order(*[JobRequest("test.ordered", {"group": "g"}) for _ in range(3)])
    flow.relay()
    messages = flow.receive("ordered", visibility=1)
    pause(flow, "ordered")
    assert len(flow.deliver(messages, "ordered")) == 3
    pause(flow, "ordered", paused=False)
    assert flow.deliver(messages, "ordered") == []
    done = flow.rows("SELECT job_id FROM probe_effects ORDER BY id")
    assert [row.job_id for row in done] == ids
    assert flow.states() == {"completed": 3}
