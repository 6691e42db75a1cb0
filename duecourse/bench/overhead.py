"""What the ledger costs a job that does nothing: claim and settle, the full schema and fencing on, against what our
rivals process.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import count
from typing import Any
from uuid import UUID

from sqlalchemy import text

from duecourse.bench import jobs
from duecourse.bench.bench import Bench
from duecourse.bench.measure import Result, take_turns
from duecourse.bench.servers import Postgres, running_redis
from functions.core.chunks import chunks
from functions.core.errors import DuecourseError
from functions.db.engine import transaction
from functions.pipeline.enqueue import ORDERS_PER_STATEMENT, insert_orders

JOBS = {1: 400, 10: 3_000, 100: 8_000, 1_000: 15_000}
"""By size of batch, for each connection: a second or so."""
CONNECTIONS = (1, 2, 4)
BULLMQ = ((32, 1), (100, 1), (100, 2))
"""Concurrency and workers: where it was fastest."""
CELERY_SHARE = 5
"""Celery gets a fifth of BullMQ's jobs: it is slower by more."""
UNIT = "jobs/s"
_runs = count()


def run(bench: Bench) -> Result:
    """Jobs per second of each size of batch and number of connections, and of each rival."""
    result = Result()
    number, rounds = (10_000, 3) if bench.small else (50_000, 5)
    sizes = (100, 1_000) if bench.small else tuple(JOBS)
    with (
        bench.postgres.under_test("bench_overhead"),
        bench.postgres.database("bench_rivals", migrated=False) as url,
        running_redis(bench.peers) as redis,
    ):
        jobs.install()
        contestants: dict[str, Callable[[], float]] = {
            f"duecourse {size} x {connections}": partial(ours, bench.postgres, size, connections)
            for size in sizes
            for connections in CONNECTIONS[: 2 if bench.small else None]
        }
        node, python = bench.peers.node, bench.peers.python_program
        for concurrency, workers in BULLMQ[: 2 if bench.small else None]:
            command = ["process", str(redis), str(number), str(concurrency), str(workers)]
            contestants[f"bullmq {concurrency} x {workers}"] = partial(_rival, bench, node, "bullmq.mjs", command)
        command = ["process", str(redis), str(number // CELERY_SHARE), "2"]
        contestants["celery"] = partial(_rival, bench, python, "celery_peer.py", command)
        if not bench.small:
            command = ["process", url, str(number // 5), "1000"]
            contestants["pg-boss"] = partial(_rival, bench, node, "pgboss.mjs", command)
            command = ["process", url, "1000", "10"]
            contestants["procrastinate"] = partial(_rival, bench, python, "procrastinate_peer.py", command)
        take_turns(contestants, rounds, result, UNIT)
    _compare(result)
    return result


def _compare(result: Result) -> None:
    ours_best = max(
        (name for name in result.figures if name.startswith("duecourse 100")),
        key=lambda name: result.figures[name].value,
        default="duecourse",
    )
    result.details["best"] = ours_best
    bullmq = [name for name in result.figures if name.startswith("bullmq")]
    result.compare("overhead_over_bullmq", ours_best, bullmq, against="BullMQ's best rate", target=1)
    result.compare("overhead_over_celery", ours_best, ["celery"], against="Celery, two processes", target=10)
    if "pg-boss" in result.figures:
        result.compare("overhead_over_pg_boss", ours_best, ["pg-boss"], against="pg-boss, 1,000 a fetch")
    if "procrastinate" in result.figures:
        result.compare(
            "overhead_over_procrastinate", ours_best, ["procrastinate"], against="Procrastinate, concurrency 10"
        )


def _rival(bench: Bench, program: Callable[[str], list[str]], script: str, arguments: list[str]) -> float:
    return bench.rival([*program(script), *arguments])


def ours(postgres: Postgres, batch: int, connections: int) -> float:
    """Jobs per second, all connections together: from the word to go until the last has settled."""
    number = JOBS[batch]
    shares = [waiting_jobs(number) for _ in range(connections)]
    with postgres.administration() as admin:
        admin.execute(text("CHECKPOINT"))  # nobody pays for what came before
    drains = [Drain(ids, batch) for ids in shares]
    for drain in drains:
        drain.await_ready()
    started = time.perf_counter()
    for drain in drains:
        drain.go()
    reports = [drain.report() for drain in drains]
    seconds = time.perf_counter() - started
    done = sum(int(report["jobs"]) for report in reports)
    if done != number * connections:
        raise DuecourseError(f"only {done} of {number * connections} jobs were settled")
    return done / seconds


class Drain:
    """A process that claims and settles these jobs in batches: `duecourse.bench.drain`."""

    def __init__(self, ids: Sequence[UUID], batch: int) -> None:
        self._program: Any = subprocess.Popen(
            [sys.executable, "-m", "duecourse.bench.drain"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._say(json.dumps({"ids": [str(item) for item in ids], "batch": batch}))

    def await_ready(self) -> None:
        """Wait until it is connected."""
        if self._program.stdout.readline() != "ready\n":
            raise DuecourseError("a process of the benchmark did not start")

    def go(self) -> None:
        """Let it begin."""
        self._say("go")

    def report(self) -> dict[str, Any]:
        """Wait for its end; what it prints of itself."""
        said: dict[str, Any] = json.loads(self._program.stdout.readline())
        self._program.communicate()
        return said

    def _say(self, line: str) -> None:
        self._program.stdin.write(f"{line}\n")
        self._program.stdin.flush()


def waiting_jobs(number: int) -> list[UUID]:
    """Ids of jobs that were ordered and sent."""
    made: list[UUID] = []
    run_number = next(_runs)
    orders: list[dict[str, Any]] = [
        {
            "type": "bench.set",
            "payload": {"n": n, "note": jobs.NOTE},
            "dedup_key": f"run-{run_number}-{n}",
            "sent": True,
        }
        for n in range(number)
    ]
    for part in chunks(orders, ORDERS_PER_STATEMENT):
        with transaction() as tx:
            made += [item.id for item in insert_orders(tx, part)]
    return made
