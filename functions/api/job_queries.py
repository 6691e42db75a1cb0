"""The statements behind the job routes. A list looks at a bounded part of a queue and says how far it came."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Row, text

from functions.core.job import CLOSED, State
from functions.core.limits import LARGEST_CHECKPOINT, LARGEST_PAYLOAD, LARGEST_RESULT, LONGEST_CORRELATION_ID
from functions.pipeline.redrive import KEY_TAKEN

WINDOW_ROWS = 20_000
"""A page looks at so many jobs at most: a filter that few of a million fulfil answers with what it found so far."""
COUNT_LIMIT = 1_000_000
MOST_CHILDREN = 200
LONGEST_TIMELINE = 200
"""Runs shown of a job, the latest; one that runs in steps may have thousands."""
MOST_TRACEBACKS = 20
"""Of the latest runs; with those of all, an answer could be larger than Lambda may return."""
LONGEST_ERROR = 2_000

FIRST_ID, LAST_ID = UUID(int=0), UUID(int=2**128 - 1)


def _instant(column: str) -> str:
    """An instant as Python's calendar can hold it, in every zone: one beyond is shown as the year 1000 or 9000."""
    first, last = (f"timestamptz '{year}-01-01T00:00:00Z'" for year in (1000, 9000))
    return f"CASE WHEN {column} < {first} THEN {first} WHEN {column} > {last} THEN {last} ELSE {column} END AS {column}"


def _json(column: str, largest: int) -> str:
    """A JSON value, or what is said in its place where it is larger than a release with limits would have stored."""
    return f"""
        CASE WHEN octet_length({column}::text) <= {largest} THEN {column} ELSE to_jsonb(
            'not shown: it has ' || octet_length({column}::text) || ' bytes, and at most {largest} are shown') END
        AS {column}"""


_SUMMARY = f"""
    id, queue, type, state, tenant_id, attempts, runs, lost, progress, error_class,
    left(error, {LONGEST_ERROR}) AS error, left(correlation_id, {LONGEST_CORRELATION_ID}) AS correlation_id,
    {", ".join(map(_instant, ("created_at", "run_at", "started_at", "died_at", "closed_at")))}
"""
_DETAIL = f"""
    {_SUMMARY}, priority, group_key, dedup_key, delivery, parent_id, root_id, pending_parents,
    {", ".join(map(_instant, ("deadline_at", "sent_at", "lease_until")))},
    {_json("payload", LARGEST_PAYLOAD)}, {_json("result", LARGEST_RESULT)}, {_json("checkpoint", LARGEST_CHECKPOINT)}
"""

# The three indexes of a queue (jobs_open, jobs_dead, jobs_closed) are in the order of ids, and ids in that of time.
_PART = """
    SELECT * FROM jobs
    WHERE queue = :queue AND {} AND id < :before
      AND id >= coalesce(uuid7_floor(CAST(:created_after AS timestamptz)), :first_id)
      AND id < coalesce(uuid7_floor(CAST(:created_before AS timestamptz)), :last_id)
"""
_LIVE = _PART.format("closed_at IS NULL AND died_at IS NULL")
_DEAD, _CLOSED = _PART.format("died_at IS NOT NULL"), _PART.format("closed_at IS NOT NULL")
_OPEN = f"{_LIVE} UNION ALL {_DEAD}"
_NEWEST = "ORDER BY id DESC LIMIT :window"
_PARTS = {
    "live": f"{_LIVE} {_NEWEST}",
    "dead": f"{_DEAD} {_NEWEST}",
    "closed": f"{_CLOSED} {_NEWEST}",
    "all": f"({_LIVE} {_NEWEST}) UNION ALL ({_DEAD} {_NEWEST}) UNION ALL ({_CLOSED} {_NEWEST}) {_NEWEST}",
}

_FILTERS = """
    (CAST(:state AS text) IS NULL OR state = :state)
    AND (CAST(:type AS text) IS NULL OR type = :type)
    AND (CAST(:tenant_id AS uuid) IS NULL OR tenant_id = :tenant_id)
    AND (CAST(:error_class AS text) IS NULL OR error_class = :error_class)
    AND (CAST(:recipient AS text) IS NULL OR payload ->> 'recipient_id' = :recipient)
    AND (CAST(:subject AS uuid) IS NULL
         OR jsonb_path_exists(payload, '$.* ? (@ == $subject)', jsonb_build_object('subject', CAST(:subject AS text)))
         OR id = ANY(ARRAY(SELECT job_id FROM notifications
                           WHERE tenant_id = :tenant_id AND category IN ('document_expiry', 'filing')
                             AND subject_id = :subject AND job_id IS NOT NULL)))
"""

_LIST = {
    part: text(f"""
        SELECT {_SUMMARY} FROM ({rows}) AS looked_at
        WHERE {_FILTERS} ORDER BY id DESC LIMIT :limit
    """)
    for part, rows in _PARTS.items()
}
_REACH = {
    part: text(f"""
        SELECT id FROM ({rows}) AS looked_at ORDER BY id DESC OFFSET :window - 1
    """)
    for part, rows in _PARTS.items()
}
_ACTIVE_LEASE = "state = 'active' AND coalesce(lease_until > now(), true)"
_CHOOSE = text(f"""
    SELECT id FROM ({_OPEN}) AS open_jobs
    WHERE state = ANY(CAST(:states AS text[])) AND NOT ({_ACTIVE_LEASE}) AND {_FILTERS}
      AND NOT (:revive AND died_at IS NOT NULL AND {KEY_TAKEN})
    ORDER BY id LIMIT :limit
""")
_COUNT = text(f"""
    SELECT state, running, count(*) AS n
    FROM (SELECT state, {_ACTIVE_LEASE} AS running FROM ({_OPEN}) AS open_jobs
          WHERE {_FILTERS} LIMIT :limit) AS matching
    GROUP BY state, running
""")
_COUNT_KEY_TAKEN = text(f"""
    SELECT count(*) FROM (SELECT FROM ({_DEAD}) AS dead WHERE {KEY_TAKEN} AND {_FILTERS} LIMIT :limit) AS left_dead
""")

FIND = text(f"""
    SELECT {_DETAIL} FROM jobs WHERE id = :id AND queue = :queue
      AND (CAST(:tenant_id AS uuid) IS NULL OR tenant_id = :tenant_id)
""")
# Two arms, each with an index of its own; one OR would read every partition.
RELATIVES = text("""
    SELECT * FROM (
        SELECT 'parent' AS relation, id, queue, type, state, tenant_id FROM jobs WHERE id = :parent_id
        UNION ALL
        (SELECT 'child', id, queue, type, state, tenant_id FROM jobs WHERE parent_id = :id ORDER BY id LIMIT :limit)
    ) AS found
    WHERE CAST(:tenant_id AS uuid) IS NULL OR tenant_id = :tenant_id
""")
ATTEMPTS = text(f"""
    SELECT run, outcome, counted, error_class, left(error, {LONGEST_ERROR}) AS error,
           CASE WHEN row_number() OVER (ORDER BY run DESC) <= {MOST_TRACEBACKS} THEN traceback END AS traceback,
           {_instant("started_at")}, {_instant("ended_at")}
    FROM job_attempts WHERE job_id = :id ORDER BY run DESC LIMIT :limit
""")


@dataclass(frozen=True, slots=True)
class JobFilter:
    """Which jobs of a queue are meant. `created_…` bound their ids, which tell when a job was ordered."""

    queue: str
    state: State | None = None
    type: str | None = None
    tenant_id: UUID | None = None
    error_class: str | None = None
    created_after: datetime | None = None
    created_before: datetime | None = None
    subject: UUID | None = None
    """What the job is about, by id: a task, an invoice, a document, a filing. The last two need the tenant."""
    recipient: UUID | None = None

    def values(self, **more: Any) -> dict[str, Any]:
        """The statements' parameters."""
        state, recipient = self.state and str(self.state), self.recipient and str(self.recipient)
        own = asdict(self) | {"state": state, "recipient": recipient}
        return {**own, "before": LAST_ID, "first_id": FIRST_ID, "last_id": LAST_ID, **more}

    @property
    def part(self) -> str:
        """Which of the indexes can hold such jobs."""
        if self.state is None:
            return "all"
        if self.state is State.DEAD:
            return "dead"
        return "closed" if self.state in CLOSED else "live"

    @property
    def selective(self) -> bool:
        """Whether rows that were looked at may be left out."""
        return any((self.state, self.type, self.tenant_id, self.error_class, self.subject, self.recipient))


def list_jobs(
    tx: Connection, wanted: JobFilter, *, before: UUID | None, limit: int
) -> tuple[list[Row[Any]], UUID | None]:
    """Jobs older than `before`, newest first, and where to go on: None when there are no more."""
    values = wanted.values(before=before or LAST_ID, window=WINDOW_ROWS)
    rows = list(tx.execute(_LIST[wanted.part], values | {"limit": limit + 1}))
    if len(rows) > limit:
        return rows[:limit], rows[limit - 1].id
    if not wanted.selective:
        return rows, None
    return rows, tx.execute(_REACH[wanted.part], values).scalar_one_or_none()


def choose_jobs(
    tx: Connection, wanted: JobFilter, states: frozenset[State], limit: int, *, revive: bool = False
) -> list[UUID]:
    """The oldest open jobs that are meant and in one of `states`, those with a run under way left out.

    `revive`: also without dead ones whose deduplication key a newer job holds.
    """
    values = wanted.values(states=[str(state) for state in states], limit=limit, revive=revive)
    return [row.id for row in tx.execute(_CHOOSE, values)]


def count_jobs(tx: Connection, wanted: JobFilter, limit: int = COUNT_LIMIT) -> tuple[dict[str, int], int]:
    """How many open jobs without a run under way are meant, by state, and how many with one; counting ends at `limit`.

    A run whose lease is over is not under way.
    """
    rows = tx.execute(_COUNT, wanted.values(limit=limit)).all()
    return {row.state: row.n for row in rows if not row.running}, sum(row.n for row in rows if row.running)


def count_key_taken(tx: Connection, wanted: JobFilter, limit: int = COUNT_LIMIT) -> int:
    """How many dead jobs are meant whose deduplication key a newer job holds."""
    return int(tx.execute(_COUNT_KEY_TAKEN, wanted.values(limit=limit)).scalar_one())


def find_job(tx: Connection, queue: str, job_id: UUID, tenant_id: UUID | None) -> Row[Any] | None:
    """The job, if it is that queue's and that tenant's."""
    return tx.execute(FIND, {"id": job_id, "queue": queue, "tenant_id": tenant_id}).one_or_none()


def relatives_of(tx: Connection, row: Row[Any], tenant_id: UUID | None) -> list[Row[Any]]:
    """Its parent and its first children, of one tenant alone where given."""
    values = {"id": row.id, "parent_id": row.parent_id, "tenant_id": tenant_id, "limit": MOST_CHILDREN}
    return list(tx.execute(RELATIVES, values))


def attempts_of(tx: Connection, job_id: UUID) -> list[Row[Any]]:
    """Its latest runs that did not complete, oldest first."""
    return list(tx.execute(ATTEMPTS, {"id": job_id, "limit": LONGEST_TIMELINE}))[::-1]
