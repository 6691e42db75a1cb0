"""What the processes of a run do: serve the queues as an event source mapping would, relay, sweep.

A worker is a badly behaved mapping: it delays messages, mixes up their order, delivers some twice, and lets the
visibility of some run out while they are at work. What it calls are the deployed functions' own handlers.
"""

from __future__ import annotations

import os
import time
import traceback
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from duecourse.chaos.saboteur import Saboteur

TIMEOUT_SECONDS = 6.0
"""Of an invocation. The lease is 5 s longer."""
LEASE_SECONDS = TIMEOUT_SECONDS + 5.0
VISIBILITY_SECONDS = 11
STALL_MARGIN_SECONDS = 5.0
"""A worker held up this long beyond its lease finds that another has done its jobs."""
SWEEP_SECONDS = 3.0
SWEEP_TIMEOUT_SECONDS, RELAY_TIMEOUT_SECONDS = 60.0, 12.0
IDLE_SECONDS = 0.5
"""A queue that was found empty is not asked again before."""
AWAY_SECONDS = 0.5
ERROR_LIMIT = 200
BATCHES = (1, 10, 10, 50)
"""The emulator's own mappings never deliver more than ten; here the larger ones of AWS are played as well."""
SET_ASIDE, TWICE, SHORT_VISIBILITY = 0.04, 0.02, 0.02
"""Shares of the batches of which some messages are delayed, that are delivered twice, and that become visible again
while they are at work."""


def serve(saboteur: Saboteur) -> None:
    """Empty the queues, for ever, in no order."""
    from functions.core.catalog import CATALOG

    rest = {name: 0.0 for name in CATALOG.queues if name not in FUNCTIONS_ONLY}
    while True:
        now = time.monotonic()
        name = saboteur.rng.choice([name for name, until in rest.items() if until <= now] or [""])
        if not name:
            time.sleep(IDLE_SECONDS / 4)
        elif not _guard(saboteur, partial(_serve_one, name, saboteur)):
            rest[name] = time.monotonic() + IDLE_SECONDS


FUNCTIONS_ONLY = frozenset({"filing-reminders", "scheduled-email"})
"""Queues without orders in a run; polling them would only cost time."""


def relay(saboteur: Saboteur) -> None:
    """Send what is due, beside the deployed relay."""
    from duecourse.local.delivery import Context
    from functions.pipeline.relay import handler

    while True:
        _guard(saboteur, lambda: len(handler({}, Context(RELAY_TIMEOUT_SECONDS))))


def sweep(saboteur: Saboteur) -> None:
    """Sweep, far more often than the deployed sweep does."""
    from duecourse.local.delivery import Context
    from functions.pipeline.sweep import handler

    while True:
        time.sleep(SWEEP_SECONDS)
        _guard(saboteur, lambda: len(handler({}, Context(SWEEP_TIMEOUT_SECONDS))))


ROLES: dict[str, Callable[[Saboteur], None]] = {"worker": serve, "relay": relay, "sweep": sweep}


def _guard(saboteur: Saboteur, run: Callable[[], int]) -> int:
    """Run it as Lambda would: an exception ends the invocation, not the process. Those not of an outage are noted."""
    from botocore.exceptions import BotoCoreError, ClientError

    from functions.core.errors import DuecourseError
    from functions.db.engine import error_text, is_conflict, is_outage

    try:
        return run()
    except (BotoCoreError, ClientError, DuecourseError):
        time.sleep(AWAY_SECONDS)
    except Exception as error:  # noqa: BLE001 - an invocation that failed is a finding, not the end of the run
        if not (is_outage(error) or is_conflict(error)):
            saboteur.note(f"exception {type(error).__name__} at {_place(error)}: {error_text(error)[:ERROR_LIMIT]!r}")
        time.sleep(AWAY_SECONDS)
    return 0


def _place(error: Exception) -> str:
    """Where in the flow it was raised, or let through from a library."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "/functions/" in frame.filename and "/functions/db/" not in frame.filename]
    last = (ours or frames)[-1]
    return f"{os.path.basename(last.filename)}:{last.lineno}"  # noqa: PTH119


def _serve_one(name: str, saboteur: Saboteur) -> int:
    from duecourse.local.delivery import Context, event_of
    from functions.aws import sqs
    from functions.core.catalog import CATALOG
    from functions.pipeline.settings import settings
    from functions.pipeline.worker import handle

    url, fifo = settings().queue_url(name), CATALOG.queues[name].fifo
    short = saboteur.strikes(SHORT_VISIBILITY)
    most = saboteur.rng.choice(BATCHES)
    messages: list[dict[str, Any]] = []
    while len(messages) < most:
        part = sqs.receive(url, visibility_seconds=1 if short else VISIBILITY_SECONDS)
        messages += part
        if len(part) < sqs.ENTRIES_PER_CALL:
            break
    messages = messages[:most] if most > 1 else messages[:1]
    if not messages:
        return 0
    if short:
        saboteur.note("visibility running out")
    if not fifo and saboteur.strikes(SET_ASIDE):
        messages = _set_aside(url, messages, saboteur)
    answer = handle(event_of(messages), Context(TIMEOUT_SECONDS), queue=name)
    if saboteur.strikes(TWICE):
        saboteur.note("delivered twice")
        answer = handle(event_of(messages), Context(TIMEOUT_SECONDS), queue=name)
    failed = {item["itemIdentifier"] for item in answer["batchItemFailures"]}
    sqs.delete(url, [item["ReceiptHandle"] for item in messages if item["MessageId"] not in failed])
    return len(messages)


def _set_aside(url: str, messages: list[dict[str, Any]], saboteur: Saboteur) -> list[dict[str, Any]]:
    """Let half of the messages wait for some seconds, so that later ones overtake them, and mix up the rest."""
    from functions.aws import sqs

    saboteur.note("delayed and reordered")
    saboteur.rng.shuffle(messages)
    half = len(messages) // 2
    waits = {item["ReceiptHandle"]: saboteur.rng.randint(1, 4) for item in messages[:half]}
    if waits:
        sqs.change_visibility(url, waits)
    return messages[half:]
