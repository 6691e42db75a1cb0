"""The monthly partitions of the ledger: made ahead, and retired after the retention with what is finished in them."""

from __future__ import annotations

import time
from datetime import date
from uuid import UUID

from sqlalchemy import Connection, text

from functions.db.engine import transaction
from functions.db.migrate import ENSURE_PARTITIONS, MONTHS_AHEAD
from functions.db.reshape import Patience, reshape

RETENTION_MONTHS = 13
"""Closed jobs are kept for a full year and the month under way."""
PATIENCE = Patience(lock_milliseconds=50, pause_seconds=0.2, seconds=5)
"""The ledger waits for a change no longer than a busy batch takes; the next sweep is five minutes away."""
FEW_ROWS = 1_000
"""Open and dead jobs of a month, with their failed runs, that move to the default partition while the ledger is locked:
some 10 ms. A month that holds more is not dropped; what is finished in it is deleted."""
PRUNE_ROWS = 5_000
PRUNE_SECONDS = 5.0
"""Finished jobs that one statement deletes, and how long one sweep goes on with it."""
FIRST_ID = UUID(int=0)

MONTHS_TO_RETIRE = text("""
    SELECT to_date(substr(relid::text, 6), 'YYYY_MM') AS month FROM pg_partition_tree('jobs')
    WHERE relid::text ~ '^jobs_\\d{4}_\\d{2}$' AND to_date(substr(relid::text, 6), 'YYYY_MM') < :before
    ORDER BY month
""")
LEFT = text("""
    WITH bounds AS MATERIALIZED (
        SELECT uuid7_floor(CAST(:month AS timestamp) AT TIME ZONE 'UTC') AS lowest,
               uuid7_floor((CAST(:month AS timestamp) + interval '1 month') AT TIME ZONE 'UTC') AS beyond
    ), left_over AS MATERIALIZED (
        (SELECT id FROM jobs WHERE closed_at IS NULL AND died_at IS NULL
         AND id >= (SELECT lowest FROM bounds) AND id < (SELECT beyond FROM bounds) LIMIT :most)
        UNION ALL
        (SELECT id FROM jobs WHERE died_at IS NOT NULL
         AND id >= (SELECT lowest FROM bounds) AND id < (SELECT beyond FROM bounds) LIMIT :most)
    )
    SELECT (SELECT count(*) FROM left_over) + (SELECT count(*) FROM (
        SELECT FROM job_attempts WHERE job_id = ANY(ARRAY(SELECT id FROM left_over)) LIMIT :most) AS runs) AS rows
""")
TALLY = text("SELECT tally_job_partition(:month)::text")
# Both at first: else the one would be held while the other is waited for.
LOCK = text("LOCK TABLE ONLY jobs, ONLY job_attempts IN ACCESS EXCLUSIVE MODE")
RETIRE = text("SELECT retire_job_partition(:month, CAST(:tally AS jsonb))")

# Finished jobs of months that are not dropped, and those that outlived their month and have finished since, in the
# default partition. Their ids reach the DELETE as one array, so that it touches only the partitions of these.
PRUNE = text("""
    WITH chosen AS MATERIALIZED (
        SELECT id FROM jobs
        WHERE closed_at IS NOT NULL AND id > :after AND id < uuid7_floor(CAST(:before AS timestamp) AT TIME ZONE 'UTC')
        ORDER BY id LIMIT :most FOR UPDATE SKIP LOCKED
    ), gone AS (
        DELETE FROM jobs WHERE id = ANY(ARRAY(SELECT id FROM chosen)) RETURNING id, queue, type, state
    ), attempts AS (
        DELETE FROM job_attempts WHERE job_id = ANY(ARRAY(SELECT id FROM chosen))
    ), counted AS (
        INSERT INTO job_count_deltas (queue, type, state, delta)
        SELECT queue, type, unnest(ARRAY['pruned', state]), unnest(ARRAY[count(*), -count(*)])
        FROM gone GROUP BY queue, type, state
    )
    SELECT (SELECT count(*) FROM gone) AS jobs, (SELECT id FROM chosen ORDER BY id DESC LIMIT 1) AS last
""")


def keep_ahead() -> int:
    """Create the coming months' partitions. Returns how many were missing. Raises `TablesInUse`."""
    return reshape(lambda tx: int(tx.execute(ENSURE_PARTITIONS, {"months_ahead": MONTHS_AHEAD}).scalar_one()), PATIENCE)


def retire_old(today: date) -> int:
    """Drop partitions older than the retention; what is open or dead in them stays. Returns how many jobs went.

    A month with more than a few of those stays as a partition, and loses its finished jobs sweep by sweep. Raises
    `TablesInUse`.
    """
    months = today.year * 12 + today.month - 1 - RETENTION_MONTHS
    before = date(months // 12, months % 12 + 1, 1)
    with transaction() as tx:
        old = [row.month for row in tx.execute(MONTHS_TO_RETIRE, {"before": before})]
        ripe = [month for month in old if tx.execute(LEFT, {"month": month, "most": FEW_ROWS}).scalar_one() < FEW_ROWS]
    # Reading a month through takes seconds and no lock that matters; dropping it then locks the ledger shortly.
    return sum(drop(month, tally(month)) for month in ripe) + prune(before)


def tally(month: date) -> str:
    """What is in a month, as JSON: its closed jobs by queue, type and state, and the ids of all others."""
    with transaction() as tx:
        return str(tx.execute(TALLY, {"month": month}).scalar_one())


def drop(month: date, tallied: str) -> int:
    """Drop a month of which `tally` said this. Returns how many jobs went. Raises `TablesInUse`.

    The ledger is locked for some 10 ms. PostgreSQL removes the files when the locks are gone, 0.14 s for a million
    jobs: `duecourse/bench/scale.py`.
    """

    def work(tx: Connection) -> int:
        tx.execute(LOCK)
        return int(tx.execute(RETIRE, {"month": month, "tally": tallied}).scalar_one())

    return reshape(work, PATIENCE)


def prune(before: date) -> int:
    """Delete finished jobs ordered before that day (UTC), oldest first, for `PRUNE_SECONDS`. Returns how many went."""
    pruned, after = 0, FIRST_ID
    end = time.monotonic() + PRUNE_SECONDS
    while time.monotonic() < end:
        with transaction() as tx:
            step = tx.execute(PRUNE, {"before": before, "after": after, "most": PRUNE_ROWS}).one()
        pruned += step.jobs
        if step.last is None:
            break
        after = step.last
    return pruned
