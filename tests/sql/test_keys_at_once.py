"""Keys ordered by several transactions at once: nobody waits for a stranger, nobody dies, each key runs once."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError

from functions.core.job import JobRequest
from functions.db.engine import sqlstate
from functions.pipeline import sweep
from functions.pipeline.conservation import conservation
from functions.pipeline.enqueue import Enqueued, enqueue, insert_orders
from functions.pipeline.keys import decide_contested
from functions.pipeline.steer import Action, steer
from tests import jobs
from tests.harness import job, states
from tests.jobs import request
from tests.sql.conftest import Flow

AT_ONCE_SECONDS = 2.0
"""What waits for nobody is done within this, however busy the machine; what waits for a held transaction never is."""


def keyed(key: str, **options: Any) -> JobRequest:
    return JobRequest("upkeep.probe", {}, dedup_key=key, **options)


@contextmanager
def held_open(engine: Engine) -> Iterator[Connection]:
    """A program's transaction that stays open while the test goes on; committed unless the test rolls it back."""
    with engine.connect() as connection:
        yield connection
        if connection.in_transaction():
            connection.commit()


@pytest.fixture
def beside() -> Iterator[Callable[..., Future[Any]]]:
    """Run something in another thread."""
    with ThreadPoolExecutor(4) as threads:
        yield threads.submit


def in_transaction(engine: Engine, requests: Sequence[JobRequest]) -> list[Enqueued]:
    with engine.begin() as tx:
        return enqueue(tx, requests)


def decide(engine: Engine) -> int:
    with engine.begin() as tx:
        return decide_contested(tx)


def open_keys(tx: Connection) -> Counter[str]:
    """How many jobs of each key are there that ran or will run."""
    rows = tx.execute(text("SELECT dedup_key FROM jobs WHERE dedup_key IS NOT NULL AND state <> 'cancelled'"))
    return Counter(row.dedup_key.removeprefix("upkeep.probe/") for row in rows)


def test_an_order_of_held_keys_holds_up_no_settling(flow: Flow, beside: Callable[..., Future[Any]]) -> None:
    ids = flow.order(*[request("test.each", dedup_key=key) for key in "abc"])
    flow.relay()
    messages = flow.receive()
    with held_open(flow.observer) as tx:
        twice = enqueue(tx, [request("test.each", dedup_key=key) for key in "cba"], catalog=jobs.CATALOG)
        assert [(item.id, item.created) for item in twice] == [(job_id, False) for job_id in reversed(ids)]
        assert beside(flow.deliver, messages).result(timeout=AT_ONCE_SECONDS * 5) == []
    assert flow.states() == {"completed": 3}
    assert flow.rows("SELECT key FROM job_keys") == []


def test_an_order_of_keys_that_a_settling_frees_does_not_wait_for_it(
    database: Engine, observer: Engine, beside: Callable[..., Future[Any]]
) -> None:
    """The settling and the order take the same keys in opposite orders: neither waits for the other."""
    made = in_transaction(observer, [keyed("a"), keyed("b")])
    with held_open(observer) as settling:
        settling.execute(text("DELETE FROM job_keys WHERE key LIKE '%a'"))
        with held_open(observer) as caller:
            first = beside(enqueue, caller, [keyed("b")]).result(timeout=AT_ONCE_SECONDS)
            second = beside(enqueue, caller, [keyed("a")]).result(timeout=AT_ONCE_SECONDS)
            beside(settling.execute, text("DELETE FROM job_keys WHERE key LIKE '%b'")).result(timeout=AT_ONCE_SECONDS)
        assert [first, second] == [[Enqueued(item.id, created=False)] for item in reversed(made)]


def test_three_thousand_keys_in_opposite_orders_make_three_thousand_jobs(database: Engine, observer: Engine) -> None:
    keys = [f"k{number}" for number in range(3000)]
    barrier = threading.Barrier(2)

    def program(requests: list[JobRequest]) -> list[Enqueued]:
        with observer.begin() as tx:
            barrier.wait()
            return enqueue(tx, requests)

    with ThreadPoolExecutor(2) as threads:
        one, other = threads.map(program, ([keyed(key) for key in keys], [keyed(key) for key in reversed(keys)]))
    while decide(observer):
        pass
    with database.begin() as tx:
        assert open_keys(tx) == dict.fromkeys(keys, 1)
        cancelled = {row.id for row in tx.execute(text("SELECT id FROM jobs WHERE state = 'cancelled'"))}
        assert len({item.id for item in one + other} - cancelled) == len(keys)
        assert tx.execute(text("SELECT count(*) FROM contested_keys")).scalar_one() == 0
        assert conservation(tx).holds


@pytest.mark.parametrize("ends", ["commit", "rollback"])
def test_keys_in_opposite_orders_in_statements_of_their_own(
    database: Engine, observer: Engine, beside: Callable[..., Future[Any]], ends: str
) -> None:
    with held_open(observer) as one, held_open(observer) as other:
        enqueue(one, [keyed("a")])
        enqueue(other, [keyed("b")])
        waits = [beside(enqueue, one, [keyed("b")]), beside(enqueue, other, [keyed("a")])]
        [[b], [a]] = [waiting.result(timeout=AT_ONCE_SECONDS) for waiting in waits]
        assert a.created
        assert b.created
        assert decide(observer) == 0, "what is not committed cannot be decided"
        getattr(one, ends)()
    while decide(observer):
        pass
    with database.begin() as tx:
        assert open_keys(tx) == {"a": 1, "b": 1}
        assert tx.execute(text("SELECT count(*) FROM contested_keys")).scalar_one() == 0
        assert conservation(tx).holds


def test_a_contested_job_is_cancelled_where_the_other_was_first(database: Engine, observer: Engine) -> None:
    with held_open(observer) as first:
        [holder] = enqueue(first, [keyed("k")])
        [waiting] = in_transaction(observer, [keyed("k")])
        with database.begin() as tx:
            assert (waiting.created, job(tx, waiting.id).state, job(tx, waiting.id).outbox_at) == (
                True,
                "blocked",
                None,
            )
        assert decide(observer) == 0
    assert decide(observer) == 1
    with database.begin() as tx:
        row = job(tx, waiting.id)
        assert (row.state, row.error) == ("cancelled", f"job {holder.id} of the same key was ordered first")
        assert in_transaction(observer, [keyed("k")]) == [Enqueued(holder.id, created=False)]


@pytest.mark.parametrize("delay", [0, 600])
def test_a_contested_job_goes_on_where_the_other_rolled_back(database: Engine, observer: Engine, delay: int) -> None:
    with held_open(observer) as first:
        enqueue(first, [keyed("k")])
        [waiting, plain] = in_transaction(observer, [keyed("k", delay_seconds=delay), JobRequest("upkeep.probe", {})])
        assert in_transaction(observer, [keyed("k")]) == [Enqueued(waiting.id, created=False)]
        first.rollback()
    assert in_transaction(observer, [keyed("k")]) == [Enqueued(waiting.id, created=False)]
    assert (decide(observer), decide(observer)) == (1, 0)
    with database.begin() as tx:
        row = job(tx, waiting.id)
        assert row.state == ("delayed" if delay else "waiting")
        assert row.outbox_at is not None
        assert job(tx, plain.id).state == "waiting"
    assert in_transaction(observer, [keyed("k")]) == [Enqueued(waiting.id, created=False)]


def test_of_several_that_wait_for_a_key_the_first_takes_it(database: Engine, observer: Engine) -> None:
    with held_open(observer) as holder, held_open(observer) as one, held_open(observer) as other:
        enqueue(holder, [keyed("k")])
        [first], [second] = enqueue(one, [keyed("k")]), enqueue(other, [keyed("k")])
        holder.rollback()
    assert decide(observer) == 2
    with database.begin() as tx:
        assert [job(tx, item.id).state for item in (first, second)] == ["waiting", "cancelled"]


def test_what_an_operator_removed_or_paused_meanwhile(database: Engine, observer: Engine) -> None:
    with held_open(observer) as holder:
        enqueue(holder, [keyed("removed"), keyed("paused")])
        removed, paused = in_transaction(observer, [keyed("removed"), keyed("paused")])
        holder.rollback()
    with observer.begin() as tx:
        tx.execute(text("UPDATE jobs SET state = 'cancelled', closed_at = now() WHERE id = :id"), {"id": removed.id})
        tx.execute(text("UPDATE jobs SET state = 'paused' WHERE id = :id"), {"id": paused.id})
    [again] = in_transaction(observer, [keyed("removed")])
    assert again.created, "a job that was removed holds no key"
    assert decide(observer) == 1
    with observer.begin() as tx:
        assert [row.job_id for row in tx.execute(text("SELECT job_id FROM contested_keys"))] == [paused.id]
        [resumed] = steer(tx, Action.RESUME, [paused.id], queue="upkeep")
        assert resumed.after == "blocked"
    assert decide(observer) == 1
    with database.begin() as tx:
        assert [job(tx, item.id).state for item in (removed, again, paused)] == ["cancelled", "waiting", "waiting"]


def test_two_deciders_at_once_share_the_work(
    database: Engine, observer: Engine, beside: Callable[..., Future[Any]]
) -> None:
    with held_open(observer) as holder:
        enqueue(holder, [keyed("k")])
        in_transaction(observer, [keyed("k")])
        holder.rollback()
    with held_open(observer) as one:
        assert decide_contested(one) == 1
        assert beside(decide, observer).result(timeout=AT_ONCE_SECONDS) == 0
    assert decide(observer) == 0


def test_the_secrets_of_a_contested_job_end_with_it(database: Engine, observer: Engine) -> None:
    mail = {"recipient_kind": "user", "recipient_id": str(UUID(int=1)), "url": "https://firm.example/"}
    order = JobRequest("email.welcome", mail, dedup_key="k")
    with held_open(observer) as holder:
        enqueue(holder, [order])
        [waiting] = in_transaction(observer, [order])
    assert decide(observer) == 1
    with database.begin() as tx:
        assert "url" not in job(tx, waiting.id).payload


def test_expiry_never_waits_for_an_order_and_no_order_for_expiry(
    database: Engine, observer: Engine, beside: Callable[..., Future[Any]]
) -> None:
    keys = [f"k{number}" for number in range(50)]
    in_transaction(observer, [keyed(key, dedup_window_seconds=3600) for key in keys])
    with observer.begin() as tx:
        tx.execute(text("UPDATE job_keys SET expires_at = now() - interval '1 second'"))
    with held_open(observer) as caller:
        made = enqueue(caller, [keyed("k7"), keyed("k3")])
        assert all(item.created for item in made)
        assert beside(sweep.expire_keys).result(timeout=AT_ONCE_SECONDS) == len(keys) - 2
    with database.begin() as tx:
        left = {row.key: row.job_id for row in tx.execute(text("SELECT key, job_id FROM job_keys"))}
    assert left == {"upkeep.probe/k7": made[0].id, "upkeep.probe/k3": made[1].id}


def test_the_key_of_a_deleted_job_is_free(database: Engine, observer: Engine) -> None:
    [gone] = in_transaction(observer, [keyed("k")])
    with observer.begin() as tx:
        tx.execute(text("DELETE FROM jobs WHERE id = :id"), {"id": gone.id})
    [made] = in_transaction(observer, [keyed("k")])
    assert made.created
    assert in_transaction(observer, [keyed("k")]) == [Enqueued(made.id, created=False)]


def test_two_workers_with_copies_of_an_external_message_make_one_job(
    database: Engine, observer: Engine, beside: Callable[..., Future[Any]]
) -> None:
    copy = {"type": "upkeep.probe", "payload": {}, "sent": True, "dedup_key": "k", "dedup_window_seconds": 3600}
    with held_open(observer) as one, held_open(observer) as other:
        [first] = insert_orders(one, [copy])
        waiting = beside(insert_orders, other, [copy])
        time.sleep(0.4)  # longer than any other order would wait
        assert not waiting.done()
        one.commit()
        assert waiting.result(timeout=AT_ONCE_SECONDS) == [Enqueued(first.id, created=False)]
    with database.begin() as tx:
        assert states(tx) == {"waiting": 1}


def test_a_repeatable_read_caller_gets_a_serialization_failure_at_worst(database: Engine, observer: Engine) -> None:
    with observer.connect().execution_options(isolation_level="REPEATABLE READ") as caller:
        caller.execute(text("SELECT 1 FROM jobs"))
        in_transaction(observer, [keyed("k")])
        with pytest.raises(DBAPIError) as refused:
            enqueue(caller, [keyed("k")])
        assert sqlstate(refused.value) == "40001"


def test_another_program_needs_no_more_rights_than_the_documents_say(database: Engine, observer: Engine) -> None:
    document = (Path(__file__).parents[2] / "docs" / "deploy.md").read_text()
    rights = document.split("CREATE ROLE other_program LOGIN;\n")[1].split("```")[0]
    role = f"other_program_{uuid4().hex}"
    with observer.begin() as tx:
        tx.execute(text(f"CREATE ROLE {role}"))
        tx.execute(text(rights.replace("other_program", role)))
    try:
        in_transaction(observer, [keyed("over", dedup_window_seconds=3600), keyed("held")])
        with observer.begin() as tx:
            tx.execute(text("UPDATE job_keys SET expires_at = now() WHERE key LIKE '%over'"))
        with held_open(observer) as holder:
            enqueue(holder, [keyed("contested")])
            with observer.begin() as tx:
                tx.execute(text(f"SET LOCAL ROLE {role}"))
                made = enqueue(tx, [keyed("over"), keyed("held"), keyed("contested"), keyed("new")])
        assert [item.created for item in made] == [True, False, True, True]
    finally:
        with observer.begin() as tx:
            tx.execute(text(f"DROP OWNED BY {role}; DROP ROLE {role}"))
