"""Every job ever ordered is accounted for: checked, not assumed (docs/architecture.md, rule 12)."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, text

from functions.core.job import CLOSED, State

# Both sides of conservation in one snapshot: what was ever enqueued, and where every job is now. The closed ones, in a
# year all but a few, are counted as one, so that the index of closed jobs is read and not the table.
CONSERVATION = text("""
    WITH counted AS (
        SELECT state, sum(n)::bigint AS n
        FROM (SELECT state, count AS n FROM job_counts UNION ALL SELECT state, delta FROM job_count_deltas) AS c
        GROUP BY state
    ), present AS (
        SELECT state, count(*) AS n FROM jobs WHERE closed_at IS NULL GROUP BY state
        UNION ALL SELECT 'closed', count(*) FROM jobs WHERE closed_at IS NOT NULL
    )
    SELECT coalesce(counted.state, present.state) AS state, coalesce(counted.n, 0)::bigint AS counted,
           coalesce(present.n, 0) AS present
    FROM counted FULL JOIN present ON present.state = counted.state
""")


@dataclass(frozen=True, slots=True)
class Conservation:
    """Whether every job ever enqueued is accounted for. `states` are the jobs present by state."""

    enqueued: int
    pruned: int
    states: dict[str, int]
    holds: bool


def conservation(tx: Connection) -> Conservation:
    """Compare the count deltas with the jobs present, in one snapshot."""
    counted: dict[str, int] = {}
    present: dict[str, int] = {}
    for row in tx.execute(CONSERVATION):
        counted[row.state], present[row.state] = row.counted, row.present
    enqueued, pruned, closed = counted.pop("enqueued", 0), counted.pop("pruned", 0), present["closed"]
    del counted["closed"]
    ended = {state: counted.get(state, 0) for state in CLOSED}
    holds = (
        enqueued == sum(present.values()) + pruned
        and closed == sum(ended.values())
        and all(counted[state] == present[state] for state in counted if state not in CLOSED)
    )
    states = {str(state): ended.get(state, present.get(state, 0)) for state in State}
    return Conservation(enqueued, pruned, states, holds)
