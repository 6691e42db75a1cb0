"""A look at the outbox costs the same whatever is due, and marking costs the same whatever a connection did before."""

from __future__ import annotations

import re
import time

import pytest
from sqlalchemy import Connection, text

from functions.core.catalog import CATALOG
from functions.db.engine import pg_array, transaction
from functions.pipeline import gauges, relay
from tests.lanes import Due, Lanes

MONTHS = 12
MARKED = 3_000

MAKE_MONTH = text("""
    SELECT ensure_partition('jobs', to_char(month, 'YYYY_MM'), uuid7_floor(month), uuid7_floor(month + span))
    FROM (SELECT date_trunc('month', now()) - :ago * interval '1 month' AS month, interval '1 month' AS span) AS m
""")
# Over all months, to be sent a second ago and before; in a FIFO queue by groups.
FILL = text("""
    INSERT INTO jobs (id, queue, type, state, payload, priority, correlation_id, run_at, outbox_at, group_key, turn)
    SELECT uuid7(now() - mod(n, 330) * interval '1 day'), name, 'upkeep.probe', 'waiting', '{}', mod(n, 3) - 1, 'c',
           due, due, CASE WHEN fifo THEN 'g' || mod(n, 50) END, CASE WHEN fifo THEN due END
    FROM generate_series(1, :rows) AS n, (SELECT name, fifo FROM queues WHERE name = ANY(:queues)) AS q,
         LATERAL (SELECT now() - n * interval '1 millisecond' AS due) AS d
""")
LOOK = "SELECT * FROM due_lanes(now())"
TAKE = f"""
    SELECT * FROM take_due('{pg_array(CATALOG.queues)}', {relay.ROWS_PER_PASS}, '{{}}', '{{}}')
"""
OUTBOX_AGE = str(gauges.OUTBOX_AGE)


def pages(tx: Connection, statement: str) -> int:
    """How many pages a statement reads, its functions' statements included: a measure of work that no other program
    on the machine disturbs. The most of two plans: the one that this session has kept, and a new one.
    """
    most = 0
    for before in ("SELECT 1", "DISCARD PLANS"):
        tx.exec_driver_sql(before)
        tx.execute(text(statement)).all()  # what planning reads is not counted
        plan = "\n".join(row[0] for row in tx.execute(text(f"EXPLAIN (ANALYZE, BUFFERS, COSTS OFF) {statement}")))
        found = re.findall(r"(?:hit|read)=(\d+)", plan.partition("Planning")[0].split("\n")[1])
        most = max(most, sum(map(int, found)))
    return most


@pytest.mark.parametrize(
    ("used", "fresh"), [(False, False), (True, False), (True, True)], ids=["new", "used, stale", "used, fresh"]
)
def test_a_look_costs_the_same_whatever_is_due(lanes: Lanes, used: bool, fresh: bool) -> None:
    """In a new ledger and in one with a history; stale statistics were made when nothing was due."""
    with lanes.observer.begin() as tx:
        for ago in range(1, MONTHS):
            tx.execute(MAKE_MONTH, {"ago": ago})
        tx.execute(FILL, {"rows": 10_000 * used, "queues": ["email-bulk", "email"]})
        tx.execute(text("UPDATE jobs SET state = 'cancelled', closed_at = now(), outbox_at = NULL"))
    with lanes.observer.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("VACUUM ANALYZE jobs")

    with lanes.observer.begin() as tx:
        none = {statement: pages(tx, statement) for statement in (LOOK, OUTBOX_AGE, TAKE)}
        tx.execute(FILL, {"rows": 5_000, "queues": ["email-bulk", "email"]})
        few = pages(tx, TAKE)
        assert few <= none[TAKE] + 30 * relay.ROWS_PER_PASS
        tx.execute(FILL, {"rows": 40_000, "queues": ["email-bulk"]})
        if fresh:
            tx.execute(text("ANALYZE jobs"))
        for statement in (LOOK, OUTBOX_AGE):
            assert pages(tx, statement) <= 3 * none[statement]
        # To take rows costs in proportion to what is taken, and not to what is there.
        assert pages(tx, TAKE) <= 1.2 * few
        tx.execute(text("UPDATE queues SET paused_at = now()"))
        for statement, before in none.items():
            assert pages(tx, statement) <= before


def test_the_age_of_the_outbox_is_that_of_the_oldest_row_due_on_a_queue_that_is_not_paused(lanes: Lanes) -> None:
    def age() -> float:
        with transaction() as tx:
            return gauges.outbox_age_seconds(tx)

    assert age() == 0
    lanes.add(Due("ordered", "g", ago=-3600))
    assert age() == 0
    lanes.add(Due("bulk", ago=50, priority=1), Due("bulk", ago=400, priority=-1), Due("ordered", "g", ago=300))
    assert 400 <= age() < 460
    lanes.rows("UPDATE queues SET paused_at = now() WHERE name = 'bulk'")
    assert 300 <= age() < 360


def test_marking_thousands_costs_a_connection_that_first_marked_single_rows_no_more(lanes: Lanes) -> None:
    """The plan of the transition trigger is kept: made for one row, it was a loop within a loop for thousands."""
    ids = lanes.add(*[Due("bulk")] * (2 * MARKED + 10))

    def mark(tx: Connection, part: list[object]) -> float:
        began = time.perf_counter()
        relay.mark_sent(tx, part)  # type: ignore[arg-type]
        return time.perf_counter() - began

    with lanes.observer.begin() as tx:
        fresh = mark(tx, list(ids[:MARKED]))
    with lanes.observer.begin() as tx:
        for job_id in ids[-10:]:
            mark(tx, [job_id])
        used = mark(tx, list(ids[MARKED : 2 * MARKED]))
    assert used < 4 * fresh + 0.1
