"""An operator at work on the deployed template: a queue paused under load, a redrive of some of many dead jobs."""

from __future__ import annotations

import json
import time
from typing import Any
from uuid import UUID, uuid4

import pytest

from duecourse.api import Api
from duecourse.local import api_token
from functions.aws.sqs import ENTRIES_PER_CALL
from functions.core.chunks import chunks
from tests.local.world import World, wait_for

pytestmark = pytest.mark.slow

LOAD = 200
WORK_SECONDS = 0.05
AT_WORK = 2 * 10
"""The upkeep worker's concurrency times its batch."""

DEAD, STALE = 600, 60
PER_SECOND = 50
ERRORS = ("ProbeFailed", "Timeout", "Crashed")
PATIENCE_SECONDS = 150

ORDER = """
    SELECT enqueue_job('upkeep.probe', '{}', tenant_id => (CAST(:tenants AS uuid[]))[1 + mod(n, 2)],
                       run_at => now() + interval '1 day') AS id
    FROM generate_series(1, :count) AS n
"""
RUN = """
    UPDATE jobs SET state = 'active', claim_token = id, runs = 3, attempts = 3, outbox_at = NULL, sent_at = now()
    RETURNING id
"""
DIE = """
    UPDATE jobs SET state = 'dead', claim_token = NULL, died_at = now(), dead_message_id = 'message', run_at = now(),
        error_class = died.error
    FROM unnest(CAST(:ids AS uuid[]), CAST(:errors AS text[])) AS died(id, error) WHERE jobs.id = died.id RETURNING 1
"""
# Jobs that were redriven before and completed: their first delivery is still in the dead-letter queue.
FINISH = """
    UPDATE jobs SET state = 'completed', claim_token = NULL, delivery = 2, closed_at = now()
    WHERE id = ANY(CAST(:ids AS uuid[])) RETURNING 1
"""
SPAN = """
    SELECT extract(epoch FROM max(run_at) - min(run_at)) AS seconds FROM jobs WHERE id = ANY(CAST(:ids AS uuid[]))
"""
CHOSEN = "SELECT id FROM jobs WHERE tenant_id = :tenant AND error_class = 'Timeout'"


@pytest.fixture
def api(world: World) -> Api:
    token = api_token.read(world.home)
    assert world.stack.api_url is not None
    assert token is not None
    return Api(world.stack.api_url, token)


def _completed(world: World) -> int:
    return world.states().get("completed", 0)


def test_a_queue_paused_under_load_stops_within_a_batch_and_loses_nothing(world: World, api: Api) -> None:
    world.order(LOAD, sleep_seconds=WORK_SECONDS)
    world.relay()
    wait_for("the load to be at work", lambda: _completed(world) >= AT_WORK, seconds=PATIENCE_SECONDS)
    answer = api.post("queues", "upkeep", "pause", body={"reason": "too much"})
    paused_at = _completed(world)
    assert answer["paused"]
    assert answer["mapping"]["state"] in {"Disabled", "Disabling"}
    wait_for("the runs under way to end", lambda: "active" not in world.states(), seconds=PATIENCE_SECONDS)
    stopped_at = _completed(world)
    assert stopped_at - paused_at <= AT_WORK
    time.sleep(3)
    assert _completed(world) == stopped_at < LOAD

    resumed = api.post("queues", "upkeep", "resume")
    assert resumed["mapping"]["state"] in {"Enabled", "Enabling"}
    wait_for("all to complete", lambda: world.states() == {"completed": LOAD}, seconds=PATIENCE_SECONDS)
    assert world.effects() == [1] * LOAD
    assert world.conservation().holds


def test_one_error_of_one_tenant_is_redriven_at_a_rate_and_the_rest_stays(world: World, api: Api) -> None:
    tenant, other = uuid4(), uuid4()
    dead = _dead_jobs(world, [tenant, other])
    chosen = {row.id for row in world.rows(CHOSEN, tenant=tenant)}
    order = {"tenant_id": str(tenant), "error_class": "Timeout", "per_second": PER_SECOND}

    counted = api.post("queues", "upkeep", "redrive", body=order)
    assert (counted["matched"], counted["dead_letters"]) == (len(chosen), DEAD + STALE)
    begun = api.post("queues", "upkeep", "redrive", body={**order, "dry_run": False})
    progress: list[float] = []

    world.relay()

    def over() -> dict[str, Any] | None:
        job: dict[str, Any] = api.get("jobs", "upkeep", begun["job"].rpartition("/")[2])
        progress.append(job["progress"] or 0.0)
        return job if job["closed_at"] else None

    job = wait_for("the redrive to end", over, seconds=PATIENCE_SECONDS)
    assert job["result"] == {"revived": len(chosen), "drained": len(chosen) + STALE}
    assert progress == sorted(progress)
    wait_for("the redriven to complete", lambda: _all_completed(world, chosen), seconds=PATIENCE_SECONDS)

    [span] = world.rows(SPAN, ids=list(chosen))
    assert float(span.seconds) == pytest.approx((len(chosen) - 1) / PER_SECOND, rel=0.5)
    left = {row.id for row in world.rows("SELECT id FROM jobs WHERE state = 'dead'")}
    assert left == set(dead) - chosen
    assert _dead_letters(world) == len(left)
    assert world.conservation().holds


def _dead_jobs(world: World, tenants: list[UUID]) -> list[UUID]:
    """Dead jobs of two tenants and three errors, their messages in the dead-letter queue among stale ones."""
    world.rows(ORDER, tenants=tenants, count=DEAD + STALE)
    ids = [row.id for row in world.rows(RUN)]
    stale, dead = ids[:STALE], ids[STALE:]
    world.rows(FINISH, ids=stale)
    world.rows(DIE, ids=dead, errors=[ERRORS[n % len(ERRORS)] for n in range(len(dead))])
    sqs, url = world.stack.client("sqs"), world.stack.queue_url("upkeep-dlq")
    for part in chunks([*stale, *dead], ENTRIES_PER_CALL):
        bodies = [{"v": 1, "id": str(found), "delivery": 1, "type": "upkeep.probe"} for found in part]
        entries = [{"Id": str(n), "MessageBody": json.dumps(body)} for n, body in enumerate(bodies)]
        sqs.send_message_batch(QueueUrl=url, Entries=entries)
    return dead


def _all_completed(world: World, ids: set[UUID]) -> bool:
    rows = world.rows("SELECT state FROM jobs WHERE id = ANY(CAST(:ids AS uuid[]))", ids=list(ids))
    return {row.state for row in rows} == {"completed"}


def _dead_letters(world: World) -> int:
    names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
    url = world.stack.queue_url("upkeep-dlq")
    found = world.stack.client("sqs").get_queue_attributes(QueueUrl=url, AttributeNames=names)["Attributes"]
    return sum(int(found[name]) for name in names)
