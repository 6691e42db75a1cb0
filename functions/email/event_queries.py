"""The SQL of the provider's events: set-based, and in an order in which two batches cannot deadlock."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from sqlalchemy import Connection, text

if TYPE_CHECKING:
    from functions.core.job import Job
    from functions.email.event_payloads import EmailEvent
    from functions.email.events import Fact

SOFT_BOUNCES_UNTIL_SUPPRESSED = 5
"""In a row, with no delivery between them: a mailbox that is full for good."""

NOTE = text("""
    INSERT INTO mail_events (id, kind, job_id, tenant_id, at)
    SELECT id, kind, job_id, tenant_id, at FROM jsonb_to_recordset(CAST(:events AS jsonb)) AS e(
        id text, kind text, job_id uuid, tenant_id uuid, at timestamptz)
    ORDER BY id
    ON CONFLICT DO NOTHING
""")

# A mail moves forwards only. One in doubt, or given up as such, was sent: the event says so.
MOVE = text("""
    WITH event AS (
        SELECT DISTINCT ON (job_id) * FROM jsonb_to_recordset(CAST(:moves AS jsonb)) AS e(
            job_id uuid, rank integer, state text, provider_id text, at timestamptz, error text)
        ORDER BY job_id, rank DESC
    ), held AS (
        SELECT m.job_id FROM email_messages m JOIN event ON event.job_id = m.job_id
        ORDER BY m.job_id FOR UPDATE OF m
    )
    UPDATE email_messages AS m SET
        state = event.state,
        provider_id = coalesce(m.provider_id, event.provider_id),
        sent_at = coalesce(m.sent_at, event.at),
        error = coalesce(event.error, m.error),
        settled_at = CASE WHEN event.state = 'sent' THEN m.settled_at ELSE event.at END
    FROM event, held
    WHERE m.job_id = event.job_id AND m.job_id = held.job_id
      AND event.rank > coalesce(array_position(CAST(:states AS text[]), m.state), 0)
""")

SUPPRESS = text("""
    INSERT INTO email_suppressions (address, reason, detail)
    SELECT DISTINCT ON (address) address, reason, detail
    FROM jsonb_to_recordset(CAST(:entries AS jsonb)) AS e(address text, reason text, detail text)
    ORDER BY address, reason DESC
    ON CONFLICT (address) DO UPDATE SET reason = excluded.reason, detail = excluded.detail
    WHERE email_suppressions.reason = 'bounce' AND excluded.reason = 'complaint'
""")

# Delivered: the count starts again. The fifth soft bounce in a row suppresses.
COUNT_SOFT = text("""
    WITH counted AS (
        INSERT INTO email_soft_bounces AS s (address, count, last_at)
        SELECT address, count(*), max(at)
        FROM jsonb_to_recordset(CAST(:bounces AS jsonb)) AS b(address text, at timestamptz)
        GROUP BY address ORDER BY address
        ON CONFLICT (address) DO UPDATE SET
            count = s.count + excluded.count, last_at = greatest(s.last_at, excluded.last_at)
        RETURNING address, count
    )
    INSERT INTO email_suppressions (address, reason, detail)
    SELECT address, 'bounce', count || ' soft bounces in a row' FROM counted WHERE count >= :most ORDER BY address
    ON CONFLICT DO NOTHING
""")
FORGET_SOFT = text("""
    DELETE FROM email_soft_bounces s USING jsonb_to_recordset(CAST(:deliveries AS jsonb)) AS d(
        address text, at timestamptz)
    WHERE s.address = d.address AND s.last_at <= d.at
""")

CLEAR = text("""
    WITH soft AS (DELETE FROM email_soft_bounces WHERE address = :address)
    DELETE FROM email_suppressions WHERE address = :address
""")
ADD = text("""
    INSERT INTO email_suppressions (address, reason, detail) VALUES (:address, 'operator', :detail)
    ON CONFLICT DO NOTHING
""")


def take_in(tx: Connection, facts: Sequence[tuple[Job[EmailEvent], Fact]]) -> None:
    """Write what these events say."""
    from functions.email.events import STATES

    events, moves, suppressions = [], [], []
    bounces: list[dict[str, str]] = []
    deliveries: list[dict[str, str]] = []
    for job, fact in facts:
        mail, at = job.payload.mail, job.payload.at.isoformat()
        mail_job, tenant = mail.tag("job"), mail.tag("tenant")
        ids = {"job_id": mail_job and str(mail_job), "tenant_id": tenant and str(tenant)}
        events.append({"id": str(job.id), "kind": fact.kind, "at": at, **ids})
        if fact.state is not None and mail_job is not None:
            rank = STATES.index(fact.state) + 1
            provider = {"provider_id": mail.message_id, "error": fact.detail}
            moves.append({**ids, "rank": rank, "state": fact.state, "at": at, **provider})
        if fact.suppress is not None:
            suppressions += [{"address": a, "reason": fact.suppress, "detail": fact.detail} for a in fact.addresses]
        where = bounces if fact.soft else deliveries if fact.kind == "delivery" else []
        where += [{"address": address, "at": at} for address in fact.addresses]
    tx.execute(NOTE, {"events": json.dumps(events)})
    if moves:
        tx.execute(MOVE, {"moves": json.dumps(moves), "states": list(STATES)})
    if suppressions:
        tx.execute(SUPPRESS, {"entries": json.dumps(suppressions)})
    if bounces:
        tx.execute(COUNT_SOFT, {"bounces": json.dumps(bounces), "most": SOFT_BOUNCES_UNTIL_SUPPRESSED})
    if deliveries:
        tx.execute(FORGET_SOFT, {"deliveries": json.dumps(deliveries)})


def clear_suppression(tx: Connection, address: str) -> bool:
    """An operator lets mail go to an address again. Returns whether it was on the list."""
    return bool(tx.execute(CLEAR, {"address": address.strip().lower()}).rowcount)


def suppress(tx: Connection, address: str, detail: str) -> None:
    """An operator stops all mail to an address."""
    tx.execute(ADD, {"address": address.strip().lower(), "detail": detail})
