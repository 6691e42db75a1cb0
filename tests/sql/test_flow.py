"""The flow of a job through ledger, queue and worker, on a real PostgreSQL and a real SQS protocol."""

from __future__ import annotations

from sqlalchemy import Engine, text

from functions.pipeline import relay
from functions.pipeline.conservation import conservation
from tests.harness import Queues, job, order, probe, states, work


def test_a_committed_job_is_sent_run_and_completed(database: Engine, queues: Queues) -> None:
    with database.begin() as tx:
        [job_id] = order(tx, probe(note="hello"))
    assert relay.drain().sent == 1
    work(queues, "upkeep")
    with database.begin() as tx:
        row = job(tx, job_id)
        assert (row.state, row.result, row.attempts, row.runs) == ("completed", {"run": 1}, 0, 1)
        assert tx.execute(text("SELECT count(*) FROM probe_effects")).scalar_one() == 1
        assert conservation(tx).holds
    assert queues.depth("upkeep").empty


def test_a_job_that_always_fails_dies_and_its_message_reaches_the_dlq(database: Engine, queues: Queues) -> None:
    with database.begin() as tx:
        [job_id] = order(tx, probe(give_up=True))
    relay.drain()
    work(queues, "upkeep")
    with database.begin() as tx:
        row = job(tx, job_id)
        assert row.state == "dead"
        assert row.error == "the payload said to give up"
        assert tx.execute(text("SELECT count(*) FROM probe_effects")).scalar_one() == 0
        assert states(tx) == {"dead": 1}
        assert conservation(tx).holds
    assert [str(job_id) in body for body in queues.bodies("upkeep", dead_letter=True)] == [True]
