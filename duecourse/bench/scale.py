"""Ten million finished jobs in the ledger: claim, settle, list and prune, in turns with an empty one."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import date
from functools import partial
from typing import Any
from uuid import UUID

from sqlalchemy import Row, text

from duecourse.bench import drain, feed, jobs, overhead
from duecourse.bench.bench import Bench
from duecourse.bench.measure import Figure, Result
from duecourse.bench.servers import used
from functions.core.chunks import chunks
from functions.core.errors import DuecourseError
from functions.db.engine import engine, transaction
from functions.db.sessions import lift_limits
from functions.pipeline import months

MONTHS = 10
BATCH = 100
PAGE = 50
ROUNDS, RUNS = 6, 5
PRUNED = 3
BUSY, WARM_SECONDS = 10_000, 0.2

MONTH = text("SELECT ensure_partition('jobs', :name, :least, :beyond)")
# Straight into the partition, as if each had been ordered, run and settled in that month.
FILL = """
    INSERT INTO jobs_{name} (id, queue, type, state, payload, priority, correlation_id, run_at, sent_at, started_at,
                             runs, created_at, closed_at)
    SELECT id, 'bench', 'bench.set', 'completed', '{{"n": 1, "note": "a job that does nothing"}}', 0, CAST(id AS text),
           at, at, at, 1, at, at
    FROM generate_series(1, :rows) AS n,
        LATERAL (SELECT CAST(:month AS timestamptz) + n * (interval '27 days' / :rows) AS at) AS instant,
        LATERAL (SELECT CAST(extract(epoch FROM at) * 1e6 AS bigint) AS us) AS micro,
        LATERAL (SELECT uuid7_of(us, '8' || lpad(to_hex(n), 15, '0')) AS id) AS m"""
BOUNDS = text("""
    SELECT to_char(month, 'YYYY_MM') AS name, month, uuid7_floor(month) AS least,
           uuid7_floor(month + interval '1 month') AS beyond
    FROM generate_series(1, :months) AS n, date_trunc('month', now() - n * interval '1 month') AS month
    ORDER BY month
""")
COUNTED = text("""
    INSERT INTO job_count_deltas (queue, type, state, delta)
    SELECT 'bench', 'bench.set', unnest(ARRAY['completed', 'enqueued']), :rows
""")
NEWEST = text("""
    SELECT id, type, state, tenant_id, run_at, closed_at FROM jobs WHERE queue = 'bench' AND id < :before
    ORDER BY id DESC LIMIT :page
""")
LAST = UUID(int=2**128 - 1)


def run(bench: Bench) -> Result:
    """Milliseconds of each operation on an empty and on a full ledger."""
    result = Result()
    rows = 20_000 if bench.small else 1_000_000
    with (
        feed.environment(),
        bench.postgres.database("bench_scale_empty") as empty,
        bench.postgres.database("bench_scale_full") as full,
    ):
        for url in (empty, full):
            with used(url):
                jobs.install()
                partitions = _partitions()
        with used(full):
            started = time.perf_counter()
            _fill(partitions, rows)
            result.details |= {"jobs": rows * MONTHS, "seconds_to_fill": round(time.perf_counter() - started, 1)}
        found: dict[str, list[float]] = {}
        for _ in range(ROUNDS):
            for situation, url in (("empty", empty), ("full", full)):
                with used(url):
                    _measure(found, situation)
        result.figures |= {name: Figure.of(values, "ms") for name, values in found.items()}
        with used(full):
            _prune(result, [row.month.date() for row in partitions[:PRUNED]])
    for name in ("claim and settle", "list a page"):
        result.compare(
            f"scale_{name.replace(' ', '_')}", f"{name}, full", [f"{name}, empty"], sense="at most", target=1.3,
            against=f"a ledger without the {rows * MONTHS:,} finished jobs",
        )  # fmt: skip
    if not bench.small:
        month = f"a month of {rows:,} jobs"
        result.limit("scale_prune", "prune a month", against=f"a tenth of a second, for {month}", target=1, over=100)
        result.limit(
            "scale_prune_wait", "a worker's slowest batch, meanwhile", against=f"a tenth of a second, beside {month}",
            target=1, over=100,
        )  # fmt: skip
    return result


def _measure(found: dict[str, list[float]], situation: str) -> None:
    """The first batch of a connection is not counted: it is planned."""
    ids = overhead.waiting_jobs(BATCH * (RUNS + 1))
    settled = [_timed(partial(drain.serve, batch)) for batch in chunks(ids, BATCH)]
    found.setdefault(f"claim and settle, {situation}", []).extend(settled[1:])
    listed = [_timed(_list) for _ in range(RUNS + 1)]
    found.setdefault(f"list a page, {situation}", []).extend(listed[1:])


def _timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return (time.perf_counter() - started) * 1000


def _list() -> None:
    with transaction() as tx:
        if len(tx.execute(NEWEST, {"before": LAST, "page": PAGE}).all()) != PAGE:
            raise DuecourseError("a page is not full")


def _prune(result: Result, old: Sequence[date]) -> None:
    """As the sweep does, beside a busy worker: a month is read through first, and only its removal locks the ledger."""
    found: dict[str, list[float]] = {}
    for month in old:
        _, slowest = _beside_a_worker(lambda: None)
        found.setdefault("a worker's slowest batch", []).append(slowest)
        started = time.perf_counter()
        tallied = months.tally(month)
        found.setdefault("read a month through", []).append((time.perf_counter() - started) * 1000)
        spent, slowest = _beside_a_worker(partial(months.drop, month, tallied))
        found.setdefault("prune a month", []).append(spent)
        found.setdefault("a worker's slowest batch, meanwhile", []).append(slowest)
    result.figures |= {name: Figure.of(values, "ms") for name, values in found.items()}


def _beside_a_worker(work: Callable[[], object]) -> tuple[float, float]:
    """Milliseconds that the work took, and the slowest batch of a worker that claimed and settled all the while."""
    drain = overhead.Drain(overhead.waiting_jobs(BUSY), BATCH)
    drain.await_ready()
    drain.go()
    time.sleep(WARM_SECONDS)
    spent = _timed(work)
    report = drain.report()
    if report["seconds"] < WARM_SECONDS + spent / 1000:
        raise DuecourseError(f"the worker was done before the work beside it: give it more than {BUSY} jobs")
    return spent, report["slowest_batch_seconds"] * 1000


def _partitions() -> Sequence[Row[Any]]:
    """The months' partitions, empty: with them the empty ledger has as many to plan for as the full one."""
    with transaction() as tx:
        partitions = tx.execute(BOUNDS, {"months": MONTHS}).all()
        for row in partitions:
            tx.execute(MONTH, {"name": row.name, "least": row.least, "beyond": row.beyond})
    return partitions


def _fill(partitions: Sequence[Row[Any]], rows: int) -> None:
    for row in partitions:
        with transaction() as tx:
            lift_limits(tx)
            tx.execute(text(FILL.format(name=row.name)), {"month": row.month, "rows": rows})
            tx.execute(COUNTED, {"rows": rows})
    with engine().connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        lift_limits(connection, whole_session=True)
        connection.execute(text("VACUUM ANALYZE jobs"))
        connection.execute(text("CHECKPOINT"))
