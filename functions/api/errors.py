"""`GET /errors`: what fails, grouped by what the errors have in common."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated
from uuid import UUID

from aws_lambda_powertools.event_handler.openapi.params import Query
from sqlalchemy import text

from functions.api import auth
from functions.api.models import View
from functions.api.paging import DEFAULT_LIMIT, Limit
from functions.api.routing import Instant, Word, new_router
from functions.db.engine import transaction
from functions.pipeline import observe

router = new_router()

LOOK_ROWS = 10_000
"""Failed runs that are looked at, newest jobs first: the answer says whether that was all."""
DEFAULT_WINDOW = timedelta(days=1)

# A group's errors differ in numbers, ids and quoted values only. Jobs are looked up one by one, by their partition's
# key: OFFSET 0 keeps the planner from reading whole partitions instead.
GROUPS = text("""
    WITH looked_at AS MATERIALIZED (
        SELECT job_id, outcome, error_class, error, ended_at FROM job_attempts
        WHERE outcome IN ('failed', 'gave_up', 'lost') ORDER BY job_id DESC, run DESC LIMIT :rows
    ), failed AS (
        SELECT a.job_id, j.queue, j.type, j.tenant_id, j.state, coalesce(a.error_class, 'unknown') AS error_class,
            coalesce(a.error, '') AS error, a.ended_at,
            left(regexp_replace(coalesce(a.error, ''), :varying, '#', 'g'), 200) AS shape
        FROM looked_at a, LATERAL (SELECT * FROM jobs WHERE id = a.job_id OFFSET 0) AS j
        WHERE a.ended_at >= :since
          AND (CAST(:queue AS text) IS NULL OR j.queue = :queue)
          AND (CAST(:type AS text) IS NULL OR j.type = :type)
          AND (CAST(:error_class AS text) IS NULL OR a.error_class = :error_class)
          AND (CAST(:tenant_id AS uuid) IS NULL OR j.tenant_id = :tenant_id)
    )
    SELECT left(md5(concat_ws('/', type, error_class, shape)), 16) AS fingerprint, queue, type, error_class,
        count(*) AS runs, count(DISTINCT job_id) AS jobs, count(DISTINCT tenant_id) AS tenants,
        count(DISTINCT job_id) FILTER (WHERE state = 'dead') AS dead_jobs,
        min(ended_at) AS first_seen, max(ended_at) AS last_seen,
        (array_agg(error ORDER BY ended_at DESC))[1] AS error,
        (array_agg(job_id ORDER BY ended_at DESC))[1] AS example_job_id
    FROM failed GROUP BY queue, type, error_class, shape
    ORDER BY last_seen DESC, fingerprint LIMIT :limit
""")
LOOKED_AT = text("""
    SELECT count(*) FROM (
        SELECT FROM job_attempts WHERE outcome IN ('failed', 'gave_up', 'lost') LIMIT :rows
    ) AS looked_at
""")
VARYING = r"""[0-9a-fA-F]{8}-[0-9a-fA-F-]{27}|'[^']*'|"[^"]*"|\d+"""


class ErrorGroup(View):
    """Failed runs of one type whose errors are alike."""

    fingerprint: str
    queue: str
    type: str
    error_class: str
    error: str
    """Of the latest run."""
    runs: int
    jobs: int
    dead_jobs: int
    """Those of the jobs that are dead now."""
    tenants: int
    first_seen: datetime
    last_seen: datetime
    example_job_id: UUID
    """The latest: `GET /jobs/{queue}/{id}` tells its story."""


class Errors(View):
    """The groups, last seen first. `complete`: no older failed run was left unlooked at."""

    items: list[ErrorGroup]
    next_cursor: None = None
    since: datetime
    complete: bool


@router.get("/errors", summary="Errors by fingerprint", tags=["Health"])
def errors(
    *,
    queue: Word = None,
    type: Word = None,  # noqa: A002 - the parameter's name
    error_class: Word = None,
    tenant_id: Annotated[UUID | None, Query()] = None,
    since: Instant = None,
    limit: Limit = DEFAULT_LIMIT,
) -> Errors:
    """Failed runs since a day ago, or `since`, grouped. A token of one tenant sees that tenant's."""
    auth.require("viewer")
    start = since or datetime.now(UTC) - DEFAULT_WINDOW
    values = {
        "queue": queue,
        "type": type,
        "error_class": error_class,
        "tenant_id": auth.scope(tenant_id),
        "since": start,
        "rows": LOOK_ROWS,
        "varying": VARYING,
        "limit": limit,
    }
    with transaction() as tx:
        rows = tx.execute(GROUPS, values).all()
        looked_at = tx.execute(LOOKED_AT, {"rows": LOOK_ROWS}).scalar_one()
    groups = [ErrorGroup.model_validate(row._asdict() | {"error": observe.redact(row.error)}) for row in rows]
    return Errors(items=groups, since=start, complete=looked_at < LOOK_ROWS)
