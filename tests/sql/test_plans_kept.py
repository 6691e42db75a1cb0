"""A session keeps the plans of the functions that it calls. Made on an empty ledger, they must serve a grown one."""

from __future__ import annotations

import pytest
from sqlalchemy import text

from functions.core.job import JobRequest
from functions.db.engine import transaction
from functions.pipeline.enqueue import enqueue
from functions.pipeline.keys import decide_contested
from functions.pipeline.redrive import redrive
from tests import jobs
from tests.jobs import request
from tests.sql.conftest import Flow

GROWN = 20_000
TIMES = 6
"""PostgreSQL thinks about keeping a plan from the sixth execution on."""
MOST_READ = GROWN // 4
"""Rows that a few jobs may read on their way, whatever lies beside them."""

# Of jobs that have ended and of such that wait, with and without a key; and nobody tells the planner of them.
GROW = """
    INSERT INTO jobs (id, queue, type, state, tenant_id, payload, priority, correlation_id, dedup_key, run_at, attempts,
                      runs, died_at, closed_at, group_key, turn, outbox_at)
    SELECT uuid7(now() - n * interval '1 second'), kind.queue, kind.type, kind.state, NULL, '{}', 0, n::text,
           CASE WHEN mod(n, 2) = 0 THEN 'key-' || n END, now() + kind.wait, 1, 1,
           CASE kind.state WHEN 'dead' THEN now() END, CASE kind.state WHEN 'completed' THEN now() END,
           kind.group_key, CASE WHEN kind.state = 'delayed' AND kind.group_key IS NOT NULL THEN now() + kind.wait END,
           CASE kind.state WHEN 'delayed' THEN now() + kind.wait END
    FROM generate_series(1, :rows) AS n, LATERAL (VALUES
        (0, 'standard', 'test.each', 'completed', interval '0', NULL),
        (1, 'standard', 'test.each', 'dead', interval '0', NULL),
        (2, 'standard', 'test.each', 'delayed', interval '1 day', NULL),
        (3, 'ordered', 'test.ordered', 'completed', interval '0', 'a'),
        (4, 'ordered', 'test.ordered', 'delayed', interval '1 day', 'a')
    ) AS kind(number, queue, type, state, wait, group_key)
    WHERE kind.number = mod(n, 5)
"""
GROW_KEYS = """
    INSERT INTO job_keys (key, job_id, expires_at)
    SELECT dedup_key, id, CASE WHEN closed_at IS NULL THEN 'infinity' ELSE now() + interval '1 day' END
    FROM jobs WHERE starts_with(dedup_key, 'key-') AND state <> 'dead'
"""
HAND_IN = "SELECT pg_stat_force_next_flush()"
"""At the commit, before it is answered: otherwise a session counts for itself for a while, and until after its end."""
READ = """
    SELECT coalesce(sum(seq_tup_read + coalesce(idx_tup_fetch, 0)), 0)
    FROM pg_stat_user_tables WHERE starts_with(relname, 'job') OR relname = 'contested_keys'
"""


@pytest.mark.parametrize("analyzed", [None, 0, 3])
def test_what_a_few_jobs_read_does_not_grow_with_the_ledger(flow: Flow, analyzed: int | None) -> None:
    """Whether and when statistics were made of the small ledger: at once, or before the plans were to be kept."""
    for number in range(TIMES):
        _all_that_a_session_does(flow, f"small-{number}")
        if number == analyzed:
            with flow.observer.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
                connection.exec_driver_sql("VACUUM ANALYZE")
    with flow.observer.begin() as tx:
        tx.execute(text(GROW), {"rows": GROWN})
        tx.execute(text(GROW_KEYS))
        tx.execute(text(HAND_IN))
    before = _read(flow)
    _all_that_a_session_does(flow, "grown")
    assert _read(flow) - before < MOST_READ


def _all_that_a_session_does(flow: Flow, prefix: str) -> None:
    """Orders without and with keys: free, held, contested, with a window. Relay, claim, settle, death and redrive."""
    kept = [
        request("test.each", dedup_key=f"{prefix}-{n}", dedup_window_seconds=60 * (n % 2) or None) for n in range(8)
    ]
    ordered = [request("test.ordered", group="b", dedup_key=f"{prefix}-ordered-{n}") for n in range(4)]
    plain = [request("test.each") for _ in range(4)]
    _order(*kept, *ordered, *plain)
    _order(*kept)
    with flow.observer.begin() as other:
        enqueue(other, [request("test.each", dedup_key=f"{prefix}-contested")], catalog=jobs.CATALOG)
        _order(request("test.each", dedup_key=f"{prefix}-contested"))
    with transaction() as tx:
        assert decide_contested(tx, catalog=jobs.CATALOG) == 1
        [dies] = enqueue(tx, [request("test.each", do="give_up", dedup_key=f"{prefix}-dies")], catalog=jobs.CATALOG)
    flow.relay()
    flow.work()
    flow.work("ordered")
    with transaction() as tx:
        assert redrive(tx, [dies.id]).revived == [dies.id]


def _order(*requests: JobRequest) -> None:
    with transaction() as tx:
        enqueue(tx, requests, catalog=jobs.CATALOG)


def _read(flow: Flow) -> int:
    """Rows of the ledger's tables that anybody has read so far."""
    with transaction() as tx:
        tx.execute(text(HAND_IN))
    [row] = flow.rows(READ)
    return int(row[0])


def test_no_function_that_forbids_a_kind_of_plan_is_compiled(flow: Flow) -> None:
    """Before version 18 a forbidden plan that is taken all the same counts as so dear that PostgreSQL compiles it,
    which takes hundreds of milliseconds at each call: longer than an order waits for a key.
    """
    rows = flow.rows("SELECT proname, proconfig FROM pg_proc WHERE array_to_string(proconfig, ' ') LIKE '%enable_%'")
    assert {row.proname for row in rows} >= {"enqueue_jobs", "held_keys", "take_due", "due_lanes", "jobs_transition"}
    assert [row.proname for row in rows if "jit=off" not in row.proconfig] == []
