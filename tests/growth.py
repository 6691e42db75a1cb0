"""A ledger and its neighbours as years leave them, and what the flow's statements would read of that."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from sqlalchemy import Connection, Engine, event, text
from sqlalchemy.exc import DBAPIError

TENANTS = 50
SELECTIVE = 0.1
"""The share of a table from which on a look at it grows with the table."""

TABLES = (
    "job_keys",
    "schedule_runs",
    "rejected_messages",
    "email_messages",
    "mail_events",
    "notifications",
    "compliance_score_history",
)
PARTITION = re.compile(r"(jobs|job_attempts)_(\d{4}_\d{2}|default)")

# Rows spread over the year that ended yesterday, and over the tenants.
FILL = """
WITH tenant AS (
    INSERT INTO tenants (name, time_zone, created_at)
    SELECT 'Firm', 'UTC', now() - interval '3 years' FROM generate_series(1, :tenants) RETURNING id
), client AS (
    INSERT INTO clients (tenant_id, name) SELECT id, 'Client' FROM tenant RETURNING tenant_id, id
)
SELECT array_agg(tenant_id ORDER BY id) AS tenants, array_agg(id ORDER BY id) AS clients FROM client
"""
_N = """
    FROM generate_series(1, :rows) AS n,
        LATERAL (SELECT now() - interval '1 day' - n * interval '1 year' / :rows AS at,
                        (CAST(:tenants AS uuid[]))[1 + mod(n, :count)] AS tenant,
                        (CAST(:clients AS uuid[]))[1 + mod(n, :count)] AS client) AS spread
"""
HISTORY = (
    f"INSERT INTO job_keys SELECT 'key-' || n, gen_random_uuid(), now() + interval '1 year' {_N}",
    """INSERT INTO schedule_runs
       SELECT s.name, t.id, d.day::date, 'planned', d.day, d.day, gen_random_uuid()
       FROM schedules s, unnest(CAST(:tenants AS uuid[])) AS t(id),
            generate_series(now() - interval '200 days', now() - interval '2 days', interval '1 day') AS d(day)""",
    f"INSERT INTO rejected_messages SELECT 'upkeep', 'message-' || n, 'the body is no JSON', 1, at, at {_N}",
    f"""INSERT INTO email_messages (job_id, tenant_id, type, critical, address, subject, state, provider_id,
                                    intended_at)
        SELECT gen_random_uuid(), tenant, 'email.custom', false, 'a@example.com', 's', 'sent', 'p' || n, at {_N}""",
    f"INSERT INTO mail_events SELECT 'event-' || n, 'delivery', gen_random_uuid(), tenant, at {_N}",
    f"""INSERT INTO notifications (id, tenant_id, recipient_kind, recipient_id, category, subject_id, client_id,
                                   due_date, milestone, channel, mode, local_date, status, job_id, sent_at)
        SELECT gen_random_uuid(), tenant, 'user', gen_random_uuid(), 'filing', gen_random_uuid(), client, at::date, 3,
               'email', 'digest', at::date, 'sent', gen_random_uuid(), at {_N}""",
    f"""INSERT INTO compliance_score_history (tenant_id, client_id, score, level, missing, expiring, overdue, as_of)
        SELECT tenant, client, 100, 'low', 0, 0, 0, at::date {_N}""",
    # One of five is dead.
    f"""INSERT INTO jobs (id, queue, type, state, tenant_id, payload, priority, correlation_id, run_at, sent_at,
                          attempts, runs, started_at, died_at, closed_at)
        SELECT uuid7(now() - n * interval '1 second'), t.queue, t.name, dead.state, tenant, '{{}}', 0, n::text, at, at,
               1, 1, at, CASE WHEN dead.state = 'dead' THEN at END, CASE WHEN dead.state = 'completed' THEN at END
        {_N},
        LATERAL (SELECT CASE WHEN mod(n, 5) = 0 THEN 'dead' ELSE 'completed' END AS state) AS dead,
        LATERAL (SELECT array_agg(name ORDER BY name) AS names FROM job_types) AS types,
        LATERAL (SELECT name, queue FROM job_types
                 WHERE name = types.names[1 + mod(n, array_length(types.names, 1))]) AS t""",
    """INSERT INTO job_attempts (job_id, run, outcome, counted)
       SELECT id, n, 'failed', true FROM jobs, generate_series(1, 2) AS n""",
)


def grow(engine: Engine, rows: int) -> None:
    """Leave so many rows of history in each table that grows."""
    with engine.begin() as tx:
        made = tx.execute(text(FILL), {"tenants": TENANTS}).one()
        values = {"rows": rows, "tenants": made.tenants, "clients": made.clients, "count": TENANTS}
        for statement in HISTORY:
            tx.execute(text(statement), {name: value for name, value in values.items() if f":{name}" in statement})
        tx.execute(text("UPDATE schedules SET enabled_since = now() - interval '1 year'"))
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("VACUUM ANALYZE"))


@contextmanager
def executed(engine: Engine) -> Iterator[dict[str, Any]]:
    """The statements that an engine executes meanwhile, each with the parameters of its first time."""
    seen: dict[str, Any] = {}

    def note(_connection: Any, _cursor: Any, statement: str, parameters: Any, _context: Any, _many: bool) -> None:
        seen.setdefault(statement, parameters)

    event.listen(engine, "before_cursor_execute", note)
    yield seen
    event.remove(engine, "before_cursor_execute", note)


def growing_reads(engine: Engine, seen: Mapping[str, Any]) -> list[str]:
    """Looks at a table that grows which grow with it: all of it, or a tenth. Each statement is done again, and undone.

    What the first time has changed may forbid it a second time; then its plan alone is looked at.
    """
    found = []
    with engine.connect() as connection:
        sizes = {
            row.relname: row.reltuples
            for row in connection.execute(text("SELECT relname, reltuples FROM pg_class WHERE reltuples > 1000"))
            if row.relname in TABLES or PARTITION.fullmatch(row.relname)
        }
        connection.rollback()
        for statement, parameters in seen.items():
            if re.match(r"\s*(SELECT|WITH|INSERT|UPDATE|DELETE)\b", statement):
                for relation, how, rows in _reads(_plan(connection, statement, parameters)):
                    if relation in sizes and (how == "Seq Scan" or rows > SELECTIVE * sizes[relation]):
                        found.append(f"{how} of {relation}, {rows} rows of {sizes[relation]}: {statement.strip()}")
    return found


def _plan(connection: Connection, statement: str, parameters: Any) -> Any:
    for option in ("ANALYZE, TIMING OFF,", ""):
        with suppress(DBAPIError), connection.begin() as transaction:
            plan = connection.exec_driver_sql(f"EXPLAIN ({option} FORMAT JSON) {statement}", parameters).scalar_one()
            transaction.rollback()
            return (json.loads(plan) if isinstance(plan, str) else plan)[0]["Plan"]
    raise AssertionError(f"no plan for {statement}")


def _reads(plan: Mapping[str, Any]) -> Iterator[tuple[str, str, float]]:
    """What a plan reads: the relation, how, and how many rows in all, those that a filter dropped among them."""
    if "Relation Name" in plan and "Scan" in plan["Node Type"] and plan.get("Actual Loops", 1):
        rows = plan.get("Actual Rows", plan["Plan Rows"]) + plan.get("Rows Removed by Filter", 0)
        yield plan["Relation Name"], plan["Node Type"], rows * plan.get("Actual Loops", 1)
    for part in plan.get("Plans", []):
        yield from _reads(part)
