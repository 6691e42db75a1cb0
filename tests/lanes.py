"""What tests of the relay act with: rows of the outbox of their choice, and an SQS in memory that can misbehave."""

from __future__ import annotations

import itertools
import json
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from botocore.exceptions import ClientError
from sqlalchemy import Connection, Engine, Row, text

from functions.aws.sqs import Outgoing
from functions.core.catalog import Catalog, JobType, Queue
from functions.db import engine as db
from functions.pipeline import relay

QUEUES = {"bulk": False, "other": False, "third": False, "ordered": True, "second": True}
"""By name, whether FIFO."""
CATALOG = Catalog(
    queues=tuple(Queue(name, timeout_seconds=30, fifo=fifo) for name, fifo in QUEUES.items()),
    job_types=tuple(
        JobType(f"test.{name}", name, "tests.jobs:Order", "tests.jobs:perform", group=("group",) if fifo else ())
        for name, fifo in QUEUES.items()
    ),
    schedules=(),
)

FIFO = frozenset({"email", "email-critical"} | {name for name, fifo in QUEUES.items() if fifo})
"""Those of the deployed catalogue too, for tests of handlers."""
_numbers = itertools.count()
ADD = text("""
    INSERT INTO jobs (id, queue, type, state, payload, priority, correlation_id, group_key, run_at, outbox_at, turn,
                      created_at)
    SELECT id, queue, type, 'waiting', '{}', priority, CAST(id AS text), group_key, outbox_at, outbox_at, turn, now()
    FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS r(
        id uuid, queue text, type text, priority smallint, group_key text, outbox_at timestamptz, turn timestamptz)
""")


@dataclass(frozen=True)
class Due:
    """A row of the outbox: due so many seconds ago."""

    queue: str
    group: str | None = None
    ago: float = 1.0
    priority: int = 0
    started: bool = False
    """Of a FIFO queue: it has run before, and so has no turn any more."""


def add(tx: Connection, rows: Sequence[Due]) -> list[UUID]:
    """Insert these rows; their ids, which are in their order."""
    now = datetime.now(UTC)
    first = int(now.timestamp() * 1000)
    ids = [UUID(int=(first << 80) | (7 << 76) | (2 << 62) | next(_numbers)) for _ in rows]
    values = [
        {
            "id": str(job_id),
            "queue": row.queue,
            "type": f"test.{row.queue}",
            "priority": row.priority,
            "group_key": row.group,
            "outbox_at": (due := (now - timedelta(seconds=row.ago)).isoformat()),
            "turn": due if row.queue in FIFO and not row.started else None,
        }
        for job_id, row in zip(ids, rows, strict=True)
    ]
    tx.execute(ADD, {"rows": json.dumps(values)})
    return ids


@dataclass
class Sqs:
    """Takes messages where `functions.aws.sqs.send_batch` would send them, and keeps them in order of arrival."""

    arrived: list[tuple[str, UUID]] = field(default_factory=list)
    """Queue and job, one for each message."""
    deliveries: list[tuple[UUID, int]] = field(default_factory=list)
    """Job and number of the delivery, likewise."""
    calls: list[list[str | None]] = field(default_factory=list)
    """The groups of each call."""
    refuses: set[UUID] = field(default_factory=set)
    """Jobs whose entry is refused."""
    spoils: set[UUID] = field(default_factory=set)
    """Jobs that have a whole call refused."""
    fails: Callable[[str], Exception | None] = lambda queue: None
    """What a call to this queue raises."""
    before: Callable[[str], object] = lambda queue: None
    """Done at the beginning of each call, in its thread."""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def send_batch(self, queue_url: str, messages: Sequence[Outgoing]) -> list[str | None]:
        queue = queue_url.rpartition("/t-")[2].removesuffix(".fifo")
        self.before(queue)
        if error := self.fails(queue):
            raise error
        bodies = [json.loads(message.body) for message in messages]
        ids = [UUID(body["id"]) for body in bodies]
        if self.spoils.intersection(ids):
            raise client_error("AWS.SimpleQueueService.BatchRequestTooLong", 400)
        with self._lock:
            self.calls.append([message.group_id for message in messages])
            self.deliveries += [(UUID(body["id"]), body["delivery"]) for body in bodies]
            self.arrived += [(queue, job_id) for job_id in ids if job_id not in self.refuses]
        return ["InvalidMessageContents: no" if job_id in self.refuses else None for job_id in ids]

    def of(self, queue: str) -> list[UUID]:
        return [job_id for name, job_id in self.arrived if name == queue]


def client_error(code: str, status: int) -> ClientError:
    return ClientError(
        {"Error": {"Code": code, "Message": "no"}, "ResponseMetadata": {"HTTPStatusCode": status}},  # type: ignore[typeddict-item]
        "SendMessageBatch",
    )


@dataclass
class Lanes:
    """The outbox of a catalogue with three standard and two FIFO queues, and a relay for it."""

    observer: Engine
    sqs: Sqs

    def add(self, *rows: Due) -> list[UUID]:
        with self.observer.begin() as tx:
            return add(tx, rows)

    def drain(self, **options: Any) -> relay.Drained:
        return relay.drain(catalog=CATALOG, **options)

    def rows(self, statement: str, **values: Any) -> list[Row[Any]]:
        with self.observer.begin() as tx:
            result = tx.execute(text(statement), values)
            return list(result) if result.returns_rows else []

    def left(self) -> set[UUID]:
        """What is still to be sent."""
        return {row.id for row in self.rows("SELECT id FROM jobs WHERE outbox_at IS NOT NULL")}

    @contextmanager
    def beside(self, work: Callable[[], Any]) -> Iterator[Any]:
        """Does this in a thread, with a connection of its own as another process has; yields its future."""
        own, held = db.engine.__wrapped__(), db.engine
        main = threading.get_ident()
        try:
            with ThreadPoolExecutor(1) as thread:
                db.engine = lambda: held() if threading.get_ident() == main else own  # type: ignore[assignment]
                yield thread.submit(work)
        finally:
            db.engine = held
            own.dispose()
