"""`GET /metrics` in Prometheus' text format, from folded counts: a scrape costs the same at ten million jobs.

What the sweep reads every five minutes (stuck jobs, schedules, a day's mails) is shown as it was then;
`duecourse_heartbeat_age_seconds{function="sweep"}` says how long ago that is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from http import HTTPStatus
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from aws_lambda_powertools.event_handler import Response
from aws_lambda_powertools.event_handler.openapi.types import OpenAPIResponse

from functions.api import auth
from functions.api.routing import new_router
from functions.core.buckets import DURATION_BOUNDS, WAIT_BOUNDS
from functions.db.engine import transaction
from functions.pipeline import gauges
from functions.pipeline.gauges import JobCount, RunTotal
from functions.pipeline.heartbeat import Heartbeat, heartbeats

if TYPE_CHECKING:
    from prometheus_client.core import Metric

router = new_router()

MONOTONIC = {"enqueued", "pruned"}
RESPONSES: dict[int, OpenAPIResponse] = {
    200: {"description": "Prometheus' text format.", "content": {"text/plain": {"schema": {"type": "string"}}}}
}


@dataclass(frozen=True, slots=True)
class Readings:
    """What one scrape shows."""

    now: datetime
    counts: Sequence[JobCount]
    runs: Sequence[RunTotal]
    heads: Sequence[gauges.Head]
    outbox_age: float
    lanes: Mapping[str, float]
    beats: Mapping[str, Heartbeat]

    @property
    def swept(self) -> Mapping[str, Any]:
        """The sweep's last report; empty before the first."""
        return self.beats["sweep"].report if "sweep" in self.beats else {}

    def collect(self) -> Iterator[Metric]:
        """All metric families, as prometheus_client wants them of a collector."""
        yield from _jobs(self.counts)
        yield from _runs(self.runs)
        yield from _ages(self)
        yield from _swept(self.swept, self.now)


@router.get(
    "/metrics",
    summary="Metrics for Prometheus",
    tags=["Metrics"],
    responses=RESPONSES,
)
def metrics() -> Response[str]:
    """Jobs, runs, waits, queues, schedules and mail. A token of one tenant may not read them: they cover all."""
    from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

    auth.require("viewer", everywhere=True)
    return Response(HTTPStatus.OK, content_type=CONTENT_TYPE_PLAIN_0_0_4, body=exposition(read()))


def exposition(readings: Readings) -> str:
    """The readings in Prometheus' text format."""
    from prometheus_client.exposition import generate_latest
    from prometheus_client.registry import Collector

    class Scrape(Collector):
        def collect(self) -> Iterator[Metric]:
            return readings.collect()

    return generate_latest(Scrape()).decode()


def read() -> Readings:
    """Everything in one transaction and six statements."""
    with transaction() as tx:
        return Readings(
            now=datetime.now(UTC),
            counts=gauges.job_counts(tx),
            runs=gauges.run_totals(tx),
            heads=gauges.heads(tx),
            outbox_age=gauges.outbox_age_seconds(tx),
            lanes=gauges.lane_waits(tx),
            beats=heartbeats(tx),
        )


def _jobs(counts: Sequence[JobCount]) -> Iterator[Metric]:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

    present = GaugeMetricFamily("duecourse_jobs", "Jobs in the ledger.", labels=["queue", "type", "state"])
    ever = {
        "enqueued": CounterMetricFamily("duecourse_jobs_enqueued", "Jobs ever ordered.", labels=["queue", "type"]),
        "pruned": CounterMetricFamily("duecourse_jobs_pruned", "Jobs dropped by retention.", labels=["queue", "type"]),
    }
    for item in counts:
        if item.state in MONOTONIC:
            ever[item.state].add_metric([item.queue, item.type], item.count)
        else:
            present.add_metric([item.queue, item.type, item.state], item.count)
    yield from (present, *ever.values())


def _runs(runs: Sequence[RunTotal]) -> Iterator[Metric]:
    from prometheus_client.core import CounterMetricFamily

    ended = CounterMetricFamily(
        "duecourse_job_runs",
        "Runs by how they ended; lost: the lease ran out; snoozed: put off, by a limit or by the job itself.",
        labels=["type", "outcome"],
    )
    for item in runs:
        if item.measure == "duration" and item.outcome is not None:
            ended.add_metric([item.type, item.outcome], item.runs)
    yield ended
    yield _histogram("duecourse_job_duration_seconds", "How long runs took.", runs, "duration", DURATION_BOUNDS)
    yield _histogram("duecourse_job_wait_seconds", "From when a job could run to its start.", runs, "wait", WAIT_BOUNDS)


def _histogram(name: str, told: str, runs: Sequence[RunTotal], measure: str, bounds: Sequence[float]) -> Metric:
    from prometheus_client.core import HistogramMetricFamily

    family = HistogramMetricFamily(name, told, labels=["type"])
    edges = [*map(str, bounds), "+Inf"]
    by_type: dict[str, dict[int, RunTotal]] = {}
    for item in runs:
        if item.measure == measure and item.bucket is not None:
            by_type.setdefault(item.type, {})[item.bucket] = item
    for job_type, found in by_type.items():
        counts = accumulate(found[index].runs if index in found else 0 for index in range(len(edges)))
        seconds = sum(item.seconds for item in found.values())
        family.add_metric([job_type], list(zip(edges, counts, strict=True)), seconds)
    return family


def _ages(found: Readings) -> Iterator[Metric]:
    from prometheus_client.core import GaugeMetricFamily

    oldest = GaugeMetricFamily(
        "duecourse_queue_oldest_due_seconds", "For how long the longest-waiting job has been due.", labels=["queue"]
    )
    paused = GaugeMetricFamily("duecourse_queue_paused", "1 where an operator paused the queue.", labels=["queue"])
    for head in found.heads:
        since = gauges.due_since(head, found.swept)
        oldest.add_metric([head.queue], max(0.0, (found.now - since).total_seconds()) if since else 0.0)
        paused.add_metric([head.queue], int(head.paused_at is not None))
    yield from (oldest, paused)
    yield GaugeMetricFamily(
        "duecourse_outbox_age_seconds", "For how long the oldest due job has not been sent.", value=found.outbox_age
    )
    lanes = GaugeMetricFamily(
        "duecourse_mail_lane_wait_seconds", "For how long the provider's limits put off the next mail.", labels=["lane"]
    )
    for lane, seconds in found.lanes.items():
        lanes.add_metric([lane], seconds)
    yield lanes
    age = GaugeMetricFamily("duecourse_heartbeat_age_seconds", "Since its last round.", labels=["function"])
    for name, beat in found.beats.items():
        age.add_metric([name], beat.age_seconds)
    yield age


def _swept(report: Mapping[str, Any], now: datetime) -> Iterator[Metric]:
    from prometheus_client.core import GaugeMetricFamily

    if not report:
        return
    stuck = GaugeMetricFamily("duecourse_stuck_jobs", "Due for over an hour, and nothing happens.", labels=["queue"])
    for queue, item in report["queues"].items():
        stuck.add_metric([queue], item["stuck"])
    yield stuck
    lag = GaugeMetricFamily("duecourse_schedule_lag_seconds", "Of the oldest unplanned run.", labels=["schedule"])
    late = GaugeMetricFamily("duecourse_schedule_overdue_tenants", "Tenants due without a plan.", labels=["schedule"])
    for schedule, item in report["overdue"].items():
        lag.add_metric([schedule], (now - datetime.fromisoformat(item["due_since"])).total_seconds())
        late.add_metric([schedule], item["tenants"])
    yield from (lag, late)
    mails = GaugeMetricFamily("duecourse_mails_last_day", "What the provider said in 24 hours.", labels=["outcome"])
    for outcome, count in report["mails_last_day"].items():
        mails.add_metric([outcome], count)
    yield mails
    yield GaugeMetricFamily("duecourse_mails_in_doubt", "Sent or not: unknown.", value=report["mails_in_doubt"])
    yield GaugeMetricFamily(
        "duecourse_mail_paused_tenants", "Their routine mail is paused.", value=report["mail_paused_tenants"]
    )
    if report["conservation"] is not None:
        holds = int(report["conservation"])
        yield GaugeMetricFamily("duecourse_conservation_holds", "1: every job ever is accounted for.", value=holds)
