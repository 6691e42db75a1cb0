"""The SQL of sending: each statement serves a whole batch, whatever its size."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date, datetime, time
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

from sqlalchemy import Connection, Row, text

from functions.core.job import Job
from functions.pipeline.zones import known_zone

# Everything that decides whether a mail goes out, and how it looks. A recipient of another tenant is not found.
# A stored time may be 24:00, which Python has not: adding nothing makes it the 00:00 that it is.
LOAD = text("""
    WITH wanted AS (
        SELECT * FROM jsonb_to_recordset(CAST(:wanted AS jsonb)) AS w(
            job_id uuid, tenant_id uuid, kind text, recipient_id uuid)
    )
    SELECT w.job_id, w.tenant_id, w.kind, w.recipient_id,
        t.name AS tenant_name, t.color, t.logo_url, t.mail_paused_reason, t.mail_per_day, t.time_zone AS tenant_zone,
        t.locale AS tenant_locale,
        u.id IS NOT NULL OR c.id IS NOT NULL AS known,
        coalesce(u.email, c.email) AS address, coalesce(u.name, c.name) AS name,
        coalesce(u.locale, c.locale, t.locale) AS locale,
        coalesce(u.time_zone, c.time_zone, t.time_zone) AS time_zone,
        coalesce(u.quiet_from, c.quiet_from) + interval '0' AS quiet_from,
        coalesce(u.quiet_until, c.quiet_until) + interval '0' AS quiet_until,
        ARRAY(SELECT p.category FROM notification_preferences p
              WHERE p.tenant_id = w.tenant_id AND p.recipient_kind = w.kind AND p.recipient_id = w.recipient_id
                AND p.channel = 'email' AND p.mode = 'off') AS switched_off,
        s.reason AS suppressed,
        m.state, m.intended_at,
        m.state = 'intended' AND EXISTS (
            SELECT FROM mail_events e WHERE e.at > m.intended_at + CAST(:doubt AS interval)) AS later_events,
        clock_timestamp() AS now
    FROM wanted w
    LEFT JOIN tenants t ON t.id = w.tenant_id
    LEFT JOIN tenant_users tu ON w.kind = 'user' AND tu.tenant_id = t.id AND tu.user_id = w.recipient_id
    LEFT JOIN users u ON u.id = tu.user_id
    LEFT JOIN clients c ON w.kind = 'client' AND c.tenant_id = t.id AND c.id = w.recipient_id
    LEFT JOIN email_suppressions s ON s.address = lower(coalesce(u.email, c.email))
    LEFT JOIN email_messages m ON m.job_id = w.job_id
""")

# Where a Send event came before this, the row knows more than the sender does: its state stays.
RECORD = text("""
    UPDATE email_messages AS m SET
        state = CASE WHEN m.state = 'intended' THEN r.state ELSE m.state END,
        provider_id = coalesce(r.provider_id, m.provider_id),
        error = r.error,
        sent_at = CASE WHEN r.state = 'sent' THEN coalesce(m.sent_at, clock_timestamp()) ELSE m.sent_at END,
        settled_at = CASE WHEN r.state IN ('failed', 'in_doubt') THEN clock_timestamp() ELSE m.settled_at END
    FROM jsonb_to_recordset(CAST(:results AS jsonb)) AS r(job_id uuid, state text, provider_id text, error text)
    WHERE m.job_id = r.job_id
""")


# Of a recipient that is gone nothing is kept.
SWITCH_OFF = text("""
    INSERT INTO notification_preferences (tenant_id, recipient_kind, recipient_id, category, channel, mode)
    SELECT t.id, :kind, :recipient, category, 'email', 'off'
    FROM tenants t, unnest(CAST(:categories AS text[])) AS category
    WHERE t.id = :tenant
    ON CONFLICT (tenant_id, recipient_kind, recipient_id, category, channel)
    DO UPDATE SET mode = 'off', updated_at = now()
""")


@dataclass(frozen=True, slots=True)
class Letter:
    """What the database knows about a mail about to be sent; `None` where it knows nothing."""

    job_id: UUID
    tenant_id: UUID | None
    kind: str
    recipient_id: UUID
    tenant_name: str | None
    color: str
    logo_url: str | None
    mail_paused_reason: str | None
    mail_per_day: int
    tenant_zone: str
    tenant_locale: str
    known: bool
    """The recipient is one of the tenant's."""
    address: str | None
    name: str
    locale: str
    time_zone: str
    quiet_from: time | None
    quiet_until: time | None
    switched_off: Sequence[str]
    suppressed: str | None
    state: str | None
    """Of an earlier run's email_messages row."""
    intended_at: datetime | None
    later_events: bool | None
    """The provider has reported other mails since this one was doubted."""
    now: datetime


@dataclass(frozen=True, slots=True)
class Result:
    """What became of an intent, for its row."""

    job_id: UUID
    state: str
    provider_id: str | None = None
    error: str | None = None


def load(tx: Connection, jobs: Sequence[Job[Any]], *, doubt_seconds: float) -> dict[UUID, Letter]:
    """The letters of these jobs, one statement."""
    wanted = [
        {
            "job_id": str(job.id),
            "tenant_id": job.tenant_id and str(job.tenant_id),
            "kind": job.payload.recipient_kind,
            "recipient_id": str(job.payload.recipient_id),
        }
        for job in jobs
    ]
    rows = tx.execute(LOAD, {"wanted": json.dumps(wanted), "doubt": f"{doubt_seconds} seconds"})
    return {row.job_id: _letter(row) for row in rows}


def _letter(row: Row[Any]) -> Letter:
    zones = {
        "tenant_zone": known_zone(row.tenant_zone),
        "time_zone": known_zone(row.time_zone, row.tenant_zone),
    }
    return Letter(**(row._asdict() | zones))


def database_now(tx: Connection) -> datetime:
    """The database's clock, which snoozes are measured on."""
    now: datetime = tx.execute(text("SELECT clock_timestamp()")).scalar_one()
    return now


def local_date(now: datetime, zone: str) -> date:
    """The day that it is in a zone."""
    return now.astimezone(ZoneInfo(zone)).date()


def record(tx: Connection, results: Sequence[Result]) -> None:
    """Complete the rows of intents."""
    tx.execute(RECORD, {"results": json.dumps([asdict(result) for result in results], default=str)})


def switch_off(tx: Connection, tenant_id: UUID, kind: str, recipient_id: UUID, categories: Sequence[str]) -> None:
    """A recipient wants no more mail of these categories."""
    who = {"tenant": tenant_id, "kind": kind, "recipient": recipient_id}
    tx.execute(SWITCH_OFF, {**who, "categories": list(categories)})


# What the one-off mails speak of, found only within the tenant; `client_id` tells whether a client may read it. A task
# that is due on no day of the calendar ('infinity') is a task without a due date; an invoice must have one.
SUBJECTS: Mapping[str, Any] = {
    "task_assignment": text("""
        SELECT w.job_id, t.client_id, t.title, c.name AS client_name,
            CASE WHEN t.due_date BETWEEN date '0001-01-01' AND date '9999-12-31' THEN t.due_date END AS due_date
        FROM jsonb_to_recordset(CAST(:wanted AS jsonb)) AS w(job_id uuid, tenant_id uuid, id uuid)
        JOIN tasks t ON t.tenant_id = w.tenant_id AND t.id = w.id
        JOIN clients c ON c.tenant_id = t.tenant_id AND c.id = t.client_id
    """),
    "service_request_update": text("""
        SELECT w.job_id, s.client_id, s.title, s.status
        FROM jsonb_to_recordset(CAST(:wanted AS jsonb)) AS w(job_id uuid, tenant_id uuid, id uuid)
        JOIN service_requests s ON s.tenant_id = w.tenant_id AND s.id = w.id
    """),
    "invoice": text("""
        SELECT w.job_id, i.client_id, i.number, i.amount, i.currency, i.due_date
        FROM jsonb_to_recordset(CAST(:wanted AS jsonb)) AS w(job_id uuid, tenant_id uuid, id uuid)
        JOIN invoices i ON i.tenant_id = w.tenant_id AND i.id = w.id
    """),
}


def subjects(tx: Connection, mail_type: str, ids: Mapping[UUID, tuple[UUID, UUID]]) -> dict[UUID, Mapping[str, Any]]:
    """What these mails speak of, by job id; `ids` are (tenant, subject) by job id. Absent where there is no such."""
    wanted = [{"job_id": str(job), "tenant_id": str(tenant), "id": str(key)} for job, (tenant, key) in ids.items()]
    rows = tx.execute(SUBJECTS[mail_type], {"wanted": json.dumps(wanted)})
    return {row.job_id: dict(row._mapping) for row in rows}
