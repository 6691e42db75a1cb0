"""Faults on the deployed template: nothing lost, no database effect twice, interrupted attempts refunded."""

from __future__ import annotations

import json
import time

import pytest

from tests.local.world import LEASE_AND_A_LITTLE, World, wait_for

pytestmark = pytest.mark.slow

JOBS = 20


def test_a_worker_killed_in_mid_batch(world: World) -> None:
    # As short as leases allow, so that the test need not wait for six timeouts.
    world.set_visibility("upkeep", LEASE_AND_A_LITTLE)
    world.order(JOBS, sleep_seconds=0.5)
    world.relay()
    wait_for("a batch at work", lambda: world.states().get("active"), seconds=20)
    time.sleep(1)
    victims = world.workers("upkeep-worker")
    assert victims
    for victim in victims:
        victim.kill()
    wait_for("all to complete", lambda: world.states() == {"completed": JOBS}, seconds=120)
    assert world.effects() == [1] * JOBS
    lost = world.rows("SELECT job_id, counted FROM job_attempts WHERE outcome = 'lost'")
    assert lost
    assert not any(row.counted for row in lost)
    assert world.is_refunded()
    assert world.conservation().holds


def test_messages_delivered_twice(world: World) -> None:
    world.order(JOBS)
    queue = world.stack.queue_url("upkeep")
    rows = world.rows("SELECT id, delivery, type, correlation_id FROM jobs")
    for row in rows:
        body = {"v": 1, "id": str(row.id), "delivery": row.delivery, "type": row.type}
        for _ in range(2):
            world.stack.client("sqs").send_message(QueueUrl=queue, MessageBody=json.dumps(body))
    world.relay()
    wait_for("all to complete", lambda: world.states() == {"completed": JOBS}, seconds=60)
    wait_for("the queue to empty", lambda: world.is_empty("upkeep"), seconds=60)
    assert world.effects() == [1] * JOBS
    assert world.is_refunded()
    assert world.conservation().holds


def test_a_dead_job_redriven_as_the_console_does_it(world: World) -> None:
    sqs, source, dlq = world.stack.client("sqs"), world.stack.queue_url("upkeep"), world.stack.queue_url("upkeep-dlq")
    world.order(1, fail_runs=3)
    world.relay()

    def dead_letter() -> dict[str, str] | None:
        found = sqs.receive_message(QueueUrl=dlq, VisibilityTimeout=30).get("Messages", [])
        return found[0] if found else None

    letter = wait_for("the message to reach the dead-letter queue", dead_letter, seconds=60)
    assert world.states() == {"dead": 1}
    world.rows("UPDATE jobs SET died_at = died_at - interval '10 minutes' RETURNING id")
    # What SQS does when a message is moved back, later than a copy may come: it is sent to its source anew, and leaves
    # the dead-letter queue.
    sqs.send_message(QueueUrl=source, MessageBody=letter["Body"])
    wait_for("the job to complete", lambda: world.states() == {"completed": 1}, seconds=30)
    [row] = world.rows("SELECT attempts, runs FROM jobs")
    assert (row.attempts, row.runs) == (0, 4)
    # Its copy, moved back now, is dropped: the job is finished.
    sqs.send_message(QueueUrl=source, MessageBody=letter["Body"])
    sqs.delete_message(QueueUrl=dlq, ReceiptHandle=letter["ReceiptHandle"])
    wait_for("the queue to empty", lambda: world.is_empty("upkeep"), seconds=30)
    assert world.effects() == [1]
    assert world.conservation().holds
