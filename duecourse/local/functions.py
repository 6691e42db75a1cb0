"""The deployed functions, by their short names: which there are, calling one, and reading its log."""

from __future__ import annotations

import base64
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from duecourse.local.deploy import STACK_NAME
from duecourse.local.errors import LocalError
from duecourse.local.stack import Stack
from duecourse.local.state import REPOSITORY

FOLLOW_SECONDS = 0.5
"""Pause between two looks at a log that is followed."""


@dataclass(frozen=True, slots=True)
class Invocation:
    """What came of calling a function."""

    function: str
    response: Any
    """What it returned, or Lambda's error object (`errorMessage`, `errorType`)."""
    failed: bool
    seconds: float
    log: str


@dataclass(frozen=True, slots=True)
class LogLine:
    """One line of a function's log."""

    at: datetime
    message: str


def names(stack: Stack) -> list[str]:
    """Short names of the stack's functions, e.g. `relay` for `duecourse-local-relay`."""
    pages = stack.client("lambda").get_paginator("list_functions").paginate()
    found = (function["FunctionName"] for page in pages for function in page["Functions"])
    return sorted(name.removeprefix(f"{stack.name}-") for name in found if name.startswith(f"{stack.name}-"))


def full_name(stack: Stack, function: str) -> str:
    """The name AWS knows a function by. Raises `LocalError`, naming those there are."""
    known = names(stack)
    short = function.removeprefix(f"{stack.name}-")
    if short not in known:
        raise LocalError(f"there is no function {function!r}: choose one of {', '.join(known)}")
    return f"{stack.name}-{short}"


def invoke(stack: Stack, function: str, event: Any) -> Invocation:
    """Call a function with an event and wait for what it returns."""
    name = full_name(stack, function)
    started = time.monotonic()
    answer = stack.client("lambda").invoke(FunctionName=name, Payload=json.dumps(event).encode(), LogType="Tail")
    return Invocation(
        function=name,
        response=json.loads(answer["Payload"].read() or b"null"),
        failed="FunctionError" in answer,
        seconds=time.monotonic() - started,
        log=base64.b64decode(answer.get("LogResult", "")).decode(errors="replace"),
    )


def read_event(function: str, source: str | None) -> Any:
    """The event in a file, on stdin (`-`), or, when nothing is said, the function's sample in events/.

    Raises `LocalError` when it is not there or no JSON.
    """
    sample = REPOSITORY / "events" / f"{function.removeprefix(f'{STACK_NAME}-')}.json"
    path = sample if source is None else Path(source)
    if source is None and not sample.exists():
        return {}
    try:
        return json.loads(sys.stdin.read() if source == "-" else path.read_text())
    except OSError as error:
        raise LocalError(f"the event {path} cannot be read ({error.strerror}): name a JSON file with -e") from None
    except ValueError as error:
        raise LocalError(f"the event {path} is not JSON ({error}): correct it") from None


def logs(stack: Stack, function: str, *, since: timedelta, follow: bool = False) -> Iterator[LogLine]:
    """The lines of a function's log, oldest first; with `follow` it never ends.

    An emulated invocation's lines appear when it ends.
    """
    group = _log_group(stack, full_name(stack, function))
    client = stack.client("logs")
    start = int((datetime.now(UTC) - since).timestamp() * 1000)
    shown: set[tuple[Any, ...]] = set()
    while True:
        try:
            pages = client.get_paginator("filter_log_events").paginate(logGroupName=group, startTime=start)
            events = [event for page in pages for event in page["events"]]
        except client.exceptions.ResourceNotFoundException:
            events = []  # the function was never called
        fresh = [event for event in events if _key(event) not in shown]
        for event in fresh:
            yield LogLine(datetime.fromtimestamp(event["timestamp"] / 1000, UTC), event["message"].rstrip("\n"))
        if not follow:
            return
        if events:  # the next look overlaps with this one by a millisecond: lines may still come for the newest
            start = max(event["timestamp"] for event in events)
            shown = {_key(event) for event in events if event["timestamp"] >= start}
        time.sleep(FOLLOW_SECONDS)


def _key(event: dict[str, Any]) -> tuple[Any, ...]:
    return event["timestamp"], event["logStreamName"], event["message"]


def _log_group(stack: Stack, name: str) -> str:
    configuration = stack.client("lambda").get_function_configuration(FunctionName=name)
    return str(configuration.get("LoggingConfig", {}).get("LogGroup") or f"/aws/lambda/{name}")
