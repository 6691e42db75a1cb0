"""The counts of jobs by state stay exact while the sweep folds them, and tell when a row was deleted by hand."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import Engine, text

from duecourse.local.delivery import Context
from functions.pipeline import sweep
from functions.pipeline.conservation import conservation
from functions.pipeline.sweep import FOLD
from tests.harness import Queues, order, probe, states
from tests.jobs import request
from tests.sql.conftest import Flow


def test_folding_moves_the_deltas_into_totals(flow: Flow) -> None:
    flow.order(*[request("test.each") for _ in range(3)])
    flow.relay()
    flow.work()
    before = flow.conservation()
    flow.sweep()
    assert flow.rows("SELECT * FROM job_count_deltas") == []
    assert flow.conservation() == before
    totals = {row.state: row.n for row in flow.rows("SELECT state, count AS n FROM job_counts WHERE count <> 0")}
    assert totals == {"enqueued": 3, "completed": 3}
    assert flow.sweep()["folded"] == 0


def test_counts_are_exact_at_every_instant_while_jobs_move_and_sweeps_fold(database: Engine, observer: Engine) -> None:
    stop = threading.Event()
    broken: list[object] = []

    def until_stopped(act: Callable[[], None]) -> None:
        while not stop.is_set():
            act()

    def fold() -> None:
        with observer.begin() as tx:
            tx.execute(FOLD)

    def look() -> None:
        with observer.begin() as tx:
            found = conservation(tx)
        if not found.holds:
            broken.append(found)

    def move(_: int) -> None:
        for _round in range(6):
            with observer.begin() as tx:
                ids = order(tx, probe(), probe(), probe())
            with observer.begin() as tx:
                tx.execute(
                    text("UPDATE jobs SET state = 'cancelled', closed_at = now() WHERE id = ANY(:ids)"),
                    {"ids": ids[:2]},
                )

    with ThreadPoolExecutor(6) as threads:
        background = [threads.submit(until_stopped, act) for act in (fold, fold, look)]
        list(threads.map(move, range(5)))
        stop.set()
        for task in background:
            task.result(timeout=30)
    fold()
    assert broken == []
    with observer.begin() as tx:
        assert states(tx) == {"cancelled": 60, "waiting": 30}
        totals = {row.state: row.n for row in tx.execute(text("SELECT state, count AS n FROM job_counts"))}
    assert totals == {"enqueued": 90, "waiting": 30, "cancelled": 60}


def test_a_row_deleted_by_hand_is_reported(
    database: Engine, queues: Queues, capsys: pytest.CaptureFixture[str]
) -> None:
    with database.begin() as tx:
        order(tx, probe(), probe())
    assert sweep.handler({}, Context())["conservation"] is True
    with database.begin() as tx:
        tx.execute(text("DELETE FROM jobs WHERE id = (SELECT min(id::text)::uuid FROM jobs)"))
    assert sweep.handler({}, Context())["conservation"] is False
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines() if "ConservationHolds" in line]
    assert [line["ConservationHolds"] for line in lines] == [[1.0], [0.0]]
