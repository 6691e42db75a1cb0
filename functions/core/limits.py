"""How large a job's values may be, and how far from now its instants: what is beyond is refused before it is stored.

Migration 0013 says the same in SQL, for programs that order without this code; tests/sql/test_orders_alike.py holds the
two together.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

LARGEST_PAYLOAD = 262_144
LARGEST_RESULT = 65_536
LARGEST_CHECKPOINT = 262_144
"""Bytes of the JSON text, as PostgreSQL writes it."""
LONGEST_DEDUP_KEY = 500
LONGEST_CORRELATION_ID = 256
"""Characters. Ten messages of the longest ids fit into one call of SQS."""
EARLIEST_BEFORE_NOW = timedelta(days=14)
"""As long as SQS keeps a message: an instant further back is a mistake in somebody's arithmetic."""
LATEST_AFTER_NOW = timedelta(days=3653)
"""Ten years, however many leap days are among them."""
LONGEST_WAIT_SECONDS = int(LATEST_AFTER_NOW.total_seconds())

CONTROL_CHARACTERS = re.compile("[\x00-\x1f\x7f-\x9f]")


def json_size(value: Any) -> int:
    """Bytes of a value as PostgreSQL writes its jsonb. Raises `ValueError` for NaN and infinity."""
    size = len(json.dumps(value, ensure_ascii=False, allow_nan=False).encode())
    pending = [value]
    while pending:
        item = pending.pop()
        if isinstance(item, float):  # 1e300 is written with all its zeros
            size += len(format(Decimal(repr(item)), "f")) - len(repr(item))
        elif isinstance(item, Mapping):
            pending += item.values()
        elif isinstance(item, list | tuple):
            pending += item
    return size


def why_not_instant(name: str, instant: datetime, now: datetime) -> str | None:
    """Why an instant of an order is refused; None when it is not."""
    if now - EARLIEST_BEFORE_NOW <= instant <= now + LATEST_AFTER_NOW:
        return None
    return f"{name} lies between 14 days ago and ten years ahead"


def why_not_correlation_id(value: str) -> str | None:
    """Why a correlation id is refused; None when it is not."""
    if 1 <= len(value) <= LONGEST_CORRELATION_ID and not CONTROL_CHARACTERS.search(value):
        return None
    return f"correlation_id has 1 to {LONGEST_CORRELATION_ID} characters, and no control characters"
