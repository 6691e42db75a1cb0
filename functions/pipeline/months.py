"""The monthly partitions of the ledger: made ahead, and retired after the retention with what is finished in them."""

from __future__ import annotations

from datetime import date

from sqlalchemy import Connection, text

from functions.db.engine import transaction
from functions.db.migrate import ENSURE_PARTITIONS, MONTHS_AHEAD
from functions.db.reshape import Patience, reshape

RETENTION_MONTHS = 13
"""Closed jobs are kept for a full year and the month under way."""
PATIENCE = Patience(lock_milliseconds=50, pause_seconds=0.2, seconds=5)
"""The ledger waits for a change no longer than a busy batch takes; the next sweep is five minutes away."""

MONTHS_TO_RETIRE = text("""
    SELECT to_date(substr(relid::text, 6), 'YYYY_MM') AS month FROM pg_partition_tree('jobs')
    WHERE relid::text ~ '^jobs_\\d{4}_\\d{2}$' AND to_date(substr(relid::text, 6), 'YYYY_MM') < :before
    ORDER BY month
""")
TALLY = text("SELECT tally_job_partition(:month)::text")
# Both at first: else the one would be held while the other is waited for.
LOCK = text("LOCK TABLE ONLY jobs, ONLY job_attempts IN ACCESS EXCLUSIVE MODE")
RETIRE = text("SELECT retire_job_partition(:month, CAST(:tally AS jsonb))")

# Jobs that outlived their month, in the default partition, and have finished since.
PRUNE_DEFAULT = text("""
    WITH gone AS (
        DELETE FROM jobs_default WHERE closed_at IS NOT NULL AND id < uuid7_floor(CAST(:before AS date))
        RETURNING id, queue, type, state
    ), attempts AS (
        DELETE FROM job_attempts USING gone WHERE job_attempts.job_id = gone.id
    ), counted AS (
        INSERT INTO job_count_deltas (queue, type, state, delta)
        SELECT queue, type, unnest(ARRAY['pruned', state]), unnest(ARRAY[count(*), -count(*)])
        FROM gone GROUP BY queue, type, state
    )
    SELECT count(*) FROM gone
""")


def keep_ahead() -> int:
    """Create the coming months' partitions. Returns how many were missing. Raises `TablesInUse`."""
    return reshape(lambda tx: int(tx.execute(ENSURE_PARTITIONS, {"months_ahead": MONTHS_AHEAD}).scalar_one()), PATIENCE)


def retire_old(today: date) -> int:
    """Drop partitions older than the retention; what is open or dead in them stays. Returns how many jobs went.

    Raises `TablesInUse`.
    """
    months = today.year * 12 + today.month - 1 - RETENTION_MONTHS
    before = date(months // 12, months % 12 + 1, 1)
    with transaction() as tx:
        old = [row.month for row in tx.execute(MONTHS_TO_RETIRE, {"before": before})]
    # Reading a month through takes seconds and no lock that matters; dropping it then locks the ledger shortly.
    retired = sum(drop(month, tally(month)) for month in old)
    with transaction() as tx:
        return retired + int(tx.execute(PRUNE_DEFAULT, {"before": before}).scalar_one())


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
