"""Dollars per million jobs and per tenant-month: measured durations at list prices (duecourse/bench/prices.py).

Duecourse puts many jobs into one invocation; the same jobs at one message and one invocation each are beside it.
What is the same either way (the database, the mails, the log's storage) is not counted.
"""

from __future__ import annotations

from collections.abc import Mapping

from duecourse.bench import feed, jobs, prices
from duecourse.bench.bench import Bench
from duecourse.bench.handler import process
from duecourse.bench.measure import Figure, Result

SIZES = (1, 10, 100)
MILLION = 1_000_000
SCHEDULES, DAYS, READERS = 6, 30, 10
JOBS_PER_TENANT_MONTH = DAYS * (SCHEDULES + READERS)
"""Each schedule once a day, and a digest for each of ten readers: the most that a day brings."""


def run(bench: Bench) -> Result:
    """Dollars, by jobs in an invocation."""
    result = Result()
    invocations = 40 if bench.small else 150
    with feed.environment(), bench.postgres.under_test("bench_cost"):
        jobs.install()
        reports = {size: process("duecourse.bench.handler:serve", "bench.set", invocations, size) for size in SIZES}
    for size, report in reports.items():
        result.figures[f"{size} a batch, dollars a million jobs"] = Figure.of([dollars_a_million(size, report)], "$")
        result.details[f"{size} a batch, billed milliseconds"] = round(billed_milliseconds(report), 1)
    result.details |= {"prices of": prices.DATE, "region": prices.REGION, "memory, MB": prices.MEMORY_MB}
    for size in SIZES:
        dollars = result.figures[f"{size} a batch, dollars a million jobs"].value
        month = dollars * JOBS_PER_TENANT_MONTH / MILLION
        result.figures[f"{size} a batch, dollars a tenant-month"] = Figure.of([month], "$")
    one = "1 a batch, dollars a million jobs"
    for size in SIZES[1:]:
        name = f"{size} a batch, dollars a million jobs"
        result.compare(
            f"cost_at_{size}_a_batch", name, [one], against="one message and invocation a job", sense="at most"
        )
    return result


def billed_milliseconds(report: Mapping[str, float]) -> float:
    """Milliseconds. A function has a share of a processor by its memory: computing takes longer, waiting does not."""
    share = min(1.0, prices.MEMORY_MB / prices.MEMORY_MB_OF_ONE_CPU)
    return report["cpu"] / share + max(0.0, report["wall"] - report["cpu"])


def dollars_a_million(size: int, report: Mapping[str, float]) -> float:
    invocations = MILLION / size
    compute = invocations * billed_milliseconds(report) / 1000 * prices.MEMORY_MB / 1024 * prices.LAMBDA_GB_SECOND
    # Sent, received and deleted: each call carries at most ten messages.
    calls = 3 * MILLION / min(size, prices.SQS_MESSAGES_PER_CALL)
    return invocations * prices.LAMBDA_REQUEST + compute + calls * prices.SQS_REQUEST
