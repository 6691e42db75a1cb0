"""The compliance refresh, whole path (read, claim, score, settle), against the old worker's algorithm and against the
bare statement.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any
from uuid import UUID

from sqlalchemy import text

from duecourse.bench import feed, refresh_world
from duecourse.bench.bench import Bench
from duecourse.bench.measure import Figure, Result, take_turns
from duecourse.bench.refresh_world import TODAY
from duecourse.bench.servers import Postgres
from duecourse.local.delivery import LONGEST_SECONDS, Context
from functions.compliance.worker import handler
from functions.core.errors import DuecourseError
from functions.core.job import JobRequest
from functions.db.engine import engine, statements, transaction, transport
from functions.db.sessions import lift_limits
from functions.db.settings import from_url
from functions.pipeline.enqueue import enqueue

UNIT = "s"
GROWTH = 10

# What one would write by hand: every score of every tenant, every row rewritten, no history, nothing around it.
BARE = text("""
    INSERT INTO compliance_scores (tenant_id, client_id, score, level, missing, expiring, overdue, as_of, updated_at)
    SELECT tenant_id, id, score, CASE WHEN score >= 80 THEN 'low' WHEN score >= 50 THEN 'medium' ELSE 'high' END,
           missing, expiring, overdue, CAST(:day AS date), now()
    FROM (
        SELECT c.tenant_id, c.id, coalesce(d.missing, 0) AS missing, coalesce(d.expiring, 0) AS expiring,
               coalesce(f.overdue, 0) AS overdue,
               greatest(0, 100 - 5 * (coalesce(missing, 0) + coalesce(expiring, 0) + coalesce(overdue, 0))) AS score
        FROM clients c
        LEFT JOIN (
            SELECT d.tenant_id, d.client_id,
                   count(*) FILTER (WHERE status IN ('pending_review', 'rejected')) AS missing,
                   count(*) FILTER (WHERE status = 'valid' AND expiry_date BETWEEN CAST(:day AS date)
                                                                           AND CAST(:day AS date) + 30) AS expiring
            FROM documents d
            LEFT JOIN (SELECT DISTINCT ON (tenant_id, document_id) tenant_id, document_id, expiry_date
                       FROM document_versions ORDER BY tenant_id, document_id, version DESC) AS v
                ON v.tenant_id = d.tenant_id AND v.document_id = d.id
            GROUP BY d.tenant_id, d.client_id
        ) AS d ON d.tenant_id = c.tenant_id AND d.client_id = c.id
        LEFT JOIN (
            SELECT tenant_id, client_id, count(*) AS overdue FROM filings
            WHERE status IN ('draft', 'prepared') AND due_date < CAST(:day AS date) GROUP BY tenant_id, client_id
        ) AS f ON f.tenant_id = c.tenant_id AND f.client_id = c.id
    ) AS scored
    ON CONFLICT (tenant_id, client_id) DO UPDATE SET
        score = excluded.score, level = excluded.level, missing = excluded.missing, expiring = excluded.expiring,
        overdue = excluded.overdue, as_of = excluded.as_of, updated_at = excluded.updated_at
""")
CHECKSUM = text("SELECT count(*), sum(score), sum(missing), sum(expiring), sum(overdue) FROM compliance_scores")

# The old worker, for each client: three counts and an upsert.
OLD_MISSING = """
    SELECT count(*) FROM documents
    WHERE tenant_id = $1 AND client_id = $2 AND status IN ('pending_review', 'rejected')"""
OLD_EXPIRING = """
    SELECT count(*) FROM documents d
    WHERE tenant_id = $1 AND client_id = $2 AND status = 'valid' AND (
        SELECT expiry_date FROM document_versions v WHERE v.tenant_id = d.tenant_id AND v.document_id = d.id
        ORDER BY version DESC LIMIT 1) BETWEEN $3::date AND $3::date + 30"""
OLD_OVERDUE = """
    SELECT count(*) FROM filings
    WHERE tenant_id = $1 AND client_id = $2 AND status IN ('draft', 'prepared') AND due_date < $3::date"""
OLD_UPSERT = """
    INSERT INTO compliance_scores (tenant_id, client_id, score, level, missing, expiring, overdue, as_of)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8::date)
    ON CONFLICT (tenant_id, client_id) DO UPDATE SET score = excluded.score, level = excluded.level,
        missing = excluded.missing, expiring = excluded.expiring, overdue = excluded.overdue, as_of = excluded.as_of,
        updated_at = now()"""


def run(bench: Bench) -> Result:
    """Seconds for all tenants."""
    result = Result()
    tenants, clients, rounds = (12, 1_000, 3) if bench.small else (50, 1_000, 5)
    with feed.environment(), bench.postgres.under_test("bench_refresh") as url, feed.quiet():
        _build(tenants, clients)
        everyone = all_tenants()
        bare()
        expected = checksum()
        take_turns(_contestants(url, everyone, rounds), rounds, result, UNIT)
        if checksum() != expected:
            raise DuecourseError(f"the scores differ: the bare statement's {expected}, the worker's {checksum()}")
        result.figures["old"] = _times(result.figures["old"], rounds)
        result.details |= {
            "tenants": tenants,
            "clients": tenants * clients,
            "statements_a_batch": _statements(everyone),
        }
    _compare(result)
    if not bench.small:
        _grow(bench.postgres, result, tenants, clients)
    return result


def _compare(result: Result) -> None:
    # The old one's cost does not depend on what changed: it rewrites each row. It runs where nothing did.
    old = "the old algorithm"
    result.compare("refresh_old_over_ours", "old", ["nothing changed"], against=old, target=40)
    result.compare("refresh_old_over_ours_every_score_changed", "old", ["every score changed"], against=old)
    bare = "the bare statement that rewrites every row"
    for ours, target in (("every score new", 1.3), ("nothing changed", 0.8), ("every score changed", None)):
        name = f"refresh_{ours.replace(' ', '_')}_over_bare"
        result.compare(name, ours, ["bare"], against=bare, sense="at most", target=target)


def _contestants(url: str, everyone: list[UUID], rounds: int) -> dict[str, Callable[[], float]]:
    shares = [everyone[number::rounds] for number in range(rounds)]

    def prepared(prepare: str, work: Callable[[], float]) -> Callable[[], float]:
        def measure() -> float:
            _prepare(prepare)
            return work()

        return measure

    spoil = "UPDATE compliance_scores SET missing = missing + 1"
    return {
        "every score new": prepared("TRUNCATE compliance_scores, compliance_score_history", lambda: whole(everyone)),
        "nothing changed": prepared("TRUNCATE compliance_score_history", lambda: whole(everyone)),
        "every score changed": prepared(spoil, lambda: whole(everyone)),
        "bare": prepared("TRUNCATE compliance_score_history", bare),
        "old": prepared("TRUNCATE compliance_score_history", lambda: old(url, shares.pop())),
    }


def whole(tenants: list[UUID]) -> float:
    """Seconds of the worker for one SQS event with a job of each tenant."""
    event = _ordered(tenants)
    started = time.perf_counter()
    answer = handler(event, Context(LONGEST_SECONDS))
    seconds = time.perf_counter() - started
    if answer["batchItemFailures"]:
        raise DuecourseError(f"{len(answer['batchItemFailures'])} refreshes failed")
    return seconds


def _ordered(tenants: list[UUID]) -> dict[str, Any]:
    payload = {"local_date": TODAY.isoformat()}
    with transaction() as tx:
        enqueue(tx, [JobRequest("compliance.refresh", payload, tenant_id=tenant) for tenant in tenants])
    event = feed.take("compliance-refresh", len(tenants))
    if event is None or len(event["Records"]) != len(tenants):
        raise DuecourseError("the refreshes were not all due")
    return event


def bare() -> float:
    started = time.perf_counter()
    with transaction() as tx:
        tx.execute(BARE, {"day": TODAY})
    return time.perf_counter() - started


def old(url: str, tenants: list[UUID]) -> float:
    """Seconds of the old algorithm for these tenants: one worker, statements prepared, each a commit of its own."""
    import pg8000.native

    settings = from_url(url)
    connection = pg8000.native.Connection(
        settings.user, password=settings.password, database=settings.database, **transport(settings)
    )
    named = [_native(item) for item in (OLD_MISSING, OLD_EXPIRING, OLD_OVERDUE, OLD_UPSERT)]
    missing, expiring, overdue, upsert = (connection.prepare(item) for item in named)
    day = TODAY.isoformat()
    started = time.perf_counter()
    for tenant in tenants:
        for (client,) in connection.run("SELECT id FROM clients WHERE tenant_id = :t", t=tenant):
            found = [
                missing.run(p1=tenant, p2=client)[0][0],
                expiring.run(p1=tenant, p2=client, p3=day)[0][0],
                overdue.run(p1=tenant, p2=client, p3=day)[0][0],
            ]
            score = max(0, 100 - 5 * sum(found))
            level = "low" if score >= 80 else "medium" if score >= 50 else "high"
            upsert.run(p1=tenant, p2=client, p3=score, p4=level, p5=found[0], p6=found[1], p7=found[2], p8=day)
    seconds = time.perf_counter() - started
    connection.close()
    return seconds


def _native(statement: str) -> str:
    """pg8000 names its parameters: `$1` becomes `:p1`, and a cast is written out since `::` would be read as one."""
    for number in range(1, 9):
        statement = statement.replace(f"${number}::date", f"CAST(:p{number} AS date)").replace(
            f"${number}", f":p{number}"
        )
    return statement


def _build(tenants: int, clients: int) -> None:
    with transaction() as tx:
        refresh_world.build(tx, tenants=tenants, clients=clients)
    _prepare("VACUUM ANALYZE")


def _prepare(statement: str) -> None:
    """Bring about the situation, and leave nothing of the last contestant's for this one to pay."""
    with engine().connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        lift_limits(connection, whole_session=True)
        connection.execute(text(statement))
        connection.execute(text("VACUUM ANALYZE jobs, job_count_deltas, compliance_scores, compliance_score_history"))
        connection.execute(text("CHECKPOINT"))


def all_tenants() -> list[UUID]:
    with transaction() as tx:
        return [row.id for row in tx.execute(text("SELECT id FROM tenants ORDER BY id"))]


def checksum() -> tuple[int, ...]:
    with transaction() as tx:
        return tuple(int(value) for value in tx.execute(CHECKSUM).one())


def _statements(everyone: list[UUID]) -> int:
    event = _ordered(everyone)
    before = statements.total
    handler(event, Context(LONGEST_SECONDS))
    return statements.total - before


def _times(figure: Figure, factor: int) -> Figure:
    """A round did one share of the tenants; their cost does not depend on how many are done."""
    return Figure(figure.value * factor, figure.unit, figure.least * factor, figure.most * factor, figure.runs)


def _grow(postgres: Postgres, result: Result, tenants: int, clients: int) -> None:
    """The same for ten times the clients."""
    with feed.environment(), postgres.under_test("bench_refresh_grown") as url, feed.quiet():
        _build(tenants, clients * GROWTH)
        everyone = all_tenants()
        whole(everyone)
        contestants = {name: work for name, work in _contestants(url, everyone, 1).items() if name != "old"}
        grown = Result()
        take_turns(contestants, 2, grown, UNIT)
    for name, figure in grown.figures.items():
        result.figures[f"{name}, {GROWTH} x the clients"] = figure
    for name in ("every score new", "nothing changed"):
        many, few = grown.value(name), result.value(name)
        if many and few:
            result.figures[f"{name}, growth"] = Figure.of([many / few / GROWTH], "x linear")
    against = f"linear growth to {GROWTH} x the clients"
    result.limit("refresh_growth", "every score new, growth", against=against, target=1.5)
