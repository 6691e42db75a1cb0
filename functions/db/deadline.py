"""How long the database may keep an invocation waiting. A handler says it once; every socket to PostgreSQL obeys.

The limit belongs to the thread (a context variable), so that two handlers in one process do not disturb each other.
"""

from __future__ import annotations

import time
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

RESERVE_SECONDS = 5.0
"""Kept at the end of an invocation, so that a worker whose database is silent can still hand its messages back."""
LEAST_SECONDS = 1.0
"""What the database gets of an invocation that begins with less: it may still get its answers in time."""

NOT_ZERO_SECONDS = 0.01
"""A timeout of zero would mean: do not wait at all, and fail at once."""


@dataclass(frozen=True, slots=True)
class _Limit:
    ends_at: float
    """On the monotonic clock."""
    reserve_seconds: float


_limit: ContextVar[_Limit | None] = ContextVar("limit", default=None)


@contextmanager
def deadline(context: Any) -> Iterator[None]:
    """Within this block the database is given up before the invocation ends. `context` is Lambda's; None: no limit."""
    if context is None:
        yield
        return
    seconds = max(context.get_remaining_time_in_millis() / 1000, LEAST_SECONDS)
    with _limited(seconds, RESERVE_SECONDS):
        yield


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """Within this block the database has so many seconds, or what the deadline around it leaves, if that is less."""
    left = patience()
    with _limited(seconds if left is None else min(seconds, left), 0.0):
        yield


def patience() -> float | None:
    """Seconds that the next answer may take; None where there is no limit.

    Within the reserve it is half of what is left: settling may need the database then, and answering SQS the rest.
    """
    limit = _limit.get()
    if limit is None:
        return None
    left = limit.ends_at - time.monotonic()
    return max(left - limit.reserve_seconds, left / 2, NOT_ZERO_SECONDS)


def is_near() -> bool:
    """Whether the reserve has begun: nothing that could as well be done next time should start now."""
    limit = _limit.get()
    return limit is not None and time.monotonic() > limit.ends_at - limit.reserve_seconds


@contextmanager
def _limited(seconds: float, reserve_seconds: float) -> Iterator[None]:
    token = _limit.set(_Limit(time.monotonic() + seconds, reserve_seconds))
    try:
        yield
    finally:
        _limit.reset(token)
