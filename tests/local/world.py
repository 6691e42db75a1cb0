"""A running stack of a test's own, and what the whole-flow tests do with it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import psutil
from sqlalchemy import Engine, text

from duecourse.local import functions
from duecourse.local.stack import Stack
from duecourse.local.state import Home, load_emulator
from functions.pipeline.conservation import Conservation, conservation

Found = TypeVar("Found")
POLL_SECONDS = 0.2
LEASE_AND_A_LITTLE = 38
"""Seconds: a worker's timeout (30), the lease's margin (5), and some."""


@dataclass
class World:
    """The deployed template, driven from outside like on AWS."""

    home: Home
    stack: Stack
    engine: Engine

    def order(self, count: int, **payload: Any) -> None:
        """Order probes in plain SQL, as another program would; the relay function sends them."""
        self.rows(
            "SELECT enqueue_job('upkeep.probe', CAST(:payload AS jsonb)) FROM generate_series(1, :count)",
            payload=json.dumps(payload),
            count=count,
        )

    def rows(self, statement: str, **values: Any) -> list[Any]:
        with self.engine.begin() as tx:
            return list(tx.execute(text(statement), values))

    def states(self) -> dict[str, int]:
        return {row.state: row.n for row in self.rows("SELECT state, count(*) AS n FROM jobs GROUP BY state")}

    def effects(self) -> list[int]:
        """How often each job left its effect."""
        return [row.n for row in self.rows("SELECT count(*) AS n FROM probe_effects GROUP BY job_id")]

    def is_refunded(self) -> bool:
        """Whether no job has used up an attempt."""
        return all(row.attempts == 0 for row in self.rows("SELECT attempts FROM jobs"))

    def conservation(self) -> Conservation:
        with self.engine.begin() as tx:
            return conservation(tx)

    def relay(self) -> None:
        """Have the relay at work at once, rather than at its rule's next minute."""
        name = functions.full_name(self.stack, "relay")
        self.stack.client("lambda").invoke(FunctionName=name, InvocationType="Event", Payload=b"{}")

    def set_visibility(self, queue: str, seconds: int) -> None:
        self.stack.client("sqs").set_queue_attributes(
            QueueUrl=self.stack.queue_url(queue), Attributes={"VisibilityTimeout": str(seconds)}
        )

    def is_empty(self, queue: str) -> bool:
        """Whether a queue holds no message, visible or in flight."""
        names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        url = self.stack.queue_url(queue)
        found = self.stack.client("sqs").get_queue_attributes(QueueUrl=url, AttributeNames=names)["Attributes"]
        return all(int(found[name]) == 0 for name in names)

    def workers(self, function: str) -> list[psutil.Process]:
        """The processes in which a function runs."""
        record = load_emulator(self.home)
        process = record.process.process() if record else None
        children = process.children() if process else []
        return [child for child in children if f"-{function}-" in " ".join(child.cmdline())]


def wait_for(what: str, check: Callable[[], Found | None], *, seconds: float) -> Found:
    """Poll until `check` gives something true."""
    deadline = time.monotonic() + seconds
    while not (found := check()):
        assert time.monotonic() < deadline, f"waited {seconds} s for {what}"
        time.sleep(POLL_SECONDS)
    return found
