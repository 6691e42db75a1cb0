"""The notices in the application, for the program that shows them: what a user has not read yet, and reading it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from uuid import UUID

from sqlalchemy import Connection, text

from functions.notifications.rules import Category

# Newest first by id, which is a UUIDv7. What was renewed or filed since stays in the list until it is read.
UNREAD = text("""
    SELECT n.id, n.category, coalesce(document_types.name, filing_types.name) AS title, n.client_id,
        c.name AS client_name, n.subject_id, n.due_date, n.milestone, n.created_at
    FROM notifications n
    JOIN clients c ON c.tenant_id = n.tenant_id AND c.id = n.client_id
    LEFT JOIN documents d ON n.category = 'document_expiry' AND d.tenant_id = n.tenant_id AND d.id = n.subject_id
    LEFT JOIN document_types ON document_types.code = d.document_type
    LEFT JOIN filings f ON n.category = 'filing' AND f.tenant_id = n.tenant_id AND f.id = n.subject_id
    LEFT JOIN filing_types ON filing_types.code = f.filing_type
    WHERE n.tenant_id = :tenant AND n.recipient_kind = 'user' AND n.recipient_id = :user
        AND n.channel = 'in_app' AND n.status = 'sent' AND n.read_at IS NULL
        AND (CAST(:before AS uuid) IS NULL OR n.id < CAST(:before AS uuid))
    ORDER BY n.id DESC
    LIMIT :most
""")

# Somebody else's notices among the ids are left alone.
READ = text("""
    UPDATE notifications SET read_at = clock_timestamp()
    WHERE id = ANY(CAST(:ids AS uuid[])) AND tenant_id = :tenant AND recipient_kind = 'user' AND recipient_id = :user
        AND channel = 'in_app' AND read_at IS NULL
""")


@dataclass(frozen=True, slots=True)
class Unread:
    """A notice as the application shows it. The title is None where its document or filing was deleted."""

    id: UUID
    category: Category
    title: str | None
    client_id: UUID
    client_name: str
    subject_id: UUID
    due_date: date
    milestone: int
    """Days left when it was announced; negative: days overdue."""
    created_at: datetime


def unread(
    tx: Connection, tenant_id: UUID, user_id: UUID, *, most: int = 50, before: UUID | None = None
) -> list[Unread]:
    """A user's unread notices, newest first; `before` is the id of the last one already shown."""
    rows = tx.execute(UNREAD, {"tenant": tenant_id, "user": user_id, "most": most, "before": before})
    return [Unread(*row) for row in rows]


def mark_read(tx: Connection, tenant_id: UUID, user_id: UUID, ids: Sequence[UUID]) -> int:
    """The user has read these notices; returns how many were unread until now. Safe to repeat."""
    return tx.execute(READ, {"tenant": tenant_id, "user": user_id, "ids": list(ids)}).rowcount
