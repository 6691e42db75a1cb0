"""Cold starts: situations to put each handler in, and what its first invocation in a new process loads and costs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from sqlalchemy import Connection, Engine, text

from duecourse.lint_template import REPOSITORY
from duecourse.local.delivery import event_of
from functions.core.catalog import CATALOG
from functions.core.job import JobRequest
from functions.pipeline.relay import message_of
from tests import harness
from tests.contract.test_template import HANDLERS

PROCESS = Path(__file__).with_name("cold_process.py")
PROCESS_SECONDS = 60
ONE_LOOK = 5.0
"""Seconds left to a relay that shall not look at the outbox a second time."""


@dataclass(frozen=True, slots=True)
class Cold:
    """The import of a handler and its first invocation, in a process of their own."""

    answer: Any
    modules: frozenset[str]
    """Everything that was loaded by then, the standard library included."""
    wall_seconds: float
    cpu_seconds: float
    """User and system time of all threads."""


@dataclass(frozen=True, slots=True)
class Situation:
    """Something for a handler to do."""

    function: str
    prepare: Callable[[Connection], Any]
    """Makes it so in the database and returns the event."""
    answer: Mapping[str, Any]
    """Holds of the handler's answer once it has done its work."""
    libraries: tuple[str, ...]
    """What it takes, by the names in bare.py."""
    remaining_seconds: float = 60.0


def first_invocation(handler: str, event: Any, *, remaining_seconds: float = 60.0) -> Cold:
    """Import `handler` (dotted) and invoke it in a new process, which sees the test's database and queues."""
    environment = {name: value for name, value in os.environ.items() if name.startswith(("AWS_", "POWERTOOLS_"))} | {
        "DATABASE_URL": os.environ["DATABASE_URL"],
        "QUEUE_URL_PREFIX": os.environ["QUEUE_URL_PREFIX"],
        "PYTHONPATH": str(REPOSITORY),
    }
    command = [sys.executable, "-P", str(PROCESS), handler, json.dumps(event), str(remaining_seconds)]
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False, timeout=PROCESS_SECONDS
    )
    assert done.returncode == 0, f"{handler} failed:\n{done.stderr}"
    report = json.loads(done.stdout.splitlines()[-1])
    return Cold(report["answer"], frozenset(report["modules"]), report["wall_seconds"], report["cpu_seconds"])


def enter(situation: Situation, observer: Engine) -> Cold:
    """The first invocation of the situation's handler, in that situation."""
    with observer.begin() as tx:
        event = situation.prepare(tx)
    handler = HANDLERS[situation.function]
    cold = first_invocation(handler, event, remaining_seconds=situation.remaining_seconds)
    assert cold.answer | situation.answer == cold.answer
    return cold


def _nothing(tx: Connection) -> Any:
    del tx
    return {}


def _tick(tx: Connection) -> Any:
    del tx
    return {
        "source": "aws.events",
        "detail-type": "Scheduled Event",
        "time": "2026-11-24T02:00:00Z",
        "detail": {"jitter": False},
    }


def _tick_for_a_tenant(tx: Connection) -> Any:
    tx.execute(text("UPDATE schedules SET enabled_since = '2020-01-01'"))
    harness.new_tenant(tx)
    return _tick(tx)


def _due_probe(tx: Connection) -> Any:
    harness.order(tx, harness.probe())
    return {}


def _message(tx: Connection, request: JobRequest) -> Any:
    [job_id] = harness.order(tx, request)
    message = {
        "MessageId": str(uuid4()),
        "ReceiptHandle": "receipt",
        "Body": message_of(harness.job(tx, job_id), fifo=False).body,
        "Attributes": {"ApproximateReceiveCount": "1", "SentTimestamp": "1795485600000"},
    }
    return event_of([message])


def _refresh_message(tx: Connection) -> Any:
    payload = {"local_date": "2026-11-24"}
    return _message(tx, JobRequest("compliance.refresh", payload, tenant_id=harness.new_tenant(tx)))


def _probe_message(tx: Connection) -> Any:
    return _message(tx, harness.probe())


def _stale(job_type: str) -> Callable[[Connection], Any]:
    """A message whose job is gone: the worker claims nothing, and acknowledges."""

    def prepare(tx: Connection) -> Any:
        del tx
        body = {"v": 1, "id": "01a20cce-372d-7483-bccd-27ef0cae7d3f", "delivery": 1, "type": job_type}
        message = {
            "MessageId": str(uuid4()),
            "ReceiptHandle": "receipt",
            "Body": json.dumps(body),
            "Attributes": {"ApproximateReceiveCount": "1", "SentTimestamp": "1795485600000"},
        }
        return event_of([message])

    return prepare


def _wrong_method(tx: Connection) -> Any:
    del tx
    return {"requestContext": {"http": {"method": "PUT"}}}


def _liveness(tx: Connection) -> Any:
    del tx
    http = {"method": "GET", "path": "/health", "sourceIp": "203.0.113.7"}
    return {"rawPath": "/health", "rawQueryString": "", "requestContext": {"stage": "$default", "http": http}}


def _no_tokens(tx: Connection) -> Any:
    del tx
    return {"action": "list"}


NOBODY_DUE = {
    f"{schedule}-nobody-due": Situation(
        schedule, _tick, answer={"planned": 0}, libraries=("sqlalchemy", "powertools", "pydantic")
    )
    for schedule in CATALOG.schedules
}
A_STALE_MESSAGE = {
    f"{queue}-stale": Situation(
        f"{queue}-worker",
        _stale(next(row.name for row in CATALOG.job_types.values() if row.queue == queue)),
        answer={"batchItemFailures": []},
        libraries=("sqlalchemy", "powertools", "pydantic"),
    )
    for queue in sorted({row.queue for row in CATALOG.job_types.values()})
}
SITUATIONS = {
    **NOBODY_DUE,
    **A_STALE_MESSAGE,
    "unsubscribe": Situation("unsubscribe", _wrong_method, answer={"statusCode": 405}, libraries=()),
    "api": Situation(
        "api", _liveness, answer={"statusCode": 200}, libraries=("sqlalchemy", "powertools", "pydantic", "http_api")
    ),
    "tokens": Situation("tokens", _no_tokens, answer={"items": []}, libraries=("sqlalchemy", "powertools", "pydantic")),
    "cron-a-tenant-due": Situation(
        "daily-compliance-refresh",
        _tick_for_a_tenant,
        answer={"planned": 1, "sent": 1},
        libraries=("sqlalchemy", "powertools", "pydantic", "boto3"),
    ),
    "refresh": Situation(
        "compliance-refresh-worker",
        _refresh_message,
        answer={"batchItemFailures": []},
        libraries=("sqlalchemy", "powertools", "pydantic"),
    ),
    "probe": Situation(
        "upkeep-worker",
        _probe_message,
        answer={"batchItemFailures": []},
        libraries=("sqlalchemy", "powertools", "pydantic"),
    ),
    "relay-nothing-due": Situation(
        "relay",
        _nothing,
        answer={"sent": 0},
        libraries=("sqlalchemy", "powertools"),
        remaining_seconds=ONE_LOOK,
    ),
    "relay-a-job-due": Situation(
        "relay",
        _due_probe,
        answer={"sent": 1},
        libraries=("sqlalchemy", "powertools", "boto3"),
        remaining_seconds=ONE_LOOK,
    ),
    "sweep": Situation(
        "sweep", _nothing, answer={"conservation": True}, libraries=("sqlalchemy", "powertools", "boto3")
    ),
    "migrate": Situation("migrate", _nothing, answer={}, libraries=("sqlalchemy", "alembic")),
}
