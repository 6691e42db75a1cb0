"""Job types of the tests' own: one of each kind, in a catalogue of their own."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from pydantic import BaseModel
from sqlalchemy import Connection, text

from functions.core.catalog import Catalog, JobType, Queue
from functions.core.job import Job, JobRequest
from functions.core.outcome import Continue, Done, GiveUp, Outcome, Retry, Snooze
from functions.core.retry import RetryPolicy
from functions.db.migrate import sync_catalog

LEAVE_EFFECT = text("INSERT INTO probe_effects (job_id) VALUES (:job_id)")
HOOKS: dict[str, Callable[[], object]] = {}
"""What a test wants to happen inside a handler, by name; a payload asks for one with `hook`."""
CODE: dict[str, Callable[[Job[Any], Connection], Any]] = {}
"""Whole handlers of a test's own, called after the effect; a payload asks for one with `code`."""


class Order(BaseModel):
    """Tells a test job what to do after leaving its effect."""

    do: str = "done"
    hook: str = ""
    until: datetime | None = None
    delay: float | None = None
    steps: int = 0
    follower: bool = False
    group: str = ""
    code: str = ""


def perform(job: Job[Order], tx: Connection) -> Outcome:
    order = job.payload
    tx.execute(LEAVE_EFFECT, {"job_id": job.id})
    if order.hook:
        HOOKS[order.hook]()
    if order.code:
        return CODE[order.code](job, tx)  # type: ignore[no-any-return]
    match order.do:
        case "raise":
            raise RuntimeError("ordered to raise")
        case "bad_sql":
            tx.execute(text("SELECT 1 / 0"))
        case "retry":
            return Retry("ordered to retry", order.delay)
        case "snooze":
            return Snooze(order.until or datetime.now(UTC), "ordered to snooze")
        case "give_up":
            return GiveUp("ordered to give up")
        case "step":
            done = int((job.checkpoint or {}).get("step", 0)) + 1
            return Continue({"step": done}, done / order.steps) if done < order.steps else Done({"steps": done})
    return Done(enqueue=[JobRequest("test.each", {})] if order.follower else ())


def perform_set(jobs: Sequence[Job[Order]], tx: Connection) -> list[Outcome]:
    for job in jobs:
        tx.execute(LEAVE_EFFECT, {"job_id": job.id})
    if any(job.payload.code for job in jobs):
        return [CODE[job.payload.code](job, tx) if job.payload.code else Done() for job in jobs]
    if any(job.payload.do == "raise" for job in jobs):
        raise RuntimeError("ordered to raise")
    return [Done() for _ in jobs]


class Mailer:
    """An outside effect: intents are rows of `outside`, sends land in memory."""

    def __init__(self) -> None:
        self.sent: list[UUID] = []
        self.fail = False
        self.threads: set[str] = set()
        self._lock = threading.Lock()

    def prepare(self, jobs: Sequence[Job[Order]], tx: Connection) -> list[UUID | Outcome]:
        intents: list[UUID | Outcome] = []
        for job in jobs:
            if job.payload.code:
                intents.append(CODE[job.payload.code](job, tx))
            elif job.payload.do == "snooze":
                intents.append(Snooze(datetime.now(UTC), "over the limit"))
            else:
                tx.execute(text("INSERT INTO outside (job_id, state) VALUES (:id, 'intended')"), {"id": job.id})
                intents.append(job.id)
        return intents

    def send(self, intent: UUID) -> str:
        with self._lock:
            self.threads.add(threading.current_thread().name)
            if self.fail:
                raise ConnectionError("the provider is away")
            self.sent.append(intent)
        if hook := HOOKS.get("sending"):
            hook()
        return f"receipt-{intent}"

    def record(self, sent: Sequence[tuple[UUID, Any]], tx: Connection) -> list[Outcome]:
        outcomes: list[Outcome] = []
        for intent, receipt in sent:
            if isinstance(receipt, Exception):
                outcomes.append(Retry(str(receipt)))
                continue
            tx.execute(
                text("UPDATE outside SET state = 'sent', receipt = :receipt WHERE job_id = :id"),
                {"receipt": receipt, "id": intent},
            )
            outcomes.append(Done({"receipt": receipt}))
        return outcomes


MAILER = Mailer()
OUTSIDE_TABLE = "CREATE TABLE outside (job_id uuid NOT NULL, state text NOT NULL, receipt text)"

_RETRY = RetryPolicy(max_attempts=3, base_seconds=600, cap_seconds=600)

CATALOG = Catalog(
    queues=(
        Queue("standard", timeout_seconds=30, batch_size=100, batch_window_seconds=1),
        Queue("ordered", timeout_seconds=30, fifo=True),
    ),
    job_types=(
        JobType("test.each", "standard", "tests.jobs:Order", "tests.jobs:perform", _RETRY),
        JobType("test.set", "standard", "tests.jobs:Order", "tests.jobs:perform_set", _RETRY, set_based=True),
        JobType("test.mail", "standard", "tests.jobs:Order", "tests.jobs:MAILER", _RETRY, outside_effect=True),
        JobType("test.ordered", "ordered", "tests.jobs:Order", "tests.jobs:perform", _RETRY, group=("group",)),
        JobType("test.ordered_too", "ordered", "tests.jobs:Order", "tests.jobs:perform", _RETRY, group=("group",)),
        JobType(
            "test.ordered_set",
            "ordered",
            "tests.jobs:Order",
            "tests.jobs:perform_set",
            _RETRY,
            set_based=True,
            group=("group",),
        ),
        JobType(
            "test.ordered_mail",
            "ordered",
            "tests.jobs:Order",
            "tests.jobs:MAILER",
            _RETRY,
            outside_effect=True,
            group=("group",),
        ),
        JobType(
            "test.strict", "ordered", "tests.jobs:Order", "tests.jobs:perform", _RETRY, group=("group",), strict=True
        ),
        JobType("test.gone", "standard", "tests.jobs:Order", "tests.no_such_module:perform", _RETRY),
        JobType("test.no_contract", "standard", "tests.no_such_module:Order", "tests.jobs:perform", _RETRY),
    ),
    schedules=(),
)


def install(tx: Connection) -> None:
    """Make the database know these types, and give the mailer a clean slate."""
    sync_catalog(tx, CATALOG)
    tx.execute(text(OUTSIDE_TABLE))
    HOOKS.clear()
    CODE.clear()
    MAILER.__init__()  # type: ignore[misc]


def request(job_type: str, **options: Any) -> JobRequest:
    """An order for a test job: options that are JobRequest's own go there, the rest is payload."""
    own = {name: options.pop(name) for name in list(options) if name in JobRequest.__dataclass_fields__}
    payload = {name: value.isoformat() if isinstance(value, datetime) else value for name, value in options.items()}
    return JobRequest(job_type, payload, **own)
