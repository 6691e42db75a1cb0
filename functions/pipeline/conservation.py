"""Every job ever ordered is accounted for: checked, not assumed (docs/architecture.md, rule 12).

`conservation` counts every row. `check` asks the same at every sweep, whatever the ledger's history: jobs below a seal,
about an hour old, were counted once, and a recount goes through them piece by piece.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Row, text

from functions.core.job import CLOSED, State

RECOUNT_ROWS = 500_000
"""Sealed jobs that one sweep counts again, 0.1 s of an index: a hundred million are through in 17 hours."""
FIRST_ID = UUID(int=0)

_COUNTED = """
    SELECT state, sum(n)::bigint AS n
    FROM (SELECT state, count AS n FROM job_counts UNION ALL SELECT state, delta FROM job_count_deltas) AS c
    GROUP BY state
"""
_OPEN = "SELECT state, count(*) AS n FROM jobs WHERE closed_at IS NULL AND died_at IS NULL GROUP BY state"
_DEAD = "SELECT 'dead', count(*) FROM jobs WHERE died_at IS NOT NULL"

# Both sides of conservation in one snapshot: what was ever enqueued, and where every job is now. The closed ones, in a
# year all but a few, are counted as one, so that the index of closed jobs is read and not the table.
CONSERVATION = text(f"""
    WITH counted AS ({_COUNTED}), open AS ({_OPEN} UNION ALL {_DEAD})
    SELECT (SELECT jsonb_object_agg(state, n) FROM counted) AS counted,
           (SELECT jsonb_object_agg(state, n) FROM open) AS open,
           (SELECT count(*) FROM jobs WHERE closed_at IS NOT NULL)
               + (SELECT coalesce(sum(n), 0)::bigint FROM open) AS present
""")

# The same, with the jobs below the seal as they were counted then, plus what came below it since, less what was pruned.
# Dead ones, which stay until somebody decides about them, are not counted apart from the closed ones.
# `sealed`: how many of the others are old enough for the next seal.
SEALED = text(f"""
    WITH counted AS ({_COUNTED}), open AS ({_OPEN}),
    next AS MATERIALIZED (SELECT greatest(uuid7_floor(now() - interval '1 hour'), id) AS id FROM job_seal)
    SELECT (SELECT jsonb_object_agg(state, n) FROM counted) AS counted,
           (SELECT jsonb_object_agg(state, n) FROM open) AS open,
           job_seal.*, (SELECT id FROM next) AS next_id,
           (SELECT count(*) FROM jobs WHERE id >= (SELECT id FROM job_seal)) AS young,
           (SELECT count(*) FROM jobs WHERE id >= (SELECT id FROM job_seal) AND id < (SELECT id FROM next)) AS sealed
    FROM job_seal
""")
ADVANCE = text("""
    WITH held AS MATERIALIZED (SELECT id FROM job_seal WHERE id = :seal FOR UPDATE SKIP LOCKED)
    UPDATE job_seal SET id = :next_id, jobs = :jobs, late = :late, pruned = :pruned FROM held
""")
RESEAL = text(f"""
    WITH held AS MATERIALIZED (SELECT one FROM job_seal FOR UPDATE SKIP LOCKED),
    counted AS ({_COUNTED}),
    next AS MATERIALIZED (SELECT uuid7_floor(now() - interval '1 hour') AS id)
    UPDATE job_seal SET id = (SELECT id FROM next),
        jobs = (SELECT count(*) FROM jobs WHERE id < (SELECT id FROM next)),
        late = coalesce((SELECT n FROM counted WHERE state = 'late'), 0),
        pruned = coalesce((SELECT n FROM counted WHERE state = 'pruned'), 0),
        recount_id = :first_id, recounted = 0
    FROM held
""")

# A seal with nothing below it, where there is none.
FIRST_SEAL = text(f"""
    WITH counted AS ({_COUNTED})
    INSERT INTO job_seal (late, pruned)
    SELECT coalesce(max(n) FILTER (WHERE state = 'late'), 0), coalesce(max(n) FILTER (WHERE state = 'pruned'), 0)
    FROM counted
    ON CONFLICT DO NOTHING
""")

RECOUNT = text("""
    WITH stop AS MATERIALIZED (
        SELECT id FROM jobs WHERE id >= :recount_id AND id < :seal ORDER BY id OFFSET :most LIMIT 1
    )
    SELECT (SELECT id FROM stop) AS stop,
           (SELECT count(*) FROM jobs
            WHERE id >= :recount_id AND id < coalesce((SELECT id FROM stop), :seal)) AS jobs
""")
RECOUNTED = text("""
    WITH held AS MATERIALIZED (SELECT one FROM job_seal FOR UPDATE SKIP LOCKED)
    UPDATE job_seal SET recount_id = :recount_id, recounted = :recounted, recount_late = :late, recount_pruned = :pruned
    FROM held
""")


@dataclass(frozen=True, slots=True)
class Conservation:
    """Whether every job ever enqueued is accounted for. `states` are the jobs present by state."""

    enqueued: int
    pruned: int
    states: dict[str, int]
    holds: bool


def conservation(tx: Connection) -> Conservation:
    """Compare the count deltas with all jobs present, in one snapshot. Reads an index of every job."""
    row = tx.execute(CONSERVATION).one()
    return _compare(row.counted or {}, row.open or {}, row.present, ended=CLOSED)


def check(tx: Connection) -> Conservation:
    """The same without reading the history, which is recounted a piece at a time; all is counted before it says no."""
    row = tx.execute(SEALED).one_or_none()
    if row is None:  # somebody emptied all tables
        tx.execute(FIRST_SEAL)
        return conservation(tx)
    counted = row.counted or {}
    late, pruned = counted.get("late", 0), counted.get("pruned", 0)
    below = row.jobs + (late - row.late) - (pruned - row.pruned)
    found = _compare(counted, row.open or {}, below + row.young, ended=CLOSED | {State.DEAD})
    next_jobs = below + row.sealed
    if found.holds and _recount(tx, row, jobs=next_jobs, late=late, pruned=pruned):
        values = {"next_id": row.next_id, "jobs": next_jobs, "late": late, "pruned": pruned}
        tx.execute(ADVANCE, {"seal": row.id} | values)
        return found
    exact = conservation(tx)
    if found.holds or exact.holds:
        # The seal was wrong: what it says is counted anew. Where the recount found less than it promised, the next
        # check sees the difference at once.
        tx.execute(RESEAL, {"first_id": FIRST_ID})
    return exact


def _recount(tx: Connection, row: Row[Any], *, jobs: int, late: int, pruned: int) -> bool:
    """Count the next piece of what will be sealed; at the end, whether it was as many `jobs`.

    What came or went behind the recount meanwhile, which is rare, makes it begin anew without an answer.
    """
    began = row.recount_id == FIRST_ID
    if not began and (row.recount_late, row.recount_pruned) != (late, pruned):
        tx.execute(RECOUNTED, {"recount_id": FIRST_ID, "recounted": 0, "late": late, "pruned": pruned})
        return True
    piece = tx.execute(RECOUNT, {"recount_id": row.recount_id, "seal": row.next_id, "most": RECOUNT_ROWS}).one()
    recounted = (0 if began else row.recounted) + piece.jobs
    over = piece.stop is None
    values = {"recount_id": piece.stop or FIRST_ID, "recounted": 0 if over else recounted}
    tx.execute(RECOUNTED, values | {"late": late, "pruned": pruned})
    return not over or recounted == jobs


def _compare(
    counted: Mapping[str, int], open_jobs: Mapping[str, int], present: int, *, ended: Collection[State]
) -> Conservation:
    """`open_jobs` are the rows by state, but for those of the states `ended`, which are known by their sum alone."""
    rest = present - sum(open_jobs.values())
    by_count = {state: counted.get(state, 0) for state in ended}
    enqueued, pruned = counted.get("enqueued", 0), counted.get("pruned", 0)
    holds = (
        enqueued == present + pruned
        and rest == sum(by_count.values())
        and all(counted.get(state, 0) == open_jobs.get(state, 0) for state in State if state not in ended)
    )
    states = {str(state): by_count.get(state, open_jobs.get(state, 0)) for state in State}
    return Conservation(enqueued, pruned, states, holds)
