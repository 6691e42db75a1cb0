"""Firms with clients, documents and filings by the hundred thousand, made in the database itself."""

from __future__ import annotations

from datetime import date

from sqlalchemy import Connection, text

from functions.db.sessions import lift_limits

TODAY = date(2026, 11, 24)
DOCUMENTS_PER_CLIENT, FILINGS_PER_CLIENT = 8, 6
TABLES = ("tenants", "clients", "documents", "document_versions", "filings")

# One in eight documents is troubled, as in duecourse/local/seed_world.py; hash() makes it the same every time.
STATEMENTS = (
    "INSERT INTO document_types VALUES ('passport', 'Passport') ON CONFLICT DO NOTHING",
    "INSERT INTO filing_types VALUES ('vat', 'VAT return') ON CONFLICT DO NOTHING",
    """INSERT INTO tenants (id, name, time_zone, created_at)
       SELECT md5('tenant ' || n)::uuid, 'Firm ' || n, 'UTC', '2020-01-01' FROM generate_series(1, :tenants) AS n""",
    """INSERT INTO clients (tenant_id, id, name)
       SELECT t.id, md5(t.name || ' client ' || n)::uuid, 'Client ' || n
       FROM tenants t, generate_series(1, :clients) AS n""",
    """INSERT INTO documents (tenant_id, id, client_id, document_type, status)
       SELECT c.tenant_id, gen_random_uuid(), c.id, 'passport',
              CASE mod(hashtext(c.id::text || n) & 65535, 16)
                  WHEN 0 THEN 'pending_review' WHEN 1 THEN 'archived' ELSE 'valid' END
       FROM clients c, generate_series(1, :documents) AS n""",
    """INSERT INTO document_versions (tenant_id, document_id, version, expiry_date)
       SELECT d.tenant_id, d.id, v, CAST(:today AS date) - 300 + mod(hashtext(d.id::text) & 65535, 1200)
       FROM documents d, generate_series(1, 2) AS v WHERE v = 1 OR mod(hashtext(d.id::text) & 65535, 4) = 0""",
    """INSERT INTO filings (tenant_id, client_id, filing_type, status, due_date)
       SELECT c.tenant_id, c.id, 'vat',
              CASE WHEN mod(hashtext(c.id::text || n) & 65535, 3) = 0 THEN 'draft' ELSE 'filed' END,
              CAST(:today AS date) - 60 + mod(hashtext(n || c.id::text) & 65535, 200)
       FROM clients c, generate_series(1, :filings) AS n""",
)


def build(tx: Connection, *, tenants: int, clients: int) -> None:
    """So many tenants with so many clients each. Foreign keys are not checked while loading: all rows are ours."""
    values = {
        "tenants": tenants,
        "clients": clients,
        "documents": DOCUMENTS_PER_CLIENT,
        "filings": FILINGS_PER_CLIENT,
        "today": TODAY,
    }
    lift_limits(tx)
    tx.execute(text("SET LOCAL session_replication_role = replica"))
    for statement in STATEMENTS:
        names = {name: value for name, value in values.items() if f":{name}" in statement}
        tx.execute(text(statement), names)
