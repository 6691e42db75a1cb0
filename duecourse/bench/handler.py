"""The worker on Lambda's terms: its handler called with SQS events of ten, against a bare Powertools batch handler."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import partial
from itertools import count
from statistics import median
from typing import Any

from duecourse.bench import feed, jobs
from duecourse.bench.bench import Bench
from duecourse.bench.measure import Figure, Result
from functions.core.errors import DuecourseError
from functions.db.engine import transaction
from functions.pipeline.enqueue import enqueue
from functions.pipeline.worker import handle

BATCH = 10
WARM_UP = 10
"""Invocations that are not counted: imports, the connection, the first plans."""
MEGABYTE = 1024 * 1024
_runs = count()


def serve(event: Any, context: Any) -> dict[str, Any]:
    """Our worker over the benchmark's own jobs."""
    return handle(event, context, queue="bench", catalog=jobs.CATALOG)


def run(bench: Bench) -> Result:
    """Milliseconds an invocation, wall and processor, and memory."""
    result = Result()
    invocations, rounds = (60, 3) if bench.small else (200, 5)
    with feed.environment(), bench.postgres.under_test("bench_handler"):
        jobs.install()
        contestants = {
            "duecourse": partial(process, "duecourse.bench.handler:serve", "bench.each", invocations),
            "duecourse, a set": partial(process, "duecourse.bench.handler:serve", "bench.set", invocations),
            "bare": partial(process, "duecourse.bench.bare:batch", "bench.each", invocations),
        }
        reports: dict[str, list[dict[str, float]]] = {name: [] for name in contestants}
        for _ in range(rounds):
            for name, contestant in contestants.items():
                reports[name].append(contestant())
    for name, found in reports.items():
        for measure, unit in (("cpu", "ms"), ("wall", "ms"), ("memory", "MB")):
            result.figures[f"{name} {measure}"] = Figure.of([report[measure] for report in found], unit)
    for name in ("duecourse", "duecourse, a set"):
        pairs = zip(reports[name], reports["bare"], strict=True)
        result.figures[f"{name} over bare"] = Figure.of([mine["cpu"] - bare["cpu"] for mine, bare in pairs], "ms")
    bare = "a bare Powertools batch handler, ten messages (a difference, in ms)"
    result.limit("handler_cpu_ms_over_bare", "duecourse over bare", against=bare, target=8)
    return result


def process(handler: str, job_type: str, invocations: int, size: int = BATCH) -> dict[str, float]:
    """Medians of a process of its own."""
    events = [_event(job_type, size) for _ in range(invocations + WARM_UP)]
    report = invoke({"handler": handler, "events": events, "all_succeed": True})
    served = report["served"][WARM_UP:]
    return {
        "cpu": median(item["cpu"] for item in served) * 1000,
        "wall": median(item["wall"] for item in served) * 1000,
        "memory": report["memory"] / MEGABYTE,
    }


def invoke(order: dict[str, Any]) -> dict[str, Any]:
    """The report of duecourse.bench.lambda_process."""
    done = subprocess.run(
        [sys.executable, "-m", "duecourse.bench.lambda_process"],
        input=json.dumps(order),
        env=dict(os.environ),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    if done.returncode != 0:
        raise DuecourseError(f"{order['handler']} failed: {done.stderr.strip().splitlines()[-1:]}")
    report: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return report


def _event(job_type: str, size: int) -> dict[str, Any]:
    requests = jobs.requests(size, prefix=f"run-{next(_runs)}", job_type=job_type)
    with transaction() as tx:
        made = enqueue(tx, requests, catalog=jobs.CATALOG)
    return feed.event([(item.id, job_type, None) for item in made])
