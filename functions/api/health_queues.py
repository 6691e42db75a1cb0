"""`GET /health/queues`: every queue, in the ledger and in SQS, and the verdict on the whole flow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from aws_lambda_powertools.event_handler import Response

from functions.api import auth, verdict
from functions.api.models import View
from functions.api.routing import new_router
from functions.api.verdict import JSON, Finding, Status, ask_aws, bad, degraded
from functions.aws import mappings, sqs
from functions.core.catalog import CATALOG, Queue
from functions.db.engine import transaction
from functions.pipeline import gauges
from functions.pipeline.heartbeat import Heartbeat, heartbeats, silent
from functions.pipeline.settings import settings

router = new_router()

OUTBOX_LATE_SECONDS = 300.0


class QueueHealth(View):
    """One queue. What AWS was asked for is null where it did not answer."""

    name: str
    fifo: bool
    paused: bool
    paused_at: datetime | None
    paused_by: str | None
    pause_reason: str | None
    waiting: int
    delayed: int
    blocked: int
    active: int
    retrying: int
    held: int
    """Jobs that an operator paused one by one."""
    dead: int
    oldest_wait_seconds: float
    """For how long the longest-waiting job has been due."""
    stuck: int
    """Due for over an hour and nothing happens, when the sweep last looked."""
    finished_per_minute: float | None
    """Since the sweep before the last; null until it ran twice."""
    visible: int | None
    in_flight: int | None
    dead_letters: int | None
    mapping: str | None
    """The event source mapping's state in AWS's words."""


class FlowHealth(View):
    """The queues, and what the relay and the sweep say."""

    status: Status
    findings: list[Finding]
    outbox_age_seconds: float
    relay_seconds_ago: float | None
    sweep_seconds_ago: float | None
    conservation: bool | None
    """Whether every job ever ordered was accounted for at the last sweep; null: it never looked."""
    queues: list[QueueHealth]


@dataclass(frozen=True, slots=True)
class Ledger:
    """What one transaction reads."""

    now: datetime
    counts: Sequence[gauges.JobCount]
    heads: Mapping[str, gauges.Head]
    outbox_age: float
    finished: Mapping[str, int]
    beats: Mapping[str, Heartbeat]

    @property
    def swept(self) -> Mapping[str, Any]:
        """The sweep's last report; empty before the first."""
        return self.beats["sweep"].report if "sweep" in self.beats else {}


@dataclass(frozen=True, slots=True)
class Transport:
    """What AWS says of one queue."""

    queue: sqs.Depth
    dead_letters: sqs.Depth


@router.get(
    "/health/queues",
    summary="Health of the queues",
    tags=["Health"],
    responses=verdict.RESPONSES,
)
def health_queues() -> Response[FlowHealth]:
    """Depths, ages and states of every queue, and whether the flow is well. It covers every tenant."""
    auth.require("viewer", everywhere=True)
    ledger = read_ledger()
    queues = list(CATALOG.queues.values())
    [workers], carried = ask_aws(lambda ask: ask(), [mappings.all_mappings]), ask_aws(_transport, queues)
    shown = [
        _queue(queue, ledger, transport, (workers or {}).get(settings().worker_function(queue.name)))
        for queue, transport in zip(queues, carried, strict=True)
    ]
    findings = _findings(shown, ledger)
    return Response(
        verdict.http_status(findings),
        content_type=JSON,
        body=FlowHealth(
            status=verdict.status_of(findings),
            findings=findings,
            outbox_age_seconds=ledger.outbox_age,
            relay_seconds_ago=_age(ledger.beats, "relay"),
            sweep_seconds_ago=_age(ledger.beats, "sweep"),
            conservation=ledger.swept.get("conservation"),
            queues=shown,
        ),
    )


def read_ledger() -> Ledger:
    """Five statements, whatever the ledger holds."""
    with transaction() as tx:
        return Ledger(
            now=datetime.now(UTC),
            counts=gauges.job_counts(tx),
            heads={head.queue: head for head in gauges.heads(tx)},
            outbox_age=gauges.outbox_age_seconds(tx),
            finished=gauges.finished_by_type(gauges.run_totals(tx)),
            beats=heartbeats(tx),
        )


def _transport(queue: Queue) -> Transport:
    urls = settings()
    return Transport(
        sqs.depth(urls.queue_url(queue.name)),
        sqs.depth(urls.queue_url(queue.name, dead_letter=True)),
    )


def _queue(queue: Queue, ledger: Ledger, carried: Transport | None, mapping: mappings.Mapping | None) -> QueueHealth:
    head = ledger.heads.get(queue.name)
    since = gauges.due_since(head, ledger.swept) if head else None
    jobs = {state: gauges.total(ledger.counts, state=state, queue=queue.name) for state in _STATES}
    return QueueHealth(
        name=queue.name,
        fifo=queue.fifo,
        paused=head is not None and head.paused_at is not None,
        paused_at=head and head.paused_at,
        paused_by=head and head.paused_by,
        pause_reason=head and head.pause_reason,
        **{_STATES[state]: count for state, count in jobs.items()},
        oldest_wait_seconds=max(0.0, (ledger.now - since).total_seconds()) if since else 0.0,
        stuck=ledger.swept.get("queues", {}).get(queue.name, {}).get("stuck", 0),
        finished_per_minute=_rate(queue.name, ledger),
        visible=carried and carried.queue.visible,
        in_flight=carried and carried.queue.in_flight,
        dead_letters=carried and carried.dead_letters.visible + carried.dead_letters.in_flight,
        mapping=mapping and mapping.state,
    )


_STATES = {
    "waiting": "waiting",
    "delayed": "delayed",
    "blocked": "blocked",
    "active": "active",
    "retrying": "retrying",
    "paused": "held",
    "dead": "dead",
}


def _rate(queue: str, ledger: Ledger) -> float | None:
    before = ledger.swept.get("before")
    if before is None:
        return None
    types = [row.name for row in CATALOG.job_types.values() if row.queue == queue]
    done = sum(ledger.finished.get(name, 0) - before["finished"].get(name, 0) for name in types)
    minutes = (ledger.now - datetime.fromisoformat(before["at"])).total_seconds() / 60
    return round(done / minutes, 2) if minutes > 0 else None


def _age(beats: Mapping[str, Heartbeat], name: str) -> float | None:
    return round(beats[name].age_seconds, 1) if name in beats else None


def _findings(queues: Sequence[QueueHealth], ledger: Ledger) -> list[Finding]:
    found = []
    for name, age in silent(ledger.beats).items():
        if age is None:
            found.append(degraded(f"the {name} was never heard of", "heartbeat"))
        else:
            found.append(bad(f"the {name} has been silent for {age:.0f} s", "heartbeat"))
    if ledger.outbox_age > OUTBOX_LATE_SECONDS:
        found.append(bad(f"a due job has not been sent for {ledger.outbox_age:.0f} s", "outbox"))
    if ledger.swept.get("conservation") is False:
        found.append(bad("jobs are not all accounted for", "conservation"))
    for queue in queues:
        found += _of_queue(queue)
    return found


def _of_queue(queue: QueueHealth) -> list[Finding]:
    found = []
    if queue.paused:
        by = f"{queue.paused_by or 'somebody'}: {queue.pause_reason or 'no reason given'}"
        found.append(degraded(f"{queue.name} is paused by {by}", "stuck-queue"))
    elif queue.mapping in mappings.DISABLED:
        found.append(bad(f"the mapping of {queue.name} is {queue.mapping}, and nobody paused it", "stuck-queue"))
    if queue.stuck and not queue.paused:
        found.append(bad(f"{queue.stuck} jobs of {queue.name} are stuck", "stuck-queue"))
    late = CATALOG.queues[queue.name].late_after_seconds
    if queue.oldest_wait_seconds > late and not queue.paused:
        waits = f"a job of {queue.name} has waited for {queue.oldest_wait_seconds:.0f} s, over {late} s"
        found.append(degraded(waits, "stuck-queue"))
    if queue.dead:
        found.append(degraded(f"{queue.dead} jobs of {queue.name} are dead", "dead-letter-queue"))
    elif queue.dead_letters:
        letters = f"{queue.dead_letters} dead letters of {queue.name}, and none of its jobs is dead"
        found.append(degraded(letters, "dead-letter-queue"))
    if queue.visible is None:
        found.append(degraded(f"AWS did not answer about {queue.name}: the API's log has its words", "function-errors"))
    return found
