"""A catalogue of jobs that do nothing, so that what is measured is what surrounds a job."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import BaseModel
from sqlalchemy import Connection

from functions.core.catalog import Catalog, JobType, Queue
from functions.core.job import Job, JobRequest
from functions.core.outcome import Done, Outcome
from functions.db.engine import transaction
from functions.db.migrate import sync_catalog

NOTE = "a job that does nothing"
"""The rivals' jobs carry the same."""


class Empty(BaseModel):
    """What an empty job carries."""

    n: int
    note: str


def perform(job: Job[Empty], tx: Connection) -> Outcome:
    """Does nothing, in a savepoint of its own."""
    del job, tx
    return Done()


def perform_set(jobs: Sequence[Job[Empty]], tx: Connection) -> list[Outcome]:
    """Does nothing for all at once."""
    del tx
    return [Done() for _ in jobs]


CATALOG = Catalog(
    queues=(Queue("bench", timeout_seconds=60, batch_size=1000, batch_window_seconds=1),),
    job_types=(
        JobType("bench.each", "bench", "duecourse.bench.jobs:Empty", "duecourse.bench.jobs:perform"),
        JobType("bench.set", "bench", "duecourse.bench.jobs:Empty", "duecourse.bench.jobs:perform_set", set_based=True),
    ),
    schedules=(),
)


def install() -> None:
    """Make the database of DATABASE_URL know these types."""
    with transaction() as tx:
        sync_catalog(tx, CATALOG)


def requests(number: int, *, prefix: str, job_type: str = "bench.set", keyed: bool = True) -> list[JobRequest]:
    """So many orders, each with a deduplication key of its own."""
    return [
        JobRequest(job_type, {"n": n, "note": NOTE}, dedup_key=f"{prefix}-{n}" if keyed else None)
        for n in range(number)
    ]
