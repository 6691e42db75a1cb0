"""Monthly partitions: made ahead, bounded by the instant in the id, pruned by plans, retired without losing a job."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import Connection, Engine, text

from functions.core.job import State
from functions.db.migrate import MONTHS_AHEAD
from functions.pipeline import months
from functions.pipeline.conservation import conservation
from functions.pipeline.ledger import CLAIM, SETTLE
from tests.harness import states
from tests.partitions import add, home, month, name, partitions, start

MILLISECOND = timedelta(milliseconds=1)


def test_migrating_makes_this_month_the_coming_ones_and_a_default(database: Engine) -> None:
    with database.begin() as tx:
        assert partitions(tx) == sorted([name(ahead) for ahead in range(MONTHS_AHEAD + 1)] + ["jobs_default"])


def test_making_them_again_makes_only_what_is_missing(database: Engine) -> None:
    assert months.keep_ahead() == 0
    with database.begin() as tx:
        tx.execute(text(f"DROP TABLE {name(2)}"))
    assert months.keep_ahead() == 1
    with database.begin() as tx:
        assert name(2) in partitions(tx)
        assert tx.execute(text("SELECT ensure_job_partitions(14)")).scalar_one() == 14 - MONTHS_AHEAD
        assert name(14) in partitions(tx)


@pytest.mark.parametrize("ahead", range(MONTHS_AHEAD + 1))
def test_a_job_lies_in_the_month_of_its_id_to_the_millisecond(database: Engine, ahead: int) -> None:
    with database.begin() as tx:
        assert home(tx, add(tx, start(ahead))) == name(ahead)
        assert home(tx, add(tx, start(ahead + 1) - MILLISECOND)) == name(ahead)


def test_what_no_month_covers_is_kept_in_the_default_partition(database: Engine) -> None:
    with database.begin() as tx:
        for at in (start(0) - MILLISECOND, start(MONTHS_AHEAD + 1), datetime(2001, 1, 1, tzinfo=UTC)):
            assert home(tx, add(tx, at)) == "jobs_default"


def test_a_month_that_was_made_too_late_takes_over_what_the_default_partition_holds_of_it(database: Engine) -> None:
    with database.begin() as tx:
        tx.execute(text(f"DROP TABLE {name(1)}"))
        late = add(tx, start(1) + timedelta(days=3), State.RETRYING)
        other = add(tx, start(MONTHS_AHEAD + 2))
        assert home(tx, late) == "jobs_default"
    assert months.keep_ahead() == 1
    with database.begin() as tx:
        assert (home(tx, late), home(tx, other)) == (name(1), "jobs_default")
        assert states(tx) == {"retrying": 1, "waiting": 1}
        assert conservation(tx).holds


def _plan(tx: Connection, statement: str, values: dict[str, Any]) -> str:
    return "\n".join(row[0] for row in tx.execute(text(f"EXPLAIN (COSTS OFF) {statement}"), values))


def _assert_only(plan: str, *wanted: str) -> None:
    every = {name(ahead) for ahead in range(MONTHS_AHEAD + 1)} | {"jobs_default"}
    assert {partition for partition in every if partition in plan} == set(wanted)


def test_a_look_up_by_ids_reads_only_the_months_of_these_ids(database: Engine) -> None:
    with database.begin() as tx:
        ids = [add(tx, start(0) + timedelta(hours=1)), add(tx, start(1) + timedelta(hours=1))]
        statement = "SELECT * FROM jobs WHERE id = ANY(CAST(:ids AS uuid[]))"
        _assert_only(_plan(tx, statement, {"ids": ids}), name(0), name(1))
        _assert_only(_plan(tx, statement, {"ids": ids[:1]}), name(0))


@pytest.mark.parametrize("statement", [CLAIM, SETTLE], ids=["claim", "settle"])
def test_claim_and_settle_touch_only_the_months_of_the_batch(database: Engine, statement: Any) -> None:
    values = {
        "ids": [],
        "references": [],
        "queue": "upkeep",
        "tallies": "[]",
        "number": 1,
        "token": uuid4(),
        "alone": True,
        "lease_seconds": 60,
        "tolerance": 1,
        "settlements": "[]",
    }
    with database.begin() as tx:
        job_id = add(tx, start(0) + timedelta(hours=1))
        values |= {"ids": [job_id], "references": [f"{job_id}.1"]}
        used = {key: value for key, value in values.items() if f":{key}" in statement.text}
        _assert_only(_plan(tx, statement.text, used), name(0))


def _populate(tx: Connection, at: datetime) -> dict[State, UUID]:
    return {state: add(tx, at + timedelta(hours=place), state, attempts=2) for place, state in enumerate(State)}


def _attempts(tx: Connection, ids: Sequence[UUID]) -> set[UUID]:
    found = tx.execute(text("SELECT DISTINCT job_id FROM job_attempts WHERE job_id = ANY(:ids)"), {"ids": list(ids)})
    return {row.job_id for row in found}


def test_a_retired_month_leaves_what_is_open_or_dead_and_counts_the_rest_as_pruned(database: Engine) -> None:
    with database.begin() as tx:
        old, young = _populate(tx, start(0)), _populate(tx, start(1))
        before = conservation(tx)
        assert before.holds
        assert tx.execute(text("SELECT retire_job_partition(:month)"), {"month": month(0)}).scalar_one() == 2
    with database.begin() as tx:
        after = conservation(tx)
        assert after.holds
        assert (after.enqueued, after.pruned) == (before.enqueued, 2)
        closed = {old[State.COMPLETED], old[State.CANCELLED]}
        kept = set(old.values()) - closed
        assert name(0) not in partitions(tx)
        assert {home(tx, job_id) for job_id in kept} == {"jobs_default"}
        assert {home(tx, job_id) for job_id in young.values()} == {name(1)}
        everyone = [*old.values(), *young.values()]
        assert {row.id for row in tx.execute(text("SELECT id FROM jobs"))} == set(everyone) - closed
        assert _attempts(tx, everyone) == set(everyone) - closed


def test_what_was_finished_between_tally_and_retirement_is_counted_too(database: Engine) -> None:
    with database.begin() as tx:
        old = _populate(tx, start(0))
        tally = tx.execute(text("SELECT tally_job_partition(:month)::text"), {"month": month(0)}).scalar_one()
    with database.begin() as tx:
        tx.execute(
            text("UPDATE jobs SET state = 'cancelled', closed_at = now() WHERE id = ANY(:ids)"),
            {"ids": [old[State.WAITING], old[State.PAUSED]]},
        )
        retire = text("SELECT retire_job_partition(:month, CAST(:tally AS jsonb))")
        assert tx.execute(retire, {"month": month(0), "tally": tally}).scalar_one() == 4
        assert conservation(tx).holds
        assert _attempts(tx, list(old.values())) == set(old.values()) - {
            old[state] for state in (State.COMPLETED, State.CANCELLED, State.WAITING, State.PAUSED)
        }


def test_a_job_that_outlived_its_month_goes_on_and_is_counted_on(database: Engine) -> None:
    with database.begin() as tx:
        job_id = add(tx, start(0), State.DEAD)
        tx.execute(text("SELECT retire_job_partition(:month)"), {"month": month(0)})
        tx.execute(text("UPDATE jobs SET state = 'waiting', died_at = NULL WHERE id = :id"), {"id": job_id})
        assert states(tx) == {"waiting": 1}
        assert conservation(tx).holds


def test_a_month_that_is_not_there_is_retired_already(database: Engine) -> None:
    with database.begin() as tx:
        assert tx.execute(text("SELECT retire_job_partition('2001-01-01')")).scalar_one() == 0


def test_the_sweep_retires_a_month_after_a_full_year_and_not_before(database: Engine) -> None:
    with database.begin() as tx:
        _populate(tx, start(0))
        _populate(tx, start(1))
    assert months.retire_old(month(months.RETENTION_MONTHS)) == 0
    assert months.retire_old(month(months.RETENTION_MONTHS + 1)) == 2
    with database.begin() as tx:
        assert name(0) not in partitions(tx)
        assert name(1) in partitions(tx)
        assert conservation(tx).holds


def test_a_finished_job_that_outlived_its_month_is_pruned_too_in_the_end(database: Engine) -> None:
    with database.begin() as tx:
        job_id = add(tx, start(0), State.DEAD, attempts=1)
    months.retire_old(month(months.RETENTION_MONTHS + 1))
    with database.begin() as tx:
        tx.execute(
            text("UPDATE jobs SET state = 'cancelled', died_at = NULL, closed_at = now() WHERE id = :id"),
            {"id": job_id},
        )
    assert months.retire_old(month(months.RETENTION_MONTHS + 1)) == 1
    with database.begin() as tx:
        assert states(tx) == {}
        assert _attempts(tx, [job_id]) == set()
        assert conservation(tx).holds


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Months that hold three rows are full, and steps take two."""
    monkeypatch.setattr(months, "FEW_ROWS", 3)
    monkeypatch.setattr(months, "PRUNE_ROWS", 2)


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize("kept", [{"jobs": 3}, {"jobs": 1, "attempts": 2}], ids=["dead", "their runs"])
def test_a_month_with_many_dead_stays_and_loses_what_is_finished(database: Engine, kept: dict[str, int]) -> None:
    with database.begin() as tx:
        dead = [
            add(tx, start(0) + timedelta(hours=n), State.DEAD, attempts=kept.get("attempts", 0))
            for n in range(kept["jobs"])
        ]
        done = [add(tx, start(0) + timedelta(hours=20, minutes=n), State.COMPLETED, attempts=1) for n in range(7)]
        young = add(tx, start(1), State.COMPLETED)
    assert months.retire_old(month(months.RETENTION_MONTHS + 1)) == 7
    with database.begin() as tx:
        assert name(0) in partitions(tx)
        assert {row.id for row in tx.execute(text("SELECT id FROM jobs"))} == {*dead, young}
        assert _attempts(tx, [*dead, *done]) == (set(dead) if kept.get("attempts") else set())
        assert conservation(tx).holds
        tx.execute(
            text("UPDATE jobs SET state = 'cancelled', died_at = NULL, closed_at = now() WHERE died_at IS NOT NULL")
        )
    assert months.retire_old(month(months.RETENTION_MONTHS + 1)) == kept["jobs"]
    with database.begin() as tx:
        assert name(0) not in partitions(tx)
        assert conservation(tx).holds


@pytest.mark.usefixtures("few")
def test_what_somebody_holds_is_pruned_by_a_later_sweep(database: Engine, observer: Engine) -> None:
    with database.begin() as tx:
        for n in range(3):
            add(tx, start(0) + timedelta(hours=n), State.DEAD)
        ids = [add(tx, start(0) + timedelta(hours=20, minutes=n), State.COMPLETED) for n in range(5)]
    with observer.connect() as other, other.begin():
        other.execute(text("SELECT FROM jobs WHERE id = :id FOR UPDATE"), {"id": ids[1]})
        assert months.prune(month(1)) == 4
    with database.begin() as tx:
        assert conservation(tx).holds
    assert months.prune(month(1)) == 1


def test_the_ledger_is_locked_shortly_however_many_of_a_month_are_dead(database: Engine, observer: Engine) -> None:
    with database.begin() as tx:
        tx.execute(
            text("""
                INSERT INTO jobs (id, queue, type, state, payload, priority, correlation_id, run_at, sent_at, died_at)
                SELECT uuid7(CAST(:at AS timestamptz) + n * interval '1 second'), 'upkeep', 'upkeep.probe', 'dead',
                       '{}', 0, 'c', now(), now(), now()
                FROM generate_series(1, 20000) AS n
            """),
            {"at": start(0)},
        )
    with observer.connect() as reading, reading.begin():
        # Whoever needs the ledger for himself would fail beside this.
        reading.execute(text("SELECT count(*) FROM jobs"))
        assert months.retire_old(month(months.RETENTION_MONTHS + 1)) == 0
    with database.begin() as tx:
        assert home(tx, tx.execute(text("SELECT id FROM jobs LIMIT 1")).scalar_one()) == name(0)
        assert conservation(tx).holds
