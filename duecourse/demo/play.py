"""Plays the day on the running stack: ticks, a poison message, a job that fails until it is redriven."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from datetime import time as clock
from functools import partial
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Engine

from duecourse.demo import ledger
from duecourse.local import functions
from duecourse.local.errors import LocalError
from duecourse.local.stack import Stack
from functions.core.catalog import CATALOG
from functions.pipeline import redrive

REFRESH = "daily-compliance-refresh"
TICK = timedelta(minutes=15)
TICKS = 96
PATIENCE_SECONDS = 45
"""For anything the demo waits for; each takes a few seconds at most."""
POLL_SECONDS = 0.1
POISON = "this is no JSON"


@dataclass(frozen=True, slots=True)
class Game:
    """The stack the day is played on, and the simulated day."""

    stack: Stack
    engine: Engine
    day: date

    @property
    def midnight(self) -> datetime:
        return datetime.combine(self.day, clock(), tzinfo=UTC)

    def look(self, query: Callable[[Connection], Any]) -> Any:
        """Run a query in a transaction of its own."""
        with self.engine.begin() as tx:
            return query(tx)


def simulated_day(now: datetime) -> date:
    """Tomorrow: the real cron rule, which ticks meanwhile too, finds nothing due before it."""
    return now.date() + timedelta(days=1)


def start_relay(game: Game) -> None:
    """Have the relay at work from the first second, rather than from its rule's next minute on."""
    game.stack.client("lambda").invoke(
        FunctionName=functions.full_name(game.stack, "relay"), InvocationType="Event", Payload=b"{}"
    )


def ticks(game: Game) -> Iterator[tuple[datetime, int, int, int]]:
    """Call every cron handler with every quarter-hour of the day, those of one instant side by side as the rules do.

    Yields the time, how many scheduled jobs are planned and completed by then, and how many mails have gone out.
    """
    names = [functions.full_name(game.stack, schedule) for schedule in CATALOG.schedules]
    client = game.stack.client("lambda")

    def call(name: str, at: datetime) -> None:
        answer = client.invoke(FunctionName=name, Payload=json.dumps(_tick_event(at)).encode())
        if "FunctionError" in answer:
            raise LocalError(f"{name} failed at {at:%H:%M}: {answer['Payload'].read().decode()[:500]}")

    with ThreadPoolExecutor(len(names)) as rules:
        for number in range(TICKS):
            at = game.midnight + number * TICK
            list(rules.map(partial(call, at=at), names))
            yield at, *game.look(ledger.progress)


def await_quiet(game: Game) -> tuple[int, int]:
    """Wait until every job is finished. Returns how many scheduled jobs completed, and how many mails went out."""

    def all_done() -> bool:
        return bool(game.look(lambda tx: tx.execute(ledger.OPEN).scalar_one()) == 0)

    _await("every job to finish", all_done)
    _, completed, mails = game.look(ledger.progress)
    return completed, mails


def send_poison(game: Game) -> None:
    """Put a message into a queue that nobody can understand."""
    game.stack.client("sqs").send_message(QueueUrl=game.stack.queue_url("upkeep"), MessageBody=POISON)


def order_failing_job(game: Game) -> UUID:
    """Order, in plain SQL as any program may, a job that fails as often as it has attempts."""
    attempts = CATALOG.job_type("upkeep.probe").retry.max_attempts
    payload = json.dumps({"note": "fails until it is redriven", "fail_runs": attempts})
    job_id: UUID = game.look(lambda tx: tx.execute(ledger.ENQUEUE_FROM_SQL, {"payload": payload}).scalar_one())
    return job_id


def await_dead_letters(game: Game, job_id: UUID) -> tuple[ledger.Job, list[Any]]:
    """Wait until SQS has moved both to the dead-letter queue. Returns the dead job and the rejected messages."""
    url = game.stack.queue_url("upkeep-dlq")
    sqs = game.stack.client("sqs")

    def both_there() -> bool:
        found = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["ApproximateNumberOfMessages"])
        return int(found["Attributes"]["ApproximateNumberOfMessages"]) >= 2

    _await("the poison message and the failing job to reach the dead-letter queue", both_there)
    return game.look(lambda tx: ledger.job(tx, job_id)), game.look(lambda tx: list(tx.execute(ledger.REJECTED)))


def redrive_dead(game: Game) -> int:
    """Redrive every dead job of the queue; its stale copy leaves the dead-letter queue. Returns how many."""
    revived: list[UUID] = game.look(lambda tx: redrive.redrive(tx, redrive.dead_ids(tx, "upkeep")).revived)
    redrive.drain_stale("upkeep")
    return len(revived)


def await_completed(game: Game, job_id: UUID) -> ledger.Job:
    """Wait until the redriven job is completed."""

    def completed() -> ledger.Job | None:
        job: ledger.Job = game.look(lambda tx: ledger.job(tx, job_id))
        return job if job.state == "completed" else None

    found: ledger.Job = _await("the redriven job to complete", completed)
    return found


def sweep(game: Game) -> None:
    """Fold the counts, as every five minutes."""
    result = functions.invoke(game.stack, "sweep", {})
    if result.failed:
        raise LocalError(f"the sweep failed: {result.response}")


def statements_per_batch(game: Game, since: datetime) -> int:
    """The most statements that a batch of refreshes took, as its worker said in its log."""
    lines = functions.logs(game.stack, "compliance-refresh-worker", since=datetime.now(UTC) - since)
    found = [_parsed(line.message) for line in lines]
    return max((int(line["statements"]) for line in found if line.get("message") == "batch_done"), default=0)


def _parsed(message: str) -> dict[str, Any]:
    try:
        found = json.loads(message)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _tick_event(at: datetime) -> dict[str, Any]:
    return {
        "version": "0",
        "id": f"demo-{at:%Y%m%dT%H%M}",
        "detail-type": "Scheduled Event",
        "source": "aws.events",
        "time": at.isoformat().replace("+00:00", "Z"),
        "resources": [],
        "detail": {"jitter": False},
    }


def _await(what: str, check: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not (found := check()):
        if time.monotonic() > deadline:
            raise LocalError(
                f"waited {PATIENCE_SECONDS} s for {what}: see `duecourse status`, `duecourse logs upkeep-worker` and"
                " `duecourse logs relay`"
            )
        time.sleep(POLL_SECONDS)
    return found
