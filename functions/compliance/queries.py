"""The SQL of compliance: set-based, the same number of statements whatever the tenants and clients."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from uuid import UUID

from sqlalchemy import Connection, text

from functions.compliance import rules

# Scores every client of these tenants, each as of its own local date; writes only what changed, and a history row per
# change. Each tenant's row of compliance_refreshes is written first: another batch with the same tenant waits there and
# then sees as of which day the scores are, so that an older day that runs late writes nothing. Rows are ordered so that
# two batches cannot deadlock.
REFRESH = text("""
    WITH asked AS (
        SELECT t.id, d.local_date
        FROM unnest(CAST(:tenant_ids AS uuid[]), CAST(:local_dates AS date[])) AS d(id, local_date)
        JOIN tenants t ON t.id = d.id
    ), tenant AS (
        INSERT INTO compliance_refreshes AS r (tenant_id, as_of)
        SELECT id, local_date FROM asked ORDER BY id
        ON CONFLICT (tenant_id) DO UPDATE SET as_of = excluded.as_of WHERE r.as_of <= excluded.as_of
        RETURNING tenant_id AS id, as_of AS local_date
    ), missing AS (
        SELECT d.tenant_id, d.client_id, count(*) AS missing
        FROM tenant
        JOIN documents d ON d.tenant_id = tenant.id
        WHERE d.status IN ('pending_review', 'rejected')
        GROUP BY d.tenant_id, d.client_id
    ), expiring AS (
        -- Few versions expire within the days that count, so that is asked first, and of those few whether a later
        -- version exists: to find each document's latest version first takes three times as long.
        SELECT d.tenant_id, d.client_id, count(*) AS expiring
        FROM tenant
        JOIN document_versions v ON v.tenant_id = tenant.id
            AND v.expiry_date BETWEEN tenant.local_date AND tenant.local_date + CAST(:expiring_days AS integer)
        JOIN documents d ON d.tenant_id = v.tenant_id AND d.id = v.document_id AND d.status = 'valid'
        WHERE NOT EXISTS (
            SELECT FROM document_versions later
            WHERE later.tenant_id = v.tenant_id AND later.document_id = v.document_id AND later.version > v.version)
        GROUP BY d.tenant_id, d.client_id
    ), filing AS (
        SELECT f.tenant_id, f.client_id, count(*) AS overdue
        FROM tenant
        JOIN filings f ON f.tenant_id = tenant.id
        WHERE f.status IN ('draft', 'prepared') AND f.due_date < tenant.local_date
        GROUP BY f.tenant_id, f.client_id
    ), counted AS (
        SELECT c.tenant_id, c.id AS client_id, tenant.local_date,
            coalesce(missing.missing, 0) AS missing,
            coalesce(expiring.expiring, 0) AS expiring,
            coalesce(filing.overdue, 0) AS overdue
        FROM tenant
        JOIN clients c ON c.tenant_id = tenant.id
        LEFT JOIN missing ON missing.tenant_id = c.tenant_id AND missing.client_id = c.id
        LEFT JOIN expiring ON expiring.tenant_id = c.tenant_id AND expiring.client_id = c.id
        LEFT JOIN filing ON filing.tenant_id = c.tenant_id AND filing.client_id = c.id
    ), scored AS (
        SELECT *, greatest(0, :full_score - :points * (missing + expiring + overdue)) AS score FROM counted
    ), changed AS (
        INSERT INTO compliance_scores AS s
            (tenant_id, client_id, score, level, missing, expiring, overdue, as_of, updated_at)
        SELECT tenant_id, client_id, score,
            CASE WHEN score >= :low_from THEN 'low' WHEN score >= :medium_from THEN 'medium' ELSE 'high' END,
            missing, expiring, overdue, local_date, clock_timestamp()
        FROM scored
        ORDER BY tenant_id, client_id
        ON CONFLICT (tenant_id, client_id) DO UPDATE SET
            score = excluded.score, level = excluded.level, missing = excluded.missing,
            expiring = excluded.expiring, overdue = excluded.overdue, as_of = excluded.as_of,
            updated_at = excluded.updated_at
        WHERE (s.score, s.level, s.missing, s.expiring, s.overdue)
            IS DISTINCT FROM (excluded.score, excluded.level, excluded.missing, excluded.expiring, excluded.overdue)
        RETURNING s.tenant_id, s.client_id, s.score, s.level, s.missing, s.expiring, s.overdue, s.as_of
    ), history AS (
        INSERT INTO compliance_score_history (tenant_id, client_id, score, level, missing, expiring, overdue, as_of)
        SELECT * FROM changed
    )
    SELECT asked.id AS tenant_id, tenant.id IS NOT NULL AS refreshed,
        (SELECT count(*) FROM counted WHERE counted.tenant_id = tenant.id) AS clients,
        (SELECT count(*) FROM changed WHERE changed.tenant_id = tenant.id) AS changed
    FROM asked LEFT JOIN tenant ON tenant.id = asked.id
""")


@dataclass(frozen=True, slots=True)
class Refreshed:
    """What a refresh did for one tenant."""

    clients: int
    changed: int


def refresh(tx: Connection, local_dates: Mapping[UUID, date]) -> dict[UUID, Refreshed | None]:
    """Refresh the scores of these tenants as of their local dates, in one statement.

    None: the tenant's scores are as of a later day already, and nothing was written. The same day is refreshed again.
    Tenants that no longer exist are absent from the result.
    """
    rows = tx.execute(
        REFRESH,
        {
            "tenant_ids": list(local_dates),
            "local_dates": list(local_dates.values()),
            "full_score": rules.FULL_SCORE,
            "points": rules.POINTS_PER_FINDING,
            "expiring_days": rules.EXPIRING_WITHIN_DAYS,
            "low_from": rules.LOW_RISK_FROM,
            "medium_from": rules.MEDIUM_RISK_FROM,
        },
    )
    return {row.tenant_id: Refreshed(row.clients, row.changed) if row.refreshed else None for row in rows}
