"""`GET /health/database`: whether PostgreSQL answers, is of this release, and has room."""

from __future__ import annotations

import time
from functools import cache
from pathlib import Path

from aws_lambda_powertools.event_handler import Response
from sqlalchemy import Row, text

from functions.api import auth, verdict
from functions.api.models import View
from functions.api.routing import new_router
from functions.api.verdict import JSON, Finding, Status, bad, degraded
from functions.db.engine import transaction

router = new_router()

MIGRATIONS = Path(__file__).parents[2] / "infra" / "migrations" / "versions"
LATE_ANSWER_MS = 100.0
LONG_TRANSACTION_SECONDS = 300.0
"""No job runs for so long; what is older keeps dead rows from being removed."""
CONNECTIONS_PERCENT = 80.0
UNFOLDED_DELTAS = 100_000
"""The sweep folds them every five minutes."""

PING = text("SELECT 1")
FACTS = text("""
    SELECT current_setting('server_version') AS version,
        (SELECT version_num FROM alembic_version) AS revision,
        pg_database_size(current_database()) AS bytes,
        pg_is_in_recovery() AS read_only,
        (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend') AS connections,
        current_setting('max_connections')::int AS most_connections,
        (SELECT coalesce(max(extract(epoch FROM clock_timestamp() - xact_start)), 0)::float8 FROM pg_stat_activity
         WHERE datname = current_database() AND pid <> pg_backend_pid()) AS longest_transaction_seconds,
        (SELECT coalesce(max(substr(relid::text, 6)), '') FROM pg_partition_tree('jobs')
         WHERE relid::text ~ '^jobs_\\d{4}_\\d{2}$') AS last_partition,
        to_char(now() AT TIME ZONE 'UTC' + interval '1 month', 'YYYY_MM') AS next_month,
        (SELECT count(*) FROM (SELECT FROM job_count_deltas LIMIT :most) AS d) AS count_deltas,
        (SELECT count(*) FROM (SELECT FROM job_run_deltas LIMIT :most) AS d) AS run_deltas
""")


class DatabaseHealth(View):
    """PostgreSQL as this release finds it."""

    status: Status
    findings: list[Finding]
    answers_in_ms: float
    version: str
    revision: str
    """The migration it is at."""
    expected_revision: str
    """The newest that this release knows."""
    bytes: int
    connections: int
    most_connections: int
    longest_transaction_seconds: float
    last_partition: str
    """Year and month of the last partition of `jobs`."""
    unfolded_deltas: int
    """Count and run deltas that the sweep has not folded yet, counted up to 100,000 each."""


@router.get(
    "/health/database",
    summary="Health of the database",
    tags=["Health"],
    responses=verdict.RESPONSES,
)
def health_database() -> Response[DatabaseHealth]:
    """Its answer's time, migration, connections, partitions. When it does not answer at all: 503, with the reason."""
    auth.require("viewer", everywhere=True)
    with transaction() as tx:
        started = time.monotonic()
        tx.execute(PING)
        took = 1000 * (time.monotonic() - started)
        facts = tx.execute(FACTS, {"most": UNFOLDED_DELTAS}).one()
    findings = _findings(facts, took)
    return Response(
        verdict.http_status(findings),
        content_type=JSON,
        body=DatabaseHealth(
            status=verdict.status_of(findings),
            findings=findings,
            answers_in_ms=round(took, 1),
            version=facts.version,
            revision=facts.revision,
            expected_revision=newest_revision(),
            bytes=facts.bytes,
            connections=facts.connections,
            most_connections=facts.most_connections,
            longest_transaction_seconds=round(facts.longest_transaction_seconds, 1),
            last_partition=facts.last_partition,
            unfolded_deltas=facts.count_deltas + facts.run_deltas,
        ),
    )


@cache
def newest_revision() -> str:
    """The newest migration of this release: its files are numbered (alembic itself would cost 100 ms to import)."""
    return max(path.name for path in MIGRATIONS.glob("[0-9]*.py")).partition("_")[0]


def _findings(facts: Row[tuple[object, ...]], took: float) -> list[Finding]:
    found = []
    if facts.revision < newest_revision():
        behind = f"the schema is at {facts.revision}, this release needs {newest_revision()}"
        found.append(bad(behind, "migration-failed"))
    if facts.read_only:
        found.append(bad("the database is read-only: a failover has not ended, or this is a replica", "database-away"))
    if facts.last_partition < facts.next_month:
        found.append(bad("there is no partition for next month's jobs: the sweep does not make them", "heartbeat"))
    used = 100 * facts.connections / facts.most_connections
    if used > CONNECTIONS_PERCENT:
        found.append(degraded(f"{used:.0f} % of the connections are taken", "database-away"))
    if took > LATE_ANSWER_MS:
        found.append(degraded(f"it took {took:.0f} ms to answer", "database-away"))
    if facts.longest_transaction_seconds > LONG_TRANSACTION_SECONDS:
        found.append(degraded(f"a transaction is {facts.longest_transaction_seconds:.0f} s old", "database-away"))
    if max(facts.count_deltas, facts.run_deltas) >= UNFOLDED_DELTAS:
        found.append(degraded("deltas pile up: the sweep does not fold them", "heartbeat"))
    return found
