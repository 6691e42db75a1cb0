"""Logs, metrics and traces, by Powertools. What cuts across all jobs is written once, here.

Every line carries service, correlation id and, inside a job, its id, type, tenant and attempt. Personal data is
redacted twice: by name of field, and by the shape of an e-mail address in any text.
"""

from __future__ import annotations

import os
import re
import resource
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any

from aws_lambda_powertools import Logger
from aws_lambda_powertools.logging.formatter import LambdaPowertoolsFormatter
from aws_lambda_powertools.metrics import EphemeralMetrics, MetricUnit

from functions.core.job import Job
from functions.db.engine import error_text

if TYPE_CHECKING:
    from aws_lambda_powertools import Tracer

NAMESPACE = "Duecourse"
"""Where the environment names none: template.yaml appends the stack, so that two in one account do not mix."""
REDACTED = "[redacted]"
PERSONAL_FIELDS = frozenset(
    {
        "address",
        "body",
        "email",
        "first_name",
        "last_name",
        "name",
        "payload",
        "phone",
        "recipient",
        "subject",
        "to",
    }
)
# The look-behind keeps a long text without any address from costing its length squared.
EMAIL = re.compile(r"(?<![\w.+'-])[\w.+'-]+@[\w-]+(?:\.[\w-]+)+")
ERROR_LIMIT = 500
VALUES_PER_BLOB = 99
"""EMF allows a hundred values of a metric, and Powertools flushes by itself when it reaches them.
https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/CloudWatch_Embedded_Metric_Format_Specification.html"""


class RedactingFormatter(LambdaPowertoolsFormatter):
    """Powertools' JSON lines without personal data."""

    def serialize(self, log: dict[str, Any]) -> str:  # type: ignore[override]
        return super().serialize(redact(log))


def redact(value: Any) -> Any:
    """The same structure with personal fields and e-mail addresses replaced."""
    if isinstance(value, str):
        return EMAIL.sub(REDACTED, value)
    if isinstance(value, Mapping):
        return {key: REDACTED if key in PERSONAL_FIELDS else redact(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [redact(item) for item in value]
    return value if value is None or isinstance(value, int | float) else redact(str(value))


@cache
def logger() -> Logger:
    """The process's logger; level from POWERTOOLS_LOG_LEVEL."""
    return Logger(logger_formatter=RedactingFormatter(), utc=True, location=None)  # always report.py


@cache
def tracer() -> Tracer | None:
    """Powertools' tracer, or None where tracing is off: the X-Ray SDK beneath it costs 168 ms to import."""
    if os.environ.get("POWERTOOLS_TRACE_DISABLED", "true").lower() in {"true", "1"}:
        return None
    from aws_lambda_powertools import Tracer

    return Tracer()


@contextmanager
def span(name: str, **annotations: str | int) -> Iterator[None]:
    """A subsegment of the trace, where tracing is on."""
    active = tracer()
    if active is None:
        yield
        return
    with active.provider.in_subsegment(f"## {name}") as segment:
        for key, annotation in annotations.items():
            segment.put_annotation(key=key, value=str(annotation))
        yield


@contextmanager
def job_context(job: Job[Any]) -> Iterator[None]:
    """Within it every log line names the job."""
    with logger().append_context_keys(**job_keys(job)):
        yield


def job_keys(job: Any) -> dict[str, Any]:
    """What a line about a job carries; takes a `Job` or a `ClaimedJob`."""
    return {
        "job_id": str(job.id),
        "job_type": job.type,
        "tenant_id": job.tenant_id and str(job.tenant_id),
        "attempt": job.attempts + 1,
        "run": job.runs,
        "correlation_id": job.correlation_id,
    }


def memory_percent() -> float | None:
    """The most memory that this process ever used, of what the function has; None outside Lambda."""
    limit_mb = int(os.environ.get("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "0"))
    used_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return 100 * used_kb / 1024 / limit_mb if limit_mb else None


def summary(error: BaseException) -> str:
    """An error in one short line."""
    return f"{type(error).__name__}: {error_text(error)}"[:ERROR_LIMIT]


class Tally:
    """Counts and samples of one invocation, flushed as EMF lines: a blob per set of dimensions.

    Counts are summed; samples (durations, waits) are kept one by one, for percentiles. Powertools adds the function's
    name as dimension `service`, unless not `by_service`: for what several functions count and one alarm stands on.
    """

    def __init__(self, *, by_service: bool = True) -> None:
        self._by_service = by_service
        self._metrics: dict[tuple[tuple[str, str], ...], dict[tuple[str, MetricUnit], list[float]]] = {}

    def add(self, name: str, value: float, unit: MetricUnit = MetricUnit.Count, **dimensions: str) -> None:
        """Add to a count (the default unit), or a sample in any other unit."""
        values = self._metrics.setdefault(tuple(sorted(dimensions.items())), {}).setdefault((name, unit), [])
        if unit is MetricUnit.Count and values:
            values[0] += value
        else:
            values.append(value)

    def flush(self) -> None:
        """Print everything gathered as CloudWatch embedded metric format and forget it."""
        for dimensions, metrics in self._metrics.items():
            longest = max(len(values) for values in metrics.values())
            for start in range(0, longest, VALUES_PER_BLOB):
                blob = EphemeralMetrics(namespace=os.environ.get("POWERTOOLS_METRICS_NAMESPACE", NAMESPACE))
                if not self._by_service:
                    blob.service = ""
                for key, value in dimensions:
                    blob.add_dimension(key, value)
                for (name, unit), values in metrics.items():
                    for sample in values[start : start + VALUES_PER_BLOB]:
                        blob.add_metric(name, unit, sample)
                blob.flush_metrics()
        self._metrics.clear()
