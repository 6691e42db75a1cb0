"""Deduplication: one job per tenant, type and key, as long as the first is unfinished or its window lasts."""

from __future__ import annotations

import random
import time
from concurrent.futures import ThreadPoolExecutor
from uuid import UUID, uuid4

from sqlalchemy import Engine

from functions.core.job import JobRequest
from functions.pipeline.conservation import conservation
from functions.pipeline.enqueue import Enqueued, enqueue
from functions.pipeline.redrive import redrive
from tests.harness import order, states
from tests.jobs import request
from tests.sql.conftest import Flow

DAY_SECONDS = 86_400


def keyed(key: str = "k", *, tenant: UUID | None = None, window: float | None = None) -> JobRequest:
    return JobRequest("upkeep.probe", {}, tenant_id=tenant, dedup_key=key, dedup_window_seconds=window)


def test_a_second_order_with_the_key_of_an_unfinished_job_is_that_job(database: Engine) -> None:
    with database.begin() as tx:
        [first] = enqueue(tx, [keyed()])
    with database.begin() as tx:
        [second] = enqueue(tx, [keyed()])
        assert (first.created, second) == (True, Enqueued(first.id, created=False))
        assert states(tx) == {"waiting": 1}


def test_of_twins_in_one_statement_the_first_is_ordered(database: Engine) -> None:
    with database.begin() as tx:
        made = enqueue(tx, [keyed("a"), keyed("b"), keyed("a"), keyed("a")])
        assert [item.created for item in made] == [True, True, False, False]
        assert made[0].id == made[2].id == made[3].id
        assert states(tx) == {"waiting": 2}


def test_a_key_means_its_own_tenant_and_type_only(database: Engine) -> None:
    one, two = uuid4(), uuid4()
    with database.begin() as tx:
        made = enqueue(
            tx,
            [
                keyed(tenant=one),
                keyed(tenant=two),
                keyed(),
                JobRequest("compliance.refresh", {"local_date": "2026-11-24"}, tenant_id=one, dedup_key="k"),
            ],
        )
        assert [item.created for item in made] == [True] * 4


def test_orders_without_a_key_are_never_the_same(database: Engine) -> None:
    with database.begin() as tx:
        order(tx, *[JobRequest("upkeep.probe", {}) for _ in range(5)])
        assert states(tx) == {"waiting": 5}


def _run(flow: Flow, **options: object) -> UUID:
    """Order a keyed job and let it run; its id."""
    [job_id] = flow.order(request("test.each", dedup_key="k", **options))
    flow.relay()
    flow.work()
    return job_id


def test_a_finished_job_frees_its_key(flow: Flow) -> None:
    first, second = _run(flow), _run(flow)
    assert first != second
    assert flow.effects() == {first: 1, second: 1}


def test_a_dead_job_frees_its_key(flow: Flow) -> None:
    first = _run(flow, do="give_up")
    assert flow.job(first).state == "dead"
    assert _run(flow) != first


def test_a_job_that_waits_for_its_next_attempt_keeps_its_key(flow: Flow) -> None:
    [first] = flow.order(request("test.each", dedup_key="k", do="retry", delay=600))
    flow.relay()
    flow.deliver(flow.receive())
    assert flow.job(first).state == "retrying"
    assert flow.order(request("test.each", dedup_key="k")) == [first]


def test_a_window_outlasts_the_job(flow: Flow) -> None:
    first = _run(flow, dedup_window_seconds=DAY_SECONDS)
    assert flow.job(first).state == "completed"
    assert _run(flow, dedup_window_seconds=DAY_SECONDS) == first
    assert flow.effects() == {first: 1}


def test_a_window_that_has_ended_frees_the_key_even_before_the_sweep(database: Engine) -> None:
    with database.begin() as tx:
        [first] = order(tx, keyed(window=0.05))
    time.sleep(0.06)
    with database.begin() as tx:
        [second] = enqueue(tx, [keyed(window=DAY_SECONDS)])
        assert second.created
        assert second.id != first
    with database.begin() as tx:
        assert order(tx, keyed()) == [second.id]


def test_a_thousand_orders_of_one_key_at_once_make_one_job(database: Engine, observer: Engine) -> None:
    def order_some(_: int) -> list[Enqueued]:
        with observer.begin() as tx:
            return enqueue(tx, [keyed(), keyed()]) + enqueue(tx, [keyed() for _ in range(8)])

    with ThreadPoolExecutor(4) as threads:
        made = [item for items in threads.map(order_some, range(100)) for item in items]
    assert len(made) == 1000
    assert len({item.id for item in made}) == 1
    assert sum(item.created for item in made) == 1
    with database.begin() as tx:
        assert states(tx) == {"waiting": 1}
        assert conservation(tx).holds


def test_many_keys_ordered_at_once_in_any_order_neither_deadlock_nor_double(database: Engine, observer: Engine) -> None:
    keys = [f"key-{number}" for number in range(20)]

    def order_all(seed: int) -> list[Enqueued]:
        shuffled = random.Random(seed).sample(keys, len(keys))
        with observer.begin() as tx:
            return enqueue(tx, [keyed(key) for key in shuffled])

    with ThreadPoolExecutor(4) as threads:
        made = [item for items in threads.map(order_all, range(40)) for item in items]
    assert sum(item.created for item in made) == len(keys)
    assert len({item.id for item in made}) == len(keys)


def test_a_dead_job_does_not_live_again_while_another_holds_the_key_that_it_had(flow: Flow) -> None:
    first = _run(flow, do="give_up")
    [second] = flow.order(request("test.each", dedup_key="k", delay_seconds=600))
    flow.rows("UPDATE jobs SET payload = '{}' WHERE id = :id", id=first)
    with flow.observer.begin() as tx:
        assert redrive(tx, [first]) == ([], [first])
    assert flow.job(first).state == "dead"
    assert flow.order(request("test.each", dedup_key="k")) == [second]
