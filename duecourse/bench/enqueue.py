"""Orders in batches of 1,000 with a deduplication key each, committed, against the same of our rivals."""

from __future__ import annotations

import gc
import time
from itertools import count

from duecourse.bench import jobs
from duecourse.bench.bench import Bench
from duecourse.bench.measure import Result, take_turns
from duecourse.bench.servers import running_redis
from functions.core.chunks import chunks
from functions.db.engine import transaction
from functions.pipeline.enqueue import ORDERS_PER_STATEMENT, enqueue

CELERY_SHARE = 10
"""Celery gets a tenth of the jobs: it takes one at a time, and its rate does not depend on how many."""
UNIT = "jobs/s"


def run(bench: Bench) -> Result:
    """Jobs per second of each."""
    result = Result()
    number, rounds = (20_000, 3) if bench.small else (50_000, 5)
    runs = count()
    with (
        bench.postgres.under_test("bench_enqueue"),
        bench.postgres.database("bench_rivals", migrated=False) as url,
        running_redis(bench.peers) as redis,
    ):
        jobs.install()
        ours(number, next(runs))  # the first statements of a connection are planned
        node, python = bench.peers.node, bench.peers.python_program
        contestants = {
            "duecourse": lambda: ours(number, next(runs)),
            "bullmq": lambda: bench.rival([*node("bullmq.mjs"), "enqueue", str(redis), str(number)]),
            "pg-boss": lambda: bench.rival([*node("pgboss.mjs"), "enqueue", url, str(number)]),
            "procrastinate": lambda: bench.rival([*python("procrastinate_peer.py"), "enqueue", url, str(number)]),
            "celery": lambda: bench.rival(
                [*python("celery_peer.py"), "enqueue", str(redis), str(number // CELERY_SHARE)]
            ),
        }
        take_turns(contestants, rounds, result, UNIT)
    result.compare("enqueue_over_bullmq", "duecourse", ["bullmq"], against="BullMQ addBulk", target=1.5)
    result.compare("enqueue_over_procrastinate", "duecourse", ["procrastinate"], against="Procrastinate", target=3)
    result.compare("enqueue_over_pg_boss", "duecourse", ["pg-boss"], against="pg-boss insert")
    result.compare("enqueue_over_celery", "duecourse", ["celery"], against="Celery delay")
    return result


def ours(number: int, run_number: int) -> float:
    """Jobs per second, each batch committed alone."""
    orders = jobs.requests(number, prefix=f"run-{run_number}")
    gc.freeze()  # or the collector looks through the benchmark's own list every few batches
    started = time.perf_counter()
    for batch in chunks(orders, ORDERS_PER_STATEMENT):
        with transaction() as tx:
            enqueue(tx, batch, catalog=jobs.CATALOG)
    seconds = time.perf_counter() - started
    gc.unfreeze()
    return number / seconds
