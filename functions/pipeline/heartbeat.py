"""Who keeps the flow going says that it does, and what it found: one row each for relay and sweep.

What is too dear to count at every request (a look at all open jobs, a day's mail events) is counted by the sweep and
read from its row.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, text

EXPECTED_EVERY_SECONDS: Mapping[str, float] = {"relay": 60.0, "sweep": 300.0}
"""By template.yaml's rules."""
SILENT_AFTER_BEATS = 3
"""So many beats missing in a row are silence: one alone may be a throttled or a late invocation."""

BEAT = text("""
    INSERT INTO heartbeats AS h (name, at, report) VALUES (:name, clock_timestamp(), CAST(:report AS jsonb))
    ON CONFLICT (name) DO UPDATE SET at = excluded.at, report = excluded.report
""")
BEATS = text("SELECT name, at, extract(epoch FROM clock_timestamp() - at)::float8 AS age, report FROM heartbeats")


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """When a function last did its work, and what it reported."""

    at: datetime
    age_seconds: float
    report: Mapping[str, Any]


def beat(tx: Connection, name: str, report: Mapping[str, Any]) -> None:
    """Say that `name` has done its round, with what it found."""
    tx.execute(BEAT, {"name": name, "report": json.dumps(report, default=str)})


def heartbeats(tx: Connection) -> dict[str, Heartbeat]:
    """The last beat of each that ever gave one."""
    return {row.name: Heartbeat(row.at, row.age, row.report) for row in tx.execute(BEATS)}


def silent(beats: Mapping[str, Heartbeat]) -> dict[str, float | None]:
    """Who has missed too many beats, and for how many seconds; None: it was never heard of."""
    quiet: dict[str, float | None] = {}
    for name, every in EXPECTED_EVERY_SECONDS.items():
        found = beats.get(name)
        if found is None or found.age_seconds > every * SILENT_AFTER_BEATS:
            quiet[name] = found.age_seconds if found else None
    return quiet
