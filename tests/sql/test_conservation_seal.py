"""The sweep's check of conservation does not read the history, and still finds what was changed by hand."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, Engine, text

from functions.core.job import State
from functions.pipeline import conservation as subject
from functions.pipeline.conservation import check, conservation
from functions.pipeline.months import prune
from tests.partitions import add

NOW = datetime.now(UTC)
OLD = NOW - timedelta(hours=5)


def seal(tx: Connection) -> Any:
    return tx.execute(text("SELECT * FROM job_seal")).one()


def populate(tx: Connection, at: datetime) -> list[UUID]:
    return [add(tx, at + timedelta(minutes=place), state) for place, state in enumerate(State)]


def fill(database: Engine) -> None:
    """Old jobs and young ones, and a seal between them."""
    with database.begin() as tx:
        populate(tx, OLD)
        populate(tx, NOW)
    with database.begin() as tx:
        assert check(tx).holds


def test_what_is_older_than_an_hour_is_counted_once(database: Engine) -> None:
    fill(database)
    with database.begin() as tx:
        assert seal(tx).jobs == len(State)
        plan = json.dumps(
            tx.execute(text(f"EXPLAIN (ANALYZE, TIMING OFF, FORMAT JSON) {subject.SEALED.text}")).scalar()
        )
        assert check(tx) == conservation(tx)
    assert '"Index Name": "jobs_' in plan


@pytest.mark.parametrize("young", [True, False])
@pytest.mark.parametrize("state", State)
def test_a_row_deleted_by_hand_is_found_whatever_it_was_and_until_it_is_recorded(
    database: Engine, state: State, *, young: bool
) -> None:
    fill(database)
    with database.begin() as tx:
        chosen = "DESC" if young else ""
        delete = f"DELETE FROM jobs WHERE id = (SELECT id FROM jobs WHERE state = :state ORDER BY id {chosen} LIMIT 1)"
        tx.execute(text(delete), {"state": state})
    for _ in range(3):
        with database.begin() as tx:
            assert not check(tx).holds
    with database.begin() as tx:
        tx.execute(
            text("""INSERT INTO job_count_deltas (queue, type, state, delta)
                    SELECT 'upkeep', 'upkeep.probe', unnest(ARRAY[:state, 'enqueued']), -1"""),
            {"state": state},
        )
    for _ in range(3):
        with database.begin() as tx:
            assert check(tx).holds


def test_a_state_changed_past_the_trigger_is_found(database: Engine) -> None:
    fill(database)
    with database.begin() as tx:
        tx.execute(text("ALTER TABLE jobs DISABLE TRIGGER jobs_transition"))
        tx.execute(text("UPDATE jobs SET state = 'waiting' WHERE state = 'retrying'"))
        tx.execute(text("ALTER TABLE jobs ENABLE TRIGGER jobs_transition"))
    with database.begin() as tx:
        assert not check(tx).holds


def test_the_recount_goes_through_the_history_piece_by_piece_and_finds_what_is_gone(
    database: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subject, "RECOUNT_ROWS", 3)
    with database.begin() as tx:
        ids = [add(tx, OLD + timedelta(minutes=n), State.COMPLETED) for n in range(10)]
    assert holds(database, times=8) == [True] * 8
    with database.begin() as tx:
        tx.execute(text("DELETE FROM jobs WHERE id = :id"), {"id": ids[0]})
    found = holds(database, times=9)
    assert found[-1] is False
    assert found == sorted(found, reverse=True), "once found, it is said until it is recorded"


def holds(database: Engine, *, times: int) -> list[bool]:
    found = []
    for _ in range(times):
        with database.begin() as tx:
            found.append(check(tx).holds)
    return found


def test_what_comes_late_or_is_pruned_below_the_seal_is_no_difference(database: Engine) -> None:
    fill(database)
    with database.begin() as tx:
        late = add(tx, OLD, State.COMPLETED)
        assert check(tx).holds
        counted = tx.execute(text("SELECT sum(delta) FROM job_count_deltas WHERE state = 'late'")).scalar_one()
        assert counted == 1
    assert prune((NOW + timedelta(days=1)).date()) == 5
    with database.begin() as tx:
        assert tx.execute(text("SELECT id FROM jobs WHERE id = :id"), {"id": late}).first() is None
        assert check(tx).holds
        assert conservation(tx).pruned == 5


STEPS = st.lists(st.sampled_from(["order", "late", "close", "revive", "prune", "fold", "check", "older"]), max_size=14)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS, gone=st.booleans())
def test_the_check_says_what_a_full_count_says_whatever_happened(
    database: Engine, steps: list[str], *, gone: bool
) -> None:
    from functions.pipeline.sweep import FOLD

    with database.connect() as connection:
        transaction = connection.begin()
        tx = connection
        for step in steps:
            match step:
                case "order":
                    populate(tx, NOW)
                case "late":
                    populate(tx, OLD)
                case "close":
                    close = (
                        "UPDATE jobs SET state = 'cancelled', closed_at = now() WHERE state IN ('waiting', 'paused')"
                    )
                    tx.execute(text(close))
                case "revive":
                    tx.execute(text("UPDATE jobs SET state = 'waiting', died_at = NULL WHERE state = 'dead'"))
                case "prune":
                    from functions.pipeline.months import FIRST_ID, PRUNE

                    values = {"before": NOW.date() + timedelta(days=1), "after": FIRST_ID, "most": 3}
                    tx.execute(PRUNE, values)
                case "fold":
                    tx.execute(FOLD)
                case "older":
                    tx.execute(text("DELETE FROM job_seal"))
                    tx.execute(text("INSERT INTO job_seal (late, pruned) SELECT 0, 0"))
                case _:
                    assert check(tx).holds
        if gone:
            gone = bool(tx.execute(text("DELETE FROM jobs WHERE id IN (SELECT id FROM jobs LIMIT 1)")).rowcount)
        assert check(tx).holds is conservation(tx).holds is not gone
        transaction.rollback()


def test_where_the_seal_is_gone_all_is_counted_and_a_new_one_begins(database: Engine) -> None:
    fill(database)
    with database.begin() as tx:
        tx.execute(text("TRUNCATE job_seal"))
        populate(tx, NOW)
    for _ in range(3):
        with database.begin() as tx:
            assert check(tx) == conservation(tx)
    with database.begin() as tx:
        assert seal(tx).jobs == len(State)
