"""What a mail carries: the pending notices of its recipient, taken when it is composed and marked when it is sent.

    pending_for (in `prepare`)  takes them for the job, suppresses those that have become pointless
    mark        (in `record`)   says how they ended

Each is one statement, whatever the mails. A notice taken by a job stays that job's while the job is open; what a dead
or cancelled job left pending, the next digest of its recipient takes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Literal
from uuid import UUID

from sqlalchemy import Connection, text

from functions.notifications.rules import PREFERENCE_OFF

# No mail under way carries the notice `n`.
IS_FREE = """(n.job_id IS NULL OR NOT EXISTS (
                SELECT FROM jobs j WHERE j.id = n.job_id AND j.closed_at IS NULL AND j.state <> 'dead'))"""

# A digest (no category) carries what is to be digested, and what an immediate mail of an earlier day failed to carry.
# Rows are locked in the order of their ids, so that two batches cannot deadlock; a notice that two mails of one batch
# could carry goes with the one that had it before.
TAKE_PENDING = text(f"""
    WITH ask AS (
        SELECT * FROM jsonb_to_recordset(CAST(:asks AS jsonb)) AS a(
            job_id uuid, tenant_id uuid, recipient_kind text, recipient_id uuid, category text, local_date date)
    ), candidate AS (
        SELECT n.id, n.job_id, ask.job_id AS taker, ask.local_date AS today
        FROM ask
        JOIN notifications n ON n.tenant_id = ask.tenant_id AND n.recipient_kind = ask.recipient_kind
            AND n.recipient_id = ask.recipient_id
        WHERE n.status = 'pending' AND n.channel = 'email'
            AND CASE WHEN ask.category IS NULL THEN n.mode = 'digest' OR n.local_date < ask.local_date
                     ELSE n.mode = 'immediate' AND n.category = ask.category END
            AND (n.job_id = ask.job_id OR {IS_FREE})
        ORDER BY n.id
        FOR UPDATE OF n
    ), chosen AS (
        SELECT DISTINCT ON (id) id, taker, today FROM candidate
        ORDER BY id, job_id = taker DESC NULLS LAST, taker
    ), judged AS (
        SELECT n.*, chosen.taker, chosen.today, c.name AS client_name,
            coalesce(document_types.name, filing_types.name) AS title,
            CASE
                WHEN n.due_date NOT BETWEEN greatest(chosen.today - 36500, date '0001-01-01')
                                        AND least(chosen.today + 36500, date '9999-12-31')
                    THEN 'more than a century away'
                WHEN n.category = 'document_expiry'
                    AND (d.status IS DISTINCT FROM 'valid' OR latest.expiry_date IS DISTINCT FROM n.due_date)
                    THEN 'no longer due'
                WHEN n.category = 'filing'
                    AND ((f.status IN ('draft', 'prepared')) IS NOT TRUE OR f.due_date <> n.due_date)
                    THEN 'no longer due'
                WHEN n.recipient_kind = 'user' AND NOT EXISTS (
                        SELECT FROM tenant_users u
                        WHERE u.tenant_id = n.tenant_id AND u.user_id = n.recipient_id AND u.role <> 'viewer')
                    THEN 'recipient left'
                WHEN p.mode = 'off' THEN '{PREFERENCE_OFF}'
                WHEN row_number() OVER (
                        PARTITION BY chosen.taker, n.category, n.subject_id, n.due_date ORDER BY n.milestone) > 1
                    THEN 'a later notice covers it'
            END AS pointless
        FROM chosen
        JOIN notifications n ON n.id = chosen.id
        JOIN clients c ON c.tenant_id = n.tenant_id AND c.id = n.client_id
        LEFT JOIN documents d
            ON n.category = 'document_expiry' AND d.tenant_id = n.tenant_id AND d.id = n.subject_id
        LEFT JOIN document_types ON document_types.code = d.document_type
        LEFT JOIN LATERAL (
            SELECT v.expiry_date FROM document_versions v
            WHERE v.tenant_id = d.tenant_id AND v.document_id = d.id
            ORDER BY v.version DESC LIMIT 1
        ) AS latest ON true
        LEFT JOIN filings f ON n.category = 'filing' AND f.tenant_id = n.tenant_id AND f.id = n.subject_id
        LEFT JOIN filing_types ON filing_types.code = f.filing_type
        LEFT JOIN notification_preferences p ON p.tenant_id = n.tenant_id AND p.recipient_kind = n.recipient_kind
            AND p.recipient_id = n.recipient_id AND p.category = n.category AND p.channel = n.channel
    ), taken AS (
        UPDATE notifications n
        SET job_id = judged.taker, reason = judged.pointless,
            status = CASE WHEN judged.pointless IS NULL THEN 'pending' ELSE 'suppressed' END
        FROM judged
        WHERE n.id = judged.id AND (n.job_id IS DISTINCT FROM judged.taker OR judged.pointless IS NOT NULL)
    )
    SELECT taker, id, category, title, client_name, due_date, due_date - today AS days_left
    FROM judged
    WHERE pointless IS NULL
    ORDER BY days_left, client_name, title, id
""")

MARK = text("""
    UPDATE notifications n
    SET status = ended.status, reason = ended.reason,
        sent_at = CASE WHEN ended.status = 'sent' THEN clock_timestamp() END
    FROM jsonb_to_recordset(CAST(:endings AS jsonb)) AS ended(job_id uuid, status text, reason text)
    WHERE n.job_id = ended.job_id AND n.status = 'pending' AND n.channel = 'email'
""")


@dataclass(frozen=True, slots=True)
class Ask:
    """A mail about to be composed: whose, and what it may carry."""

    job_id: UUID
    tenant_id: UUID
    recipient_kind: Literal["user", "client"]
    recipient_id: UUID
    local_date: date
    """The tenant's, from the payload; days left count from it."""
    category: Literal["document_expiry", "filing"] | None = None
    """The one category of an immediate mail; None: a digest."""


@dataclass(frozen=True, slots=True)
class Notice:
    """One line of a mail. `days_left` is negative when overdue."""

    id: UUID
    category: Literal["document_expiry", "filing"]
    title: str
    client_name: str
    due_date: date
    days_left: int


@dataclass(frozen=True, slots=True)
class Ending:
    """How the notices of a mail ended. The reason is required unless they were sent."""

    status: Literal["sent", "suppressed", "failed"]
    reason: str | None = None


def pending_for(tx: Connection, asks: Sequence[Ask]) -> dict[UUID, list[Notice]]:
    """Take what these mails have to carry, by job id, most urgent first; a job with nothing to carry is absent.

    Asking again for the same job returns what it took before and what has come since. Notices that have become
    pointless (renewed, filed, recipient left, preference off, covered by a later one) end suppressed with the reason.
    """
    rows = tx.execute(
        TAKE_PENDING,
        {
            "asks": json.dumps(
                [
                    {
                        "job_id": str(ask.job_id),
                        "tenant_id": str(ask.tenant_id),
                        "recipient_kind": ask.recipient_kind,
                        "recipient_id": str(ask.recipient_id),
                        "category": ask.category,
                        "local_date": ask.local_date.isoformat(),
                    }
                    for ask in asks
                ]
            )
        },
    )
    notices: dict[UUID, list[Notice]] = {}
    for row in rows:
        notice = Notice(row.id, row.category, row.title, row.client_name, row.due_date, row.days_left)
        notices.setdefault(row.taker, []).append(notice)
    return notices


def mark(tx: Connection, endings: Mapping[UUID, Ending]) -> int:
    """End the notices that these jobs took and that are still pending; returns how many. Safe to repeat."""
    rows = [
        {"job_id": str(job_id), "status": ending.status, "reason": ending.reason} for job_id, ending in endings.items()
    ]
    return tx.execute(MARK, {"endings": json.dumps(rows)}).rowcount
