"""The SQL of planning: set-based, the same number of statements whatever the tenants, documents and people."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

from sqlalchemy import Connection, Row, TextClause, text

from functions.notifications.queries import IS_FREE
from functions.notifications.rules import (
    AT_ONCE_DAYS,
    DEFAULT_MODE,
    PREFERENCE_OFF,
    Category,
    Channel,
    Warnings,
    after_quiet_hours,
)
from functions.pipeline.zones import known_zone

# What has a due date, by category: of `tenant`, within the days that any milestone covers. Days are added to the local
# date and nothing is taken from a stored date: 'infinity' ("never expires") has no difference from any day.
_SUBJECTS: Mapping[Category, str] = {
    "document_expiry": """
        SELECT d.tenant_id, d.client_id, d.id AS subject_id, latest.expiry_date AS due_date, tenant.local_date
        FROM tenant
        JOIN documents d ON d.tenant_id = tenant.id AND d.status = 'valid'
        JOIN (
            SELECT DISTINCT ON (v.tenant_id, v.document_id) v.tenant_id, v.document_id, v.expiry_date
            FROM document_versions v
            WHERE v.tenant_id = ANY(CAST(:tenant_ids AS uuid[]))
            ORDER BY v.tenant_id, v.document_id, v.version DESC
        ) AS latest ON latest.tenant_id = d.tenant_id AND latest.document_id = d.id
        WHERE latest.expiry_date > tenant.local_date + CAST(:until AS integer)
          AND latest.expiry_date <= tenant.local_date + CAST(:first AS integer)
    """,
    "filing": """
        SELECT f.tenant_id, f.client_id, f.id AS subject_id, f.due_date, tenant.local_date
        FROM tenant
        JOIN filings f ON f.tenant_id = tenant.id AND f.status IN ('draft', 'prepared')
        WHERE f.due_date > tenant.local_date + CAST(:until AS integer)
          AND f.due_date <= tenant.local_date + CAST(:first AS integer)
    """,
}

# A stored time may be 24:00, which Python has not: adding nothing makes it the 00:00 that it is.
# Writes a notice for everyone responsible for what has reached a milestone that they have not been told of. The unique
# constraint decides between two overlapping runs; rows are ordered so that these cannot deadlock.
_PLAN = """
    WITH tenant AS (
        SELECT t.id, t.time_zone, d.local_date, EXISTS (
            SELECT FROM schedule_runs r JOIN jobs j ON j.id = r.job_id
            WHERE r.schedule = 'daily-digest' AND r.tenant_id = t.id AND r.local_date = d.local_date
              AND j.state = 'completed') AS digested
        FROM unnest(CAST(:tenant_ids AS uuid[]), CAST(:local_dates AS date[])) AS d(id, local_date)
        JOIN tenants t ON t.id = d.id
    ), subject AS ({subjects}), reached AS (
        SELECT s.*, (SELECT min(m) FROM unnest(CAST(:milestones AS integer[])) AS m
                     WHERE s.local_date + m >= s.due_date) AS milestone
        FROM subject s
    ), assigned AS (
        SELECT a.tenant_id, a.client_id, a.user_id
        FROM client_assignments a
        JOIN tenant_users u ON u.tenant_id = a.tenant_id AND u.user_id = a.user_id
        WHERE a.tenant_id = ANY(CAST(:tenant_ids AS uuid[])) AND u.role <> 'viewer'
    ), responsible AS (
        SELECT * FROM assigned
        UNION ALL
        SELECT c.tenant_id, c.client_id, u.user_id
        FROM (SELECT DISTINCT tenant_id, client_id FROM reached) AS c
        JOIN tenant_users u ON u.tenant_id = c.tenant_id AND u.role = 'manager'
        WHERE NOT EXISTS (SELECT FROM assigned a WHERE a.tenant_id = c.tenant_id AND a.client_id = c.client_id)
    ), wanted AS (
        SELECT r.*, w.user_id, tenant.digested, coalesce(p.mode, :default_mode) AS mode
        FROM reached r
        JOIN tenant ON tenant.id = r.tenant_id
        JOIN responsible w ON w.tenant_id = r.tenant_id AND w.client_id = r.client_id
        LEFT JOIN notification_preferences p ON p.tenant_id = r.tenant_id AND p.recipient_kind = 'user'
            AND p.recipient_id = w.user_id AND p.category = :category AND p.channel = :channel
        WHERE NOT EXISTS (
            SELECT FROM notifications n
            WHERE n.tenant_id = r.tenant_id AND n.recipient_kind = 'user' AND n.recipient_id = w.user_id
              AND n.category = :category AND n.subject_id = r.subject_id AND n.due_date = r.due_date
              AND n.channel = :channel AND n.milestone <= r.milestone)
    ), added AS (
        INSERT INTO notifications (id, tenant_id, recipient_kind, recipient_id, category, subject_id, client_id,
                                   due_date, milestone, channel, mode, local_date, status, reason, sent_at)
        SELECT uuid7(clock_timestamp() + row_number() OVER (ORDER BY tenant_id, user_id, subject_id)
                     * interval '1 microsecond'),
            tenant_id, 'user', user_id, :category, subject_id, client_id, due_date, milestone, :channel,
            CASE WHEN mode = 'immediate' OR (mode = 'digest' AND digested
                                             AND due_date <= local_date + CAST(:at_once_days AS integer))
                 THEN 'immediate' ELSE 'digest' END,
            local_date,
            CASE WHEN mode = 'off' THEN 'suppressed' WHEN :channel = 'in_app' THEN 'sent' ELSE 'pending' END,
            CASE WHEN mode = 'off' THEN :preference_off END,
            CASE WHEN mode <> 'off' AND :channel = 'in_app' THEN clock_timestamp() END
        FROM wanted
        ORDER BY tenant_id, user_id, subject_id, due_date, milestone
        ON CONFLICT DO NOTHING
        RETURNING tenant_id, recipient_id, mode, status
    ), count AS (
        SELECT tenant_id, count(*) FILTER (WHERE status <> 'suppressed') AS notices,
            count(*) FILTER (WHERE status = 'suppressed') AS suppressed,
            array_agg(DISTINCT recipient_id) FILTER (WHERE status = 'pending' AND mode = 'immediate') AS at_once
        FROM added GROUP BY tenant_id
    ), unheard AS (
        SELECT r.tenant_id, count(*) AS subjects FROM reached r
        WHERE NOT EXISTS (SELECT FROM responsible w WHERE w.tenant_id = r.tenant_id AND w.client_id = r.client_id)
        GROUP BY r.tenant_id
    )
    SELECT tenant.id AS tenant_id, coalesce(count.notices, 0) AS notices, coalesce(count.suppressed, 0) AS suppressed,
        coalesce(unheard.subjects, 0) AS unheard, person.id AS recipient_id,
        coalesce(person.time_zone, tenant.time_zone) AS time_zone, tenant.time_zone AS tenant_zone,
        person.quiet_from + interval '0' AS quiet_from, person.quiet_until + interval '0' AS quiet_until,
        clock_timestamp() AS now
    FROM tenant
    LEFT JOIN count ON count.tenant_id = tenant.id
    LEFT JOIN unheard ON unheard.tenant_id = tenant.id
    LEFT JOIN users person ON person.id = ANY(count.at_once)
    ORDER BY tenant.id, person.id
"""
PLAN: Mapping[Category, TextClause] = {
    category: text(_PLAN.format(subjects=subjects)) for category, subjects in _SUBJECTS.items()
}

# What digests wait for: that tenant's planners of mail of that day. `waited` is since the job was made.
DAY = text("""
    SELECT d.job_id, t.id IS NOT NULL AS tenant_exists, clock_timestamp() AS now,
        coalesce(clock_timestamp() - own.created_at, interval '0') AS waited,
        ARRAY(SELECT r.schedule FROM schedule_runs r JOIN jobs j ON j.id = r.job_id
              WHERE r.tenant_id = d.tenant_id AND r.local_date = d.local_date
                AND r.schedule = ANY(CAST(:schedules AS text[])) AND j.closed_at IS NULL AND j.state <> 'dead'
              ORDER BY r.schedule) AS open_planners
    FROM unnest(CAST(:job_ids AS uuid[]), CAST(:tenant_ids AS uuid[]), CAST(:local_dates AS date[]))
        AS d(job_id, tenant_id, local_date)
    LEFT JOIN tenants t ON t.id = d.tenant_id
    LEFT JOIN jobs own ON own.id = d.job_id
""")

# Whom a digest of the day would tell something: as queries.TAKE_PENDING finds it when the digest is composed.
READERS = text(f"""
    SELECT d.tenant_id, n.recipient_kind, n.recipient_id, clock_timestamp() AS now,
        coalesce(person.time_zone, client.time_zone, t.time_zone) AS time_zone, t.time_zone AS tenant_zone,
        coalesce(person.quiet_from, client.quiet_from) + interval '0' AS quiet_from,
        coalesce(person.quiet_until, client.quiet_until) + interval '0' AS quiet_until
    FROM unnest(CAST(:tenant_ids AS uuid[]), CAST(:local_dates AS date[])) AS d(tenant_id, local_date)
    JOIN tenants t ON t.id = d.tenant_id
    CROSS JOIN LATERAL (
        SELECT DISTINCT n.recipient_kind, n.recipient_id
        FROM notifications n
        WHERE n.tenant_id = d.tenant_id AND n.status = 'pending' AND n.channel = 'email'
          AND (n.mode = 'digest' OR n.local_date < d.local_date) AND {IS_FREE}
    ) AS n
    LEFT JOIN users person ON n.recipient_kind = 'user' AND person.id = n.recipient_id
    LEFT JOIN clients client
        ON n.recipient_kind = 'client' AND client.tenant_id = d.tenant_id AND client.id = n.recipient_id
    ORDER BY d.tenant_id, n.recipient_kind, n.recipient_id
""")


@dataclass(frozen=True, slots=True)
class Reader:
    """Someone to whom a mail is to be sent, and when at the earliest."""

    kind: str
    id: UUID
    not_before: datetime


@dataclass(frozen=True, slots=True)
class Planned:
    """What planning wrote for one tenant."""

    notices: int
    suppressed: int
    unheard: int
    """What is due and has nobody to be told: no one assigned, and the tenant has no manager."""
    at_once: list[Reader]
    """Whose new notices cannot wait for a digest."""


@dataclass(frozen=True, slots=True)
class Day:
    """How the day of one digest-planning job stands."""

    tenant_exists: bool
    now: datetime
    waited: timedelta
    """Since the job was made."""
    open_planners: tuple[str, ...]


def plan(tx: Connection, local_dates: Mapping[UUID, date], warnings: Warnings, channel: Channel) -> dict[UUID, Planned]:
    """Write the notices due in these tenants on their local dates, in one statement.

    Tenants that no longer exist are absent from the result.
    """
    rows = tx.execute(
        PLAN[warnings.category],
        {
            "tenant_ids": list(local_dates),
            "local_dates": list(local_dates.values()),
            "category": warnings.category,
            "channel": channel,
            "milestones": list(warnings.milestones),
            "first": max(warnings.milestones),
            "until": warnings.until,
            "default_mode": DEFAULT_MODE[channel],
            "at_once_days": AT_ONCE_DAYS,
            "preference_off": PREFERENCE_OFF,
        },
    )
    planned: dict[UUID, Planned] = {}
    for row in rows:
        found = planned.setdefault(row.tenant_id, Planned(row.notices, row.suppressed, row.unheard, []))
        if row.recipient_id is not None:
            found.at_once.append(_reader("user", row))
    return planned


def days(tx: Connection, wanted: Mapping[UUID, tuple[UUID, date]], schedules: Collection[str]) -> dict[UUID, Day]:
    """By job id: whether its tenant exists, and which of these schedules' jobs of its local date are still open."""
    rows = tx.execute(
        DAY,
        {
            "job_ids": list(wanted),
            "tenant_ids": [tenant_id for tenant_id, _ in wanted.values()],
            "local_dates": [local_date for _, local_date in wanted.values()],
            "schedules": sorted(schedules),
        },
    )
    return {row.job_id: Day(row.tenant_exists, row.now, row.waited, tuple(row.open_planners)) for row in rows}


def readers(tx: Connection, local_dates: Mapping[UUID, date]) -> dict[UUID, list[Reader]]:
    """Whom the digests of these local dates go to, by tenant; absent where there is nobody."""
    found: dict[UUID, list[Reader]] = {}
    rows = tx.execute(READERS, {"tenant_ids": list(local_dates), "local_dates": list(local_dates.values())})
    for row in rows:
        found.setdefault(row.tenant_id, []).append(_reader(row.recipient_kind, row))
    return found


def _reader(kind: str, row: Row[Any]) -> Reader:
    zone = ZoneInfo(known_zone(row.time_zone, row.tenant_zone))
    not_before = after_quiet_hours(row.now, zone, row.quiet_from, row.quiet_until)
    return Reader(kind, row.recipient_id, not_before)
