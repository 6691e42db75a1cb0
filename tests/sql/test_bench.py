"""The benchmark compares like with like: all three ways of refreshing come to the same scores."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest
from sqlalchemy import Engine

from duecourse.bench import drain, feed, jobs, overhead, refresh, refresh_world
from functions.db.engine import transaction
from functions.pipeline.conservation import conservation


@pytest.fixture
def world(database: Engine) -> None:
    with database.begin() as tx:
        refresh_world.build(tx, tenants=3, clients=20)


def test_the_worker_the_bare_statement_and_the_old_algorithm_agree(world: None) -> None:
    everyone = refresh.all_tenants()
    ways: list[Callable[[], float]] = [
        lambda: refresh.whole(everyone),
        refresh.bare,
        lambda: refresh.old(os.environ["DATABASE_URL"], everyone),
    ]
    scores = []
    with feed.environment():
        for work in ways:
            with transaction() as tx:
                tx.exec_driver_sql("TRUNCATE compliance_scores, compliance_score_history")
            work()
            scores.append(refresh.checksum())
    assert scores[0] == scores[1] == scores[2]
    assert scores[0][0] == 60


def test_what_is_drained_is_completed_and_counted(database: Engine) -> None:
    jobs.install()
    ids = overhead.waiting_jobs(25)
    assert drain.serve(ids) == 25
    with transaction() as tx:
        found = conservation(tx)
    assert found.holds
    assert found.states["completed"] == 25
