"""Every run is counted where it is settled: by type, outcome and duration, and by how long it waited."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from functions.core.buckets import DURATION_BOUNDS, WAIT_BOUNDS, bucket
from functions.core.job import JobRequest
from functions.pipeline import sweep
from tests.sql.conftest import Flow

TOTALS = """
    SELECT type, outcome, measure, sum(runs)::int AS runs, sum(seconds) AS seconds
    FROM (SELECT type, outcome, measure, runs, seconds FROM job_runs
          UNION ALL SELECT type, outcome, measure, runs, seconds FROM job_run_deltas) AS both_tables
    GROUP BY type, outcome, measure ORDER BY type, measure, outcome
"""


def totals(flow: Flow, measure: str = "duration") -> dict[str, int]:
    return {row.outcome: row.runs for row in flow.rows(TOTALS) if row.measure == measure}


@pytest.mark.parametrize(
    ("payload", "outcomes"),
    [
        ({}, {"completed": 1}),
        ({"do": "give_up"}, {"dead": 1}),
        ({"do": "raise"}, {"failed": 1}),
        ({"do": "snooze", "until": (datetime.now(UTC) + timedelta(days=1)).isoformat()}, {"snoozed": 1}),
        ({"do": "step", "steps": 3}, {"completed": 1, "continued": 2}),
    ],
)
def test_a_run_counts_under_its_outcome(flow: Flow, payload: dict[str, object], outcomes: dict[str, int]) -> None:
    flow.order(JobRequest("test.each", payload))
    for _ in range(sum(outcomes.values())):
        flow.relay()
        flow.deliver(flow.receive())
    assert totals(flow) == outcomes
    assert totals(flow, "wait") == {"": sum(outcomes.values())}


def test_a_batch_leaves_a_row_per_outcome_not_per_job(flow: Flow) -> None:
    flow.order(*[JobRequest("test.each", {}) for _ in range(9)], JobRequest("test.each", {"do": "raise"}))
    flow.relay()
    flow.deliver(flow.receive())
    rows = flow.rows("SELECT outcome, runs FROM job_run_deltas WHERE measure = 'duration' ORDER BY runs")
    assert [(row.outcome, row.runs) for row in rows] == [("failed", 1), ("completed", 9)]


def test_a_lost_run_counts_as_lost(flow: Flow) -> None:
    [job_id] = flow.order(JobRequest("test.each", {}))
    flow.relay()
    messages = flow.receive()
    flow.rows(
        "UPDATE jobs SET state = 'active', claim_token = gen_random_uuid(), started_at = now() - interval '1 minute',"
        " lease_until = now() - interval '1 second', runs = 1 WHERE id = :id",
        id=job_id,
    )
    flow.deliver(messages)
    assert totals(flow) == {"completed": 1, "lost": 1}


def test_folding_keeps_the_totals(flow: Flow) -> None:
    flow.order(*[JobRequest("test.each", {}) for _ in range(5)])
    flow.relay()
    flow.deliver(flow.receive())
    before = flow.rows(TOTALS)
    sweep.fold()
    assert flow.rows("SELECT * FROM job_run_deltas") == []
    flow.order(JobRequest("test.each", {}))
    flow.relay()
    flow.deliver(flow.receive())
    sweep.fold()
    after = flow.rows(TOTALS)
    assert [row.runs for row in before] == [5, 5]
    assert [row.runs for row in after] == [6, 6]
    assert all(new.seconds > old.seconds for old, new in zip(before, after, strict=True))


@pytest.mark.parametrize("bounds", [DURATION_BOUNDS, WAIT_BOUNDS])
def test_a_bucket_holds_what_its_bound_includes(bounds: tuple[float, ...]) -> None:
    assert [bucket(bound, bounds) for bound in bounds] == list(range(len(bounds)))
    assert bucket(0, bounds) == 0
    assert bucket(bounds[-1] + 1, bounds) == len(bounds)
