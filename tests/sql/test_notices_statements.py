"""Planning issues as many statements for a thousand tenants as for ten."""

from __future__ import annotations

import pytest
from sqlalchemy import Connection, Engine, text

from functions.core.catalog import CATALOG
from functions.core.outcome import Done
from functions.core.resolve import resolve
from functions.db.engine import statements
from tests.notices import PLANNERS, TODAY, in_days, planning_job

WORLD = text("""
    WITH t AS (
        INSERT INTO tenants (name, time_zone) SELECT 'Firm', 'UTC' FROM generate_series(1, :tenants) RETURNING id
    ), u AS (
        INSERT INTO users (id, email, name) SELECT t.id, t.id || '@example.com', 'Ada' FROM t
    ), m AS (
        INSERT INTO tenant_users SELECT id, id, 'manager' FROM t
    ), c AS (
        INSERT INTO clients (tenant_id, id, name) SELECT id, id, 'Client' FROM t
    ), d AS (
        INSERT INTO documents (tenant_id, id, client_id, document_type, status)
        SELECT id, id, id, 'passport', 'valid' FROM t
    ), v AS (
        INSERT INTO document_versions (tenant_id, document_id, version, expiry_date) SELECT id, id, 1, :due FROM t
    ), f AS (
        INSERT INTO filings (tenant_id, client_id, filing_type, status, due_date)
        SELECT id, id, 'vat', 'draft', :due FROM t
    )
    SELECT id FROM t
""")


def count(tx: Connection, job_type: str, tenants: int) -> tuple[int, int]:
    """How many statements planning takes for so many tenants, and how much it planned."""
    ids = [row.id for row in tx.execute(WORLD, {"tenants": tenants, "due": in_days(3)})]
    handler = resolve(CATALOG.job_type(job_type).perform)
    if job_type == "email.digests":
        resolve(CATALOG.job_type("email.document_expiry").perform)(
            [planning_job("email.document_expiry", tenant) for tenant in ids], tx
        )
    jobs = [planning_job(job_type, tenant, TODAY) for tenant in ids]
    before = statements.total
    outcomes = handler(jobs, tx)
    taken = statements.total - before
    assert all(isinstance(outcome, Done) for outcome in outcomes)
    return taken, sum(outcome.result.get("notices", len(outcome.enqueue)) for outcome in outcomes)


@pytest.mark.parametrize("job_type", [*PLANNERS, "email.digests"])
def test_a_thousand_tenants_take_no_more_statements_than_ten(database: Engine, job_type: str) -> None:
    with database.begin() as tx:
        tx.execute(text("INSERT INTO document_types VALUES ('passport', 'Passport')"))
        tx.execute(text("INSERT INTO filing_types VALUES ('vat', 'VAT return')"))
        few, planned_few = count(tx, job_type, 10)
        many, planned_many = count(tx, job_type, 1_000)
    assert (planned_few, planned_many) == (10, 1_000)
    assert few == many <= 2
