"""A revived job takes its deduplication key again where that is free; nobody waits, and no key has two open jobs."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from uuid import UUID, uuid4

import pytest
from sqlalchemy import Connection, Engine, text

from functions.pipeline.redrive import Redriven, redrive
from tests.harness import order, probe
from tests.jobs import request
from tests.sql.conftest import Flow

HOLD = text("INSERT INTO job_keys VALUES (:key, :job_id, now() + CAST(:left AS interval))")
PATIENCE_SECONDS = 4.0
"""No revive may wait longer, on a busy machine, for what others hold: its own limits make a second of it."""


def dead(flow: Flow, *keys: str | None) -> list[UUID]:
    ids = flow.order(*(request("test.each", do="give_up") for _ in keys))
    flow.relay()
    flow.work()
    for job_id, key in zip(ids, keys, strict=True):
        flow.rows("UPDATE jobs SET dedup_key = :key WHERE id = :id", key=key, id=job_id)
    return ids


def revive(flow: Flow, *ids: UUID) -> Redriven:
    with flow.observer.begin() as tx:
        return redrive(tx, ids)


def holders(flow: Flow) -> dict[str, UUID]:
    return {row.key: row.job_id for row in flow.rows("SELECT key, job_id FROM job_keys")}


@pytest.mark.parametrize(
    ("holder", "left", "lives"),
    [
        ("nobody", "", True),
        ("itself", "1 hour", True),
        ("itself", "-1 hour", True),
        ("another", "1 hour", False),
        ("another", "-1 hour", True),
        ("a job that is gone", "1 hour", True),
    ],
)
def test_a_key_is_free_where_its_window_has_ended_or_its_job_is_gone(
    flow: Flow, holder: str, left: str, *, lives: bool
) -> None:
    [job_id] = dead(flow, "k")
    [another] = flow.order(request("test.each", delay_seconds=60))
    holding = {"itself": job_id, "another": another, "a job that is gone": uuid4()}.get(holder)
    if holding:
        flow.rows(HOLD.text, key="k", job_id=holding, left=left)
    assert revive(flow, job_id) == (([job_id], []) if lives else ([], [job_id]))
    assert holders(flow) == {"k": job_id if lives else another}
    assert flow.job(job_id).state == ("waiting" if lives else "dead")


def test_of_two_with_one_key_the_older_lives_unless_the_younger_holds_it_still(flow: Flow) -> None:
    older, younger, free = dead(flow, "k", "k", None)
    assert revive(flow, younger, older, free) == ([older, free], [younger])
    older, younger = dead(flow, "l", "l")
    flow.rows(HOLD.text, key="l", job_id=younger, left="1 hour")
    assert revive(flow, older, younger) == ([younger], [older])


def test_a_job_that_is_not_dead_is_given_no_key(flow: Flow) -> None:
    [job_id] = flow.order(request("test.each", dedup_key="k", delay_seconds=60))
    flow.rows("DELETE FROM job_keys")
    assert flow.rows("SELECT * FROM retake_job_keys(:ids)", ids=[job_id, uuid4()]) == []
    assert holders(flow) == {}


@pytest.mark.parametrize("held", ["ordered", "locked"])
def test_a_key_that_somebody_is_at_is_taken_and_the_others_live(flow: Flow, held: str) -> None:
    ids = dead(flow, *(f"k{n}" for n in range(30)))
    keys = [f"k{n}" for n in range(25)]
    with flow.observer.connect() as other, other.begin():
        if held == "locked":
            flow.rows(
                "INSERT INTO job_keys SELECT k, gen_random_uuid(), now() FROM unnest(CAST(:keys AS text[])) AS k",
                keys=keys,
            )
            other.execute(text("SELECT FROM job_keys FOR UPDATE"))
        else:
            other.execute(
                text("INSERT INTO job_keys SELECT k, :id, 'infinity' FROM unnest(CAST(:keys AS text[])) AS k"),
                {"id": ids[0], "keys": keys},
            )
        started = time.monotonic()
        found = revive(flow, *ids)
        assert time.monotonic() - started < PATIENCE_SECONDS
    assert found.revived == ids[25:] or found.revived == []
    assert set(found.left) >= set(ids[:25])


def test_jobs_somebody_else_steers_are_in_neither_list(flow: Flow) -> None:
    first, second = dead(flow, "a", "b")
    with flow.observer.connect() as other, other.begin():
        other.execute(text("SELECT FROM jobs WHERE id = :id FOR UPDATE"), {"id": first})
        assert revive(flow, first, second) == ([second], [])


def test_revives_and_orders_of_the_same_keys_at_once_leave_one_open_job_a_key(flow: Flow) -> None:
    keys = [f"k{n}" for n in range(10)]
    ids = dead(flow, *keys, *keys)

    def act(seed: int) -> None:
        with flow.observer.begin() as tx:
            if seed % 2:
                redrive(tx, ids if seed % 4 == 1 else ids[::-1])
            else:
                _order_like(tx, keys[::-1])

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(act, range(8)))
    for _ in range(2):
        revive(flow, *ids)
    open_jobs = flow.rows(
        "SELECT dedup_key, count(*) AS n FROM jobs WHERE state <> 'dead' AND dedup_key IS NOT NULL GROUP BY dedup_key"
    )
    assert {row.dedup_key: row.n for row in open_jobs} == dict.fromkeys(keys, 1)


def _order_like(tx: Connection, keys: Sequence[str]) -> None:
    """As an order takes keys: those that are free, one statement."""
    ids = order(tx, *(probe() for _ in keys))
    taken = tx.execute(
        text("""INSERT INTO job_keys SELECT k, id, 'infinity' FROM unnest(CAST(:keys AS text[]), CAST(:ids AS uuid[]))
                AS t(k, id) ORDER BY k ON CONFLICT DO NOTHING RETURNING job_id, key"""),
        {"keys": list(keys), "ids": ids},
    )
    for row in taken.all():
        tx.execute(text("UPDATE jobs SET dedup_key = :key WHERE id = :id"), {"key": row.key, "id": row.job_id})


def test_the_migration_goes_back_and_forth_on_a_lived_in_ledger(database: Engine) -> None:
    from alembic import command

    from functions.db.migrate import _alembic_config
    from functions.pipeline import conservation

    with database.begin() as tx:
        order(tx, *(probe() for _ in range(3)))
        command.downgrade(_alembic_config(tx), "0013")
        order(tx, *(probe() for _ in range(3)))
    with database.begin() as tx:
        command.upgrade(_alembic_config(tx), "head")
        order(tx, *(probe() for _ in range(3)))
        assert conservation.check(tx).holds
        assert conservation.conservation(tx).enqueued == 9
