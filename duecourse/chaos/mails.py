"""The mails of a run: several types in the group of each recipient, few recipients at a time, so groups are full."""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, text

MAILS_PER_READER = 5
"""Of the 20 a day that a reader gets at most: a mail that was in doubt counts again."""
READERS_AT_A_TIME = 5
RESET = "email.password_reset"
ROUTINE = ("email.custom", "email.welcome", "email.task_assignment")

MAKE_READERS = text("""
    WITH new AS MATERIALIZED (
        SELECT n, gen_random_uuid() AS id FROM generate_series(1, CAST(:count AS integer)) AS n
    ), firm AS (
        SELECT tenants.id, row_number() OVER (ORDER BY tenants.id) - 1 AS number, count(*) OVER () AS firms,
               (SELECT c.id FROM clients AS c WHERE c.tenant_id = tenants.id ORDER BY c.id LIMIT 1) AS client_id
        FROM tenants
    ), made AS (
        INSERT INTO users (id, email, name)
        SELECT id, 'reader-' || n || '@chaos.example', 'Reader ' || n FROM new
    ), task AS (
        INSERT INTO tasks (tenant_id, id, client_id, title)
        SELECT firm.id, new.id, firm.client_id, 'Close the books'
        FROM new JOIN firm ON firm.number = mod(new.n, firm.firms)
    )
    INSERT INTO tenant_users (tenant_id, user_id, role)
    SELECT firm.id, new.id, 'viewer' FROM new JOIN firm ON firm.number = mod(new.n, firm.firms)
    RETURNING tenant_id, user_id
""")
"""A task has its reader's id."""


@dataclass(frozen=True, slots=True)
class Reader:
    """Somebody who gets mail."""

    tenant_id: UUID
    user_id: UUID


def make_readers(tx: Connection, mails: int) -> list[Reader]:
    """Enough readers for so many mails."""
    rows = tx.execute(MAKE_READERS, {"count": mails // MAILS_PER_READER + READERS_AT_A_TIME})
    return [Reader(row.tenant_id, row.user_id) for row in rows]


@dataclass
class Mails:
    """Whom the next mail goes to, and what it is."""

    rng: random.Random
    waiting: deque[Reader]
    """Readers who have had none yet."""
    _active: list[Reader] = field(default_factory=list)
    _had: dict[UUID, int] = field(default_factory=dict)

    def next(self, *, reset: bool) -> tuple[Reader, str, dict[str, Any]]:
        """The reader, the job type and the payload."""
        reader = self._next_reader()
        who = {"recipient_kind": "user", "recipient_id": str(reader.user_id)}
        url = "https://app.example/start"
        if reset:
            return reader, RESET, who | {"url": url, "expires_at": (datetime.now(UTC) + timedelta(days=1)).isoformat()}
        name = self.rng.choice(ROUTINE)
        subject = {
            "email.custom": {"subject": "Under way", "body": "A word from your firm."},
            "email.welcome": {"url": url},
            "email.task_assignment": {"task_id": str(reader.user_id)},
        }
        return reader, name, who | subject[name]

    def _next_reader(self) -> Reader:
        """One of a few, none of whom gets more than a day allows."""
        while len(self._active) < READERS_AT_A_TIME and self.waiting:
            self._active.append(self.waiting.popleft())
        reader = self.rng.choice(self._active)
        self._had[reader.user_id] = self._had.get(reader.user_id, 0) + 1
        if self._had[reader.user_id] >= MAILS_PER_READER and self.waiting:
            self._active.remove(reader)
        return reader
