"""Values that PostgreSQL or SQS would refuse: they are turned away one by one, never with a whole batch or queue."""

from __future__ import annotations

import json
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from functions.pipeline import relay
from functions.pipeline.steer import Action, steer
from tests import jobs
from tests.jobs import request
from tests.sql.conftest import Flow


def external(**fields: Any) -> dict[str, Any]:
    return {"v": 1, "type": "test.each", "external": True, "payload": {}} | fields


POISON = {
    "NUL": json.dumps(external(dedup_key="p", payload={"do": "\x00"})),
    "NUL in a key": json.dumps(external(dedup_key="\x00")),
    "half a surrogate pair": json.dumps(external(dedup_key="p", payload={"do": "\ud800"})),
    "NaN": json.dumps(external(dedup_key="p", payload={"do": float("nan")})),
    "infinity": json.dumps(external(dedup_key="p")).replace("{}", '{"do": 1e999}'),
    "numbers that only PostgreSQL writes out": json.dumps(external(dedup_key="p", payload={"n": [1e300] * 900})),
    "a correlation id of a megabyte": json.dumps(external(dedup_key="p", correlation_id="c" * 1_000_000)),
    "a delivery beyond integers": json.dumps(
        {"v": 1, "type": "test.each", "id": "0193a1b2-c3d4-7e5f-8a9b-0c1d2e3f4a5b", "delivery": 2**40}
    ),
    "an id beyond the calendar": json.dumps(external(id="ffffffff-ffff-7fff-bfff-ffffffffffff")),
    "a depth beyond any stack": "[" * 20_000,
}


@pytest.mark.parametrize("poison", POISON)
def test_a_poisoned_message_is_rejected_and_its_neighbours_are_done(flow: Flow, poison: str) -> None:
    [ours] = flow.order(request("test.each"))
    flow.relay()
    flow.queues.send("standard", external(dedup_key="healthy"))
    poisoned = flow.queues.send("standard", POISON[poison])
    assert flow.deliver(flow.receive()) == [poisoned]
    assert flow.states() == {"completed": 2}
    assert flow.effects()[ours] == 1
    [rejected] = flow.rows("SELECT message_id, reason FROM rejected_messages")
    assert rejected.message_id == poisoned
    assert rejected.reason


@pytest.mark.parametrize("payload", ['"text"', "[1]", "7", "null"])
def test_a_payload_that_is_no_object_stops_neither_its_batch_nor_its_removal(flow: Flow, payload: str) -> None:
    """Nobody can order one; it can stand in a row that something else wrote."""
    expired, removed, invalid, healthy = flow.order(*[request("test.each") for _ in range(4)])
    flow.relay()
    flow.rows(
        "UPDATE jobs SET payload = CAST(:payload AS jsonb) WHERE id <> :healthy", payload=payload, healthy=healthy
    )
    flow.rows("UPDATE jobs SET deadline_at = now() - interval '1 minute' WHERE id = :expired", expired=expired)
    with flow.observer.begin() as tx:
        [steered] = steer(tx, Action.REMOVE, [removed], queue="standard", catalog=jobs.CATALOG)
    assert steered.after == "cancelled"
    flow.work()
    states = {job_id: flow.job(job_id).state for job_id in (expired, removed, invalid, healthy)}
    assert states == {expired: "cancelled", removed: "cancelled", invalid: "dead", healthy: "completed"}


@pytest.mark.parametrize(
    "change",
    [
        *[f"{column} = '{instant}'" for column in ("run_at", "deadline_at") for instant in ("infinity", "-infinity")],
        "run_at = '10000-01-01 00:00Z'",
        "correlation_id = repeat('c', 1100000)",
        "result = (SELECT to_jsonb(string_agg(md5(n::text), '')) FROM generate_series(1, 10000) AS n)",
    ],
)
def test_the_ledger_itself_refuses_what_would_stop_a_batch(flow: Flow, change: str) -> None:
    [job_id] = flow.order(request("test.each"))
    with pytest.raises(DBAPIError, match=r"jobs_(instants|correlation_id_size|result_size)"):
        flow.rows(f"UPDATE jobs SET {change.replace(':', chr(92) + ':')} WHERE id = :id", id=job_id)


def test_a_job_for_a_queue_of_a_later_release_waits_and_does_not_stop_the_relay(flow: Flow) -> None:
    with flow.observer.begin() as tx:
        tx.execute(text("INSERT INTO queues (name, fifo) VALUES ('of-tomorrow', false)"))
        tx.execute(text("INSERT INTO job_types (name, queue) VALUES ('job.of.tomorrow', 'of-tomorrow')"))
        tx.execute(text("SELECT enqueue_job('job.of.tomorrow', '{}', priority => 1)"))
    flow.order(request("test.each"))
    assert relay.drain(catalog=jobs.CATALOG).sent == 1
    assert len(flow.receive()) == 1
    [waiting] = flow.rows("SELECT * FROM jobs WHERE queue = 'of-tomorrow'")
    assert waiting.outbox_at is not None
