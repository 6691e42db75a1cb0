"""`GET /health/workers`: each function's concurrency, errors, durations and memory, as Lambda and CloudWatch tell."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from aws_lambda_powertools.event_handler import Response

from functions.api import auth, verdict
from functions.api.models import View
from functions.api.routing import new_router
from functions.api.verdict import JSON, Finding, Status, ask_aws, bad, degraded
from functions.aws import cloudwatch
from functions.aws.clients import client
from functions.aws.cloudwatch import Metric
from functions.core.catalog import CATALOG
from functions.db.engine import transaction
from functions.pipeline import gauges, observe
from functions.pipeline.settings import settings

router = new_router()

WINDOW = timedelta(minutes=15)
WORKERS = {f"{queue}-worker": queue for queue in CATALOG.queues}
FUNCTIONS = (*WORKERS, *CATALOG.schedules, "relay", "sweep", "api", "tokens", "unsubscribe", "migrate")
"""By their short names; tests/contract holds them to the template."""
MEASURES: Mapping[str, tuple[str, str]] = {
    "invocations": ("Invocations", "Sum"),
    "errors": ("Errors", "Sum"),
    "throttles": ("Throttles", "Sum"),
    "concurrent": ("ConcurrentExecutions", "Maximum"),
    "duration_ms_average": ("Duration", "Average"),
    "duration_ms_p99": ("Duration", "p99"),
}
"""https://docs.aws.amazon.com/lambda/latest/dg/monitoring-metrics-types.html"""


class FunctionHealth(View):
    """One function in the window. What AWS has no measurement of is null."""

    name: str
    queue: str | None
    """Of a worker: the queue that it empties."""
    active_jobs: int | None
    """Of a worker: jobs that are running, by the ledger."""
    state: str | None
    last_modified: str | None
    timeout_seconds: int | None
    memory_mb: int | None
    memory_percent: float | None
    """Of a worker: the most that any of its processes used."""
    invocations: int | None
    errors: int | None
    throttles: int | None
    concurrent: int | None
    """The most at a time, where AWS counts them."""
    duration_ms_average: float | None
    """Of the slowest minute."""
    duration_ms_p99: float | None


class WorkersHealth(View):
    """Every function of this deployment."""

    status: Status
    findings: list[Finding]
    since: datetime
    functions: list[FunctionHealth]


@router.get(
    "/health/workers",
    summary="Health of the functions",
    tags=["Health"],
    responses=verdict.RESPONSES,
)
def health_workers() -> Response[WorkersHealth]:
    """The last 15 minutes of every function. CloudWatch is a minute or two behind."""
    auth.require("viewer", everywhere=True)
    now = datetime.now(UTC)
    with transaction() as tx:
        counts = gauges.job_counts(tx)
    [measured] = ask_aws(_measure, [now])
    configured = ask_aws(_configuration, FUNCTIONS)
    shown = [
        _function(name, counts, (measured or {}).get(name, {}), found or {})
        for name, found in zip(FUNCTIONS, configured, strict=True)
    ]
    findings = [finding for function in shown for finding in _findings(function)]
    if measured is None:
        findings.append(degraded("CloudWatch did not answer: the API's log has its words", "function-errors"))
    body = WorkersHealth(status=verdict.status_of(findings), findings=findings, since=now - WINDOW, functions=shown)
    return Response(verdict.http_status(findings), content_type=JSON, body=body)


def _measure(now: datetime) -> dict[str, dict[str, float | None]]:
    asked = {
        (name, measure): Metric("AWS/Lambda", metric, statistic, {"FunctionName": settings().function(name)})
        for name in FUNCTIONS
        for measure, (metric, statistic) in MEASURES.items()
    } | {
        (name, "memory_percent"): Metric(
            os.environ.get("POWERTOOLS_METRICS_NAMESPACE", observe.NAMESPACE),
            "MemoryPercent",
            "Maximum",
            {"queue": queue, "service": name},
        )
        for name, queue in WORKERS.items()
    }
    found: dict[str, dict[str, float | None]] = {}
    values = cloudwatch.read(list(asked.values()), now=now, window=WINDOW)
    for (name, measure), value in zip(asked, values, strict=True):
        found.setdefault(name, {})[measure] = value
    return found


def _configuration(name: str) -> dict[str, Any]:
    found: dict[str, Any] = client("lambda").get_function_configuration(FunctionName=settings().function(name))
    return found


def _function(
    name: str,
    counts: Sequence[gauges.JobCount],
    measured: Mapping[str, float | None],
    configured: Mapping[str, Any],
) -> FunctionHealth:
    queue = WORKERS.get(name)
    return FunctionHealth(
        name=name,
        queue=queue,
        active_jobs=gauges.total(counts, state="active", queue=queue) if queue else None,
        state=configured.get("State"),
        last_modified=configured.get("LastModified"),
        timeout_seconds=configured.get("Timeout"),
        memory_mb=configured.get("MemorySize"),
        memory_percent=measured.get("memory_percent"),
        invocations=_whole(measured.get("invocations")),
        errors=_whole(measured.get("errors")),
        throttles=_whole(measured.get("throttles")),
        concurrent=_whole(measured.get("concurrent")),
        duration_ms_average=measured.get("duration_ms_average"),
        duration_ms_p99=measured.get("duration_ms_p99"),
    )


def _whole(value: float | None) -> int | None:
    return None if value is None else int(value)


def _findings(function: FunctionHealth) -> list[Finding]:
    found = []
    if function.errors:
        told = f"{function.errors} of {function.invocations} invocations of {function.name} failed"
        serious = function.errors * 2 >= (function.invocations or 0)
        found.append(bad(told, "function-errors") if serious else degraded(told, "function-errors"))
    if function.throttles:
        found.append(degraded(f"{function.name} was throttled {function.throttles} times", "function-errors"))
    if function.state not in {None, "Active", "Inactive"}:
        found.append(bad(f"{function.name} is {function.state}", "bad-deploy"))
    if (function.memory_percent or 0) > 90:
        found.append(degraded(f"{function.name} used {function.memory_percent:.0f} % of its memory", "function-errors"))
    return found
