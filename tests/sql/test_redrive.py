"""`upkeep.redrive`: chosen dead jobs run again at the rate asked for, and only the copies that nobody needs go."""

from __future__ import annotations

import json
from collections import Counter
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import Engine, Row, text

from functions.aws import sqs
from functions.core.catalog import CATALOG
from functions.core.chunks import chunks
from functions.core.job import JobRequest
from functions.pipeline import relay
from functions.pipeline.conservation import conservation
from functions.pipeline.steer import Action, steer
from functions.upkeep.redrive import STEP_SECONDS
from tests.harness import Queues, deliver, job, order, work

ERRORS = ("ProbeFailed", "Timeout", "Crashed")

# As workers leave them: dead, each with its error, its message in the dead-letter queue.
KILL = text("""
    WITH run AS (
        UPDATE jobs SET state = 'active', claim_token = gen_random_uuid(), runs = 3, outbox_at = NULL, sent_at = now()
        WHERE id = ANY(CAST(:ids AS uuid[])) RETURNING id
    ) SELECT count(*) FROM run
""")
BURY = text("""
    UPDATE jobs SET state = 'dead', claim_token = NULL, attempts = 3, died_at = now(), dead_message_id = 'message',
        error_class = died.error
    FROM unnest(CAST(:ids AS uuid[]), CAST(:errors AS text[])) AS died(id, error)
    WHERE jobs.id = ANY(CAST(:ids AS uuid[])) AND jobs.id = died.id
""")
DEAD = text("SELECT id, tenant_id, error_class FROM jobs WHERE state = 'dead'")
REVIVED = text("SELECT outbox_at FROM jobs WHERE state = 'waiting' AND type <> 'upkeep.redrive' ORDER BY outbox_at")


@pytest.fixture
def firms(database: Engine) -> tuple[UUID, UUID]:
    return uuid4(), uuid4()


def _kill(database: Engine, requests: list[JobRequest], errors: tuple[str, ...] = ERRORS) -> list[UUID]:
    """Dead jobs whose errors take turns."""
    with database.begin() as tx:
        ids = order(tx, *requests)
        tx.execute(KILL, {"ids": ids})
        tx.execute(BURY, {"ids": ids, "errors": [errors[n % len(errors)] for n in range(len(ids))]})
    return ids


def _bury(queues: Queues, queue: str, copies: list[dict[str, Any]]) -> None:
    """Put messages into a dead-letter queue."""
    fifo = CATALOG.queues[queue].fifo
    for part in chunks(copies, sqs.ENTRIES_PER_CALL):
        entries = [
            sqs.Outgoing(json.dumps(item), item["group"] if fifo else None, str(uuid4()) if fifo else None)
            for item in part
        ]
        assert sqs.send_batch(queues.url(queue, dead_letter=True), entries) == [None] * len(part)


def _copy(job_id: UUID, delivery: int = 1, group: str = "g") -> dict[str, Any]:
    return {"v": 1, "id": str(job_id), "delivery": delivery, "type": "upkeep.probe", "group": group}


def _redrive(database: Engine, **payload: Any) -> UUID:
    with database.begin() as tx:
        [job_id] = order(tx, JobRequest("upkeep.redrive", {"per_second": 1000, **payload}))
    return job_id


def _run_steps(database: Engine, queues: Queues, job_id: UUID) -> tuple[Row[Any], list[float]]:
    """Let the redrive's own message through, step by step, and nothing else; returns the row and the progress seen."""
    seen = []
    hurry = text("UPDATE jobs SET run_at = now(), outbox_at = now() WHERE id = :id AND state = 'delayed'")
    hold = text("UPDATE jobs SET outbox_at = outbox_at + interval '1 day' WHERE id <> :id AND outbox_at IS NOT NULL")
    release = text("UPDATE jobs SET outbox_at = outbox_at - interval '1 day' WHERE id <> :id AND outbox_at IS NOT NULL")
    while True:
        with database.begin() as tx:
            tx.execute(hurry, {"id": job_id})
            tx.execute(hold, {"id": job_id})
        relay.drain()
        work(queues, "upkeep")
        with database.begin() as tx:
            tx.execute(release, {"id": job_id})
            row = job(tx, job_id)
        seen.append(row.progress)
        if row.closed_at is not None or row.state == "dead":
            return row, seen


@pytest.mark.slow
def test_one_error_of_one_tenant_is_redriven_out_of_thousands(
    database: Engine, queues: Queues, firms: tuple[UUID, UUID]
) -> None:
    requests = [JobRequest("upkeep.probe", {}, tenant_id=firms[n % 2]) for n in range(5000)]
    ids = _kill(database, requests)
    finished = _kill(database, [JobRequest("upkeep.probe", {}, tenant_id=firms[n % 2]) for n in range(500)])
    with database.begin() as tx:
        tx.execute(
            text(
                "UPDATE jobs SET state = 'waiting', died_at = NULL, delivery = 2, dead_message_id = NULL"
                " WHERE id = ANY(CAST(:ids AS uuid[]))"
            ),
            {"ids": finished},
        )
        before = {row.id: row for row in tx.execute(DEAD)}
    _bury(queues, "upkeep", [_copy(job_id) for job_id in (*finished[:250], *ids, *finished[250:])])
    chosen = {row.id for row in before.values() if (row.tenant_id, row.error_class) == (firms[0], "Timeout")}
    assert len(before) == 5000
    assert 800 < len(chosen) < 850

    job_id = _redrive(database, queue="upkeep", tenant_id=str(firms[0]), error_class="Timeout", per_second=200)
    row, progress = _run_steps(database, queues, job_id)

    assert row.result == {"revived": len(chosen), "drained": len(chosen) + 500}
    assert progress == sorted(progress)
    with database.begin() as tx:
        assert {row.id for row in tx.execute(DEAD)} == before.keys() - chosen
    # Those that stayed dead still have their message, out of sight until the drain's visibility ends.
    assert queues.depth("upkeep", dead_letter=True).in_flight == 5000 - len(chosen)


def test_a_step_revives_what_runs_in_its_seconds_and_sends_it_at_that_rate(database: Engine, queues: Queues) -> None:
    _kill(database, [JobRequest("upkeep.probe", {}) for _ in range(120)])
    job_id = _redrive(database, queue="upkeep", per_second=10)
    relay.drain()
    work(queues, "upkeep")
    with database.begin() as tx:
        first = [row.outbox_at for row in tx.execute(REVIVED)]
        row = job(tx, job_id)
    assert len(first) == 10 * STEP_SECONDS
    gaps = {round((later - earlier).total_seconds(), 3) for earlier, later in pairwise(first)}
    assert gaps == {0.1}
    assert row.state == "delayed"
    assert timedelta(seconds=0) < first[-1] - row.run_at < timedelta(seconds=STEP_SECONDS)
    row, _ = _run_steps(database, queues, job_id)
    assert row.result["revived"] == 120


def test_a_redrive_is_paused_between_two_steps_and_goes_on_or_is_removed(database: Engine, queues: Queues) -> None:
    _kill(database, [JobRequest("upkeep.probe", {}) for _ in range(170)])
    job_id = _redrive(database, queue="upkeep", per_second=10)
    relay.drain()
    work(queues, "upkeep")
    with database.begin() as tx:
        [paused] = steer(tx, Action.PAUSE, [job_id], queue="upkeep")
        assert paused.after == "paused"
        [resumed] = steer(tx, Action.RESUME, [job_id], queue="upkeep")
        assert resumed.after == "delayed"
        tx.execute(text("UPDATE jobs SET run_at = now(), outbox_at = now() WHERE id = :id"), {"id": job_id})
    relay.drain()
    work(queues, "upkeep")
    with database.begin() as tx:
        row = job(tx, job_id)
        assert row.checkpoint["revived"] == 100
        assert row.progress == pytest.approx(100 / 170)
        steer(tx, Action.REMOVE, [job_id], queue="upkeep")
        left = tx.execute(text("SELECT count(*) FROM jobs WHERE state = 'dead'")).scalar_one()
    assert left == 70
    with database.begin() as tx:  # the queue is free for another
        assert order(tx, JobRequest("upkeep.redrive", {"queue": "upkeep"}, dedup_key="upkeep"))


def test_what_died_after_it_began_is_left_alone(database: Engine, queues: Queues) -> None:
    ids = _kill(database, [JobRequest("upkeep.probe", {"give_up": True}) for _ in range(60)])
    job_id = _redrive(database, queue="upkeep", per_second=10)
    relay.drain()
    work(queues, "upkeep")
    with database.begin() as tx:
        tx.execute(
            text("UPDATE jobs SET outbox_at = now(), run_at = now() WHERE outbox_at IS NOT NULL AND id <> :id"),
            {"id": job_id},
        )
    with database.begin() as tx:  # the redrive's own next step waits, however long this takes
        tx.execute(
            text("UPDATE jobs SET outbox_at = now() + interval '1 day' WHERE id = :id AND outbox_at IS NOT NULL"),
            {"id": job_id},
        )
    relay.drain()
    work(queues, "upkeep")  # the first step's fifty die again
    row, _ = _run_steps(database, queues, job_id)
    assert row.result["revived"] == 60
    with database.begin() as tx:
        states = Counter(
            found.state for found in tx.execute(text("SELECT state FROM jobs WHERE type = 'upkeep.probe'"))
        )
        assert states["dead"] >= 50
        assert states["dead"] + states["waiting"] == 60
        assert {job(tx, found).delivery for found in ids} == {2}


def test_a_fifo_queues_dead_jobs_are_redriven_in_their_order(database: Engine, queues: Queues) -> None:
    mail = {"recipient_kind": "user", "url": "https://firm.example/"}
    tenant, readers = uuid4(), [str(uuid4()) for _ in range(3)]
    requests = [
        JobRequest("email.welcome", {**mail, "recipient_id": readers[n % 3]}, tenant_id=tenant) for n in range(12)
    ]
    ids = _kill(database, requests)
    _bury(queues, "email", [_copy(job_id, group=f"g{n % 3}") for n, job_id in enumerate(ids)])
    job_id = _redrive(database, queue="email", error_class="Crashed")
    row, _ = _run_steps(database, queues, job_id)
    assert row.result == {"revived": 4, "drained": 4}
    with database.begin() as tx:
        tx.execute(
            text(
                "UPDATE jobs SET outbox_at = now() - interval '1 minute' + (outbox_at - run_at), run_at = now()"
                " WHERE outbox_at IS NOT NULL"
            )
        )
    relay.drain()
    sent = [json.loads(body)["id"] for body in queues.bodies("email")]
    with database.begin() as tx:
        crashed = [str(found) for found in ids if job(tx, found).delivery == 2]
    assert len(sent) == 4
    assert sent == crashed


def test_a_time_bounds_what_is_redriven(database: Engine, queues: Queues) -> None:
    old, young = _kill(database, [JobRequest("upkeep.probe", {}) for _ in range(2)])
    with database.begin() as tx:
        tx.execute(text("UPDATE jobs SET died_at = now() - interval '2 days' WHERE id = :id"), {"id": old})
        yesterday: datetime = tx.execute(text("SELECT now() - interval '1 day'")).scalar_one()
    job_id = _redrive(database, queue="upkeep", died_before=yesterday.isoformat())
    row, _ = _run_steps(database, queues, job_id)
    assert row.result == {"revived": 1, "drained": 0}
    with database.begin() as tx:
        assert (job(tx, old).delivery, job(tx, young).state) == (2, "dead")
        assert conservation(tx).holds


def test_poison_stays_in_the_dead_letter_queue(database: Engine, queues: Queues) -> None:
    queues.send("upkeep", "poison")
    work(queues, "upkeep")
    job_id = _redrive(database, queue="upkeep")
    row, _ = _run_steps(database, queues, job_id)
    assert row.result == {"revived": 0, "drained": 0}
    depth = queues.depth("upkeep", dead_letter=True)
    assert depth.visible + depth.in_flight == 1


def test_a_queue_that_does_not_exist_is_an_invalid_payload(database: Engine) -> None:
    from functions.core.errors import InvalidPayload

    with pytest.raises(InvalidPayload, match="no such queue"):
        _redrive(database, queue="nowhere")


def test_what_somebody_else_held_for_a_moment_is_revived_in_a_later_round(
    database: Engine, observer: Engine, queues: Queues
) -> None:
    ids = _kill(database, [JobRequest("upkeep.probe", {}) for _ in range(5)])
    job_id = _redrive(database, queue="upkeep")
    relay.drain()
    with observer.connect() as steering, steering.begin():
        steering.execute(text("SELECT FROM jobs WHERE id = ANY(:ids) FOR UPDATE"), {"ids": [ids[0], ids[3]]})
        work(queues, "upkeep")
        with observer.begin() as tx:
            assert {found for found in ids if job(tx, found).state == "dead"} == {ids[0], ids[3]}
    row, _ = _run_steps(database, queues, job_id)
    assert row.result == {"revived": 5, "drained": 0}


def test_a_redrive_says_how_many_a_newer_job_keeps_from_living_and_how_many_were_never_free(
    database: Engine, observer: Engine, queues: Queues, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("functions.upkeep.redrive.MOST_ROUNDS", 2)
    ids = _kill(database, [JobRequest("upkeep.probe", {}, dedup_key=f"key-{n}") for n in range(4)])
    with database.begin() as tx:
        tx.execute(text("DELETE FROM job_keys"))
        order(tx, *(JobRequest("upkeep.probe", {}, dedup_key=f"key-{n}", delay_seconds=3600) for n in range(2)))
    job_id = _redrive(database, queue="upkeep")
    with observer.connect() as steering, steering.begin():
        steering.execute(text("SELECT FROM jobs WHERE id = :id FOR UPDATE"), {"id": ids[2]})
        row, _ = _run_steps_without(database, queues, job_id)
    assert row.result == {"revived": 1, "drained": 0, "left": 2, "locked": 1}
    with database.begin() as tx:
        assert [job(tx, found).state for found in ids] == ["dead", "dead", "dead", "waiting"]


def _run_steps_without(database: Engine, queues: Queues, job_id: UUID) -> tuple[Row[Any], list[float]]:
    """The same while somebody holds jobs: nothing else is due, so nothing needs to be held."""
    hurry = text("UPDATE jobs SET run_at = now(), outbox_at = now() WHERE id = :id AND state = 'delayed'")
    while True:
        with database.begin() as tx:
            tx.execute(hurry, {"id": job_id})
        relay.drain(queue="upkeep")
        messages = [item for item in queues.receive("upkeep") if str(job_id) in item["Body"]]
        deliver(queues, "upkeep", messages)
        with database.begin() as tx:
            row = job(tx, job_id)
        if row.closed_at is not None or row.state == "dead":
            return row, []
