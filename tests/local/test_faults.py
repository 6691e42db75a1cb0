"""Faults on the deployed template: nothing lost, no database effect twice, interrupted attempts refunded."""

from __future__ import annotations

import json
import time

import pytest
from sqlalchemy.exc import DBAPIError

from duecourse.local import postgres
from functions.core.errors import DatabaseAway
from tests.local.world import World, wait_for

JOBS = 20
LEASE_AND_A_LITTLE = 38
"""Seconds: a worker's timeout (30), the lease's margin (5), and some."""


def _refunded(world: World) -> bool:
    return all(row.attempts == 0 for row in world.rows("SELECT attempts FROM jobs"))


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
    assert _refunded(world)
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
    assert _refunded(world)
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
    # What SQS does when a message is moved back: it is sent to its source anew, and leaves the dead-letter queue.
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


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_database_away_for_two_minutes_in_mid_run(world: World) -> None:
    world.set_visibility("upkeep", LEASE_AND_A_LITTLE)
    world.order(JOBS, sleep_seconds=0.5)
    world.relay()
    wait_for("a batch at work", lambda: world.states().get("active"), seconds=20)
    world.engine.dispose()
    postgres.stop(world.home.postgres)
    time.sleep(120)
    postgres.start(world.home.postgres)

    def done() -> bool:
        try:
            return world.states() == {"completed": JOBS}
        except (DBAPIError, DatabaseAway):
            return False

    # What was handed back while the database was away waits 15, 30, 60, then 120 s.
    wait_for("all to complete", done, seconds=300)
    assert world.effects() == [1] * JOBS
    assert _refunded(world)
    assert world.conservation().holds
