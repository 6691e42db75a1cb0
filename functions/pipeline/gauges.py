"""What the ledger says of itself: jobs by state, runs by outcome and time, and how old its oldest work is.

Cheap at any size, since it is asked at every scrape: totals come from the folded counts and what was appended since,
ages from the head of an index.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, text

LOOK_ROWS = 2_000
"""Open jobs of a queue that are looked at for the one that waits longest: their head, oldest first."""

COUNTS = text("""
    SELECT queue, type, state, sum(n)::bigint AS n
    FROM (SELECT queue, type, state, count AS n FROM job_counts
          UNION ALL SELECT queue, type, state, delta FROM job_count_deltas) AS c
    WHERE state <> 'late'
    GROUP BY queue, type, state ORDER BY queue, type, state
""")

# Two views of the same runs: by outcome, and by bucket.
RUNS = text("""
    SELECT type, measure, outcome, bucket, sum(runs)::bigint AS runs, sum(seconds)::float8 AS seconds
    FROM (SELECT type, outcome, measure, bucket, runs, seconds FROM job_runs
          UNION ALL SELECT type, outcome, measure, bucket, runs, seconds FROM job_run_deltas) AS r
    GROUP BY GROUPING SETS ((type, measure, outcome), (type, measure, bucket))
    ORDER BY type, measure, outcome, bucket
""")

# The head of each queue's open jobs, without the dead; ids are in the order of creation. A range of one name, and not
# an equality: else PostgreSQL may read the primary key through, which has that order too, for a queue that is empty.
HEADS = text("""
    SELECT q.name, q.paused_at, q.paused_by, q.pause_reason, head.looked_at, head.due_since
    FROM queues q, LATERAL (
        SELECT count(*) AS looked_at,
               min(run_at) FILTER (WHERE state IN ('waiting', 'retrying', 'delayed') AND run_at <= now()) AS due_since
        FROM (SELECT state, run_at FROM jobs
              WHERE closed_at IS NULL AND died_at IS NULL AND queue >= q.name AND queue <= q.name
              ORDER BY queue, id LIMIT :rows) AS open
    ) AS head
    ORDER BY q.name
""")

# How long the oldest due row has not been sent. What a paused queue holds back is meant to wait.
OUTBOX_AGE = text("""
    SELECT coalesce(max(extract(epoch FROM now() - due_since)), 0)::float8 AS age FROM due_lanes(now())
""")

LANES = text("""
    SELECT name, greatest(0, extract(epoch FROM waiting_until - now()))::float8 AS waits FROM send_lanes ORDER BY name
""")


@dataclass(frozen=True, slots=True)
class JobCount:
    """Jobs of a type in a state, or one of the monotonic pseudo-states `enqueued` and `pruned`."""

    queue: str
    type: str
    state: str
    count: int


@dataclass(frozen=True, slots=True)
class RunTotal:
    """Runs ever of a type, by outcome (then `bucket` is None) or by bucket of the measure (then `outcome` is)."""

    type: str
    measure: str
    outcome: str | None
    bucket: int | None
    runs: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Head:
    """A queue's row, and since when the job at its head has been due."""

    queue: str
    paused_at: datetime | None
    paused_by: str | None
    pause_reason: str | None
    looked_at: int
    due_since: datetime | None

    @property
    def complete(self) -> bool:
        """Whether all open jobs were looked at; else older work may hide behind what is not due."""
        return self.looked_at < LOOK_ROWS


def job_counts(tx: Connection) -> list[JobCount]:
    """Jobs by queue, type and state, exact at this instant."""
    return [JobCount(*row) for row in tx.execute(COUNTS)]


def run_totals(tx: Connection) -> list[RunTotal]:
    """Runs since the ledger began, of each type and measure by outcome and again by bucket."""
    return [RunTotal(*row) for row in tx.execute(RUNS)]


def heads(tx: Connection) -> list[Head]:
    """Every queue with the age of its oldest due job, from a bounded look."""
    return [Head(*row) for row in tx.execute(HEADS, {"rows": LOOK_ROWS})]


def due_since(head: Head, swept: Mapping[str, Any]) -> datetime | None:
    """Since when a queue's longest-waiting job has been due; by the sweep's last report where the head hides it."""
    if head.due_since is not None or head.complete:
        return head.due_since
    known = swept.get("queues", {}).get(head.queue, {}).get("due_since")
    return datetime.fromisoformat(known) if known else None


def outbox_age_seconds(tx: Connection) -> float:
    """For how long the oldest due job has not been sent; 0 when nothing is due."""
    return float(tx.execute(OUTBOX_AGE).scalar_one())


def lane_waits(tx: Connection) -> dict[str, float]:
    """For how many seconds the provider's limits put off the next mail, by lane."""
    return {row.name: row.waits for row in tx.execute(LANES)}


def total(counts: Sequence[JobCount], *, state: str, queue: str | None = None) -> int:
    """Jobs in a state, of one queue or of all."""
    return sum(item.count for item in counts if item.state == state and queue in {None, item.queue})


def finished_by_type(runs: Sequence[RunTotal]) -> dict[str, int]:
    """Runs ever of each type that ended its job well."""
    found: dict[str, int] = {}
    for item in runs:
        if item.measure == "duration" and item.outcome in {"completed", "skipped"}:
            found[item.type] = found.get(item.type, 0) + item.runs
    return found
