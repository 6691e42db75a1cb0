"""Procrastinate: `enqueue URL JOBS` times batch_defer() of 1,000 jobs; `process URL JOBS CONCURRENCY` times a worker
that does nothing. The last line of output is JSON with the seconds.

Its batch call takes no deduplication key (queueing lock) for each job, and gets none.
"""

import asyncio
import gc
import json
import sys
import time
from typing import Any

from procrastinate import App, PsycopgConnector

BATCH = 1000
CONNECTIONS = 10

mode, url, jobs_text, *rest = sys.argv[1:]
app = App(connector=PsycopgConnector(conninfo=url, min_size=1, max_size=CONNECTIONS))


@app.task(name="empty", queue="bench", pass_context=False)
async def empty(n: int, note: str) -> None:
    """Does nothing."""


async def enqueue(jobs: int) -> float:
    made = [{"n": n, "note": "a job that does nothing"} for n in range(jobs)]
    gc.freeze()  # as for ours
    started = time.perf_counter()
    for first in range(0, jobs, BATCH):
        await empty.batch_defer_async(*made[first : first + BATCH])
    return time.perf_counter() - started


async def process(concurrency: int) -> float:
    started = time.perf_counter()
    await app.run_worker_async(
        queues=["bench"], concurrency=concurrency, wait=False, listen_notify=False, install_signal_handlers=False
    )
    return time.perf_counter() - started


async def main() -> None:
    jobs = int(jobs_text)
    async with app.open_async():
        found = await app.connector.execute_query_one_async("SELECT to_regclass('procrastinate_jobs') AS name")
        if found["name"] is None:
            await app.schema_manager.apply_schema_async()
        await app.connector.execute_query_async("TRUNCATE procrastinate_jobs CASCADE")
        seconds = await enqueue(jobs)
        if mode == "process":
            seconds = await process(int(rest[0]))
        count = "SELECT count(*) AS n FROM procrastinate_jobs WHERE status = %(status)s"
        status = "succeeded" if mode == "process" else "todo"
        row: dict[str, Any] = await app.connector.execute_query_one_async(count, status=status)
        if row["n"] != jobs:
            raise SystemExit(f"{row['n']} jobs are {status}, not {jobs}")
    print(json.dumps({"jobs": jobs, "seconds": seconds}))


asyncio.run(main())
