"""Orders the jobs of a run, through every outage, as a program with a database does: in transactions, repeated until
they commit, and remembered by dedup key. What was ordered is what the verdict counts against.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Engine, text

from duecourse.local.seed import seed as seed_world
from functions.core.job import JobRequest
from functions.db.engine import is_outage
from functions.pipeline.enqueue import Enqueued, enqueue

WAVE = 200
"""Orders per transaction."""
DEDUP_WINDOW_SECONDS = 86_400.0
RETRY_SECONDS = 0.3
FULL_SECONDS = 0.1
TENANTS, CLIENTS = 20, 400
MAILS_PER_READER = 8
"""Of the 20 a day that a reader gets at most: a mail that was in doubt counts again."""
REPEATED, ROLLED_BACK = 0.05, 0.05
"""Shares of the waves that are ordered twice, and that are ordered, rolled back and ordered again."""


class Kind(StrEnum):
    """What is ordered, and how it has to end."""

    PLAIN = "probe"
    SLOW = "probe that takes up to three seconds"
    RETRIED = "probe that fails once"
    DELAYED = "probe with a delay"
    GIVEN_UP = "probe that gives up"
    REDRIVEN = "probe that dies and is redriven"
    REFRESH = "compliance refresh"
    MAIL = "routine mail"
    CRITICAL = "password reset"


SHARES = {
    Kind.PLAIN: 0.80,
    Kind.SLOW: 0.002,
    Kind.RETRIED: 0.04,
    Kind.DELAYED: 0.028,
    Kind.GIVEN_UP: 0.01,
    Kind.REDRIVEN: 0.005,
    Kind.REFRESH: 0.005,
    Kind.MAIL: 0.10,
    Kind.CRITICAL: 0.01,
}
"""Of the orders."""
PROBES = frozenset({Kind.PLAIN, Kind.SLOW, Kind.RETRIED, Kind.DELAYED, Kind.GIVEN_UP, Kind.REDRIVEN})

OPEN = text("SELECT count(*) FROM jobs WHERE closed_at IS NULL AND died_at IS NULL")


@dataclass(frozen=True, slots=True)
class Reader:
    """Somebody who gets mail."""

    tenant_id: UUID
    user_id: UUID


@dataclass
class Load:
    """The orders of a run and the world they are about."""

    engine: Engine
    rng: random.Random
    seed: int
    backlog: int
    ordered: dict[UUID, Kind] = field(default_factory=dict)
    faults: Counter[str] = field(default_factory=Counter)
    day: date = field(default_factory=lambda: datetime.now(UTC).date())
    tenants: list[UUID] = field(default_factory=list)
    readers: list[Reader] = field(default_factory=list)
    _number: int = 0
    _mails: int = 0

    def prepare(self, jobs: int) -> None:
        """Make the tenants, their clients and documents, and enough readers for the mails."""
        mails = jobs * (SHARES[Kind.MAIL] + SHARES[Kind.CRITICAL]) * 1.2 + 400
        with self.engine.begin() as tx:
            seed_world(
                tx,
                day=self.day,
                created_at=datetime.now(UTC),
                tenants=TENANTS,
                clients=CLIENTS,
                documents=CLIENTS * 8,
                filings=CLIENTS * 6,
            )
            tx.execute(text("UPDATE tenants SET mail_per_day = 1000000"))
            tx.execute(text("UPDATE schedules SET enabled_since = NULL"))  # the deployed cron rules plan nothing
            self.tenants = [row.id for row in tx.execute(text("SELECT id FROM tenants ORDER BY id"))]
            self.readers = _readers(tx, int(mails / MAILS_PER_READER) + 1)
        self.rng.shuffle(self.readers)

    def run(self, jobs: int, progress: Callable[[int], None]) -> None:
        """Order so many jobs, never more than `backlog` open at a time; calls `progress` after each wave."""
        while len(self.ordered) < jobs:
            while self._open() > self.backlog:
                time.sleep(FULL_SECONDS)
            self._wave(min(WAVE, jobs - len(self.ordered)))
            progress(len(self.ordered))

    def trickle(self) -> None:
        """One more mail: traffic goes on, so that the provider's later events tell of the earlier ones."""
        self._insist([(Kind.MAIL, self._request(Kind.MAIL))])

    def _wave(self, size: int) -> None:
        kinds = self.rng.choices(list(SHARES), list(SHARES.values()), k=size)
        orders = [(kind, self._request(kind)) for kind in kinds]
        if self.rng.random() < ROLLED_BACK:
            self.faults["orders rolled back"] += size
            self._roll_back([request for _, request in orders])
        self._insist(orders)
        if self.rng.random() < REPEATED:
            self.faults["orders repeated"] += size
            self._insist(orders)

    def _insist(self, orders: Sequence[tuple[Kind, JobRequest]]) -> None:
        """Order until it has surely been committed. What was in doubt is ordered again under the same keys."""
        requests = [request for _, request in orders]
        while True:
            try:
                with self.engine.begin() as tx:
                    found: Sequence[Enqueued] = enqueue(tx, requests)
                break
            except Exception as error:
                if not is_outage(error):
                    raise
                self.faults["orders interrupted"] += len(requests)
                time.sleep(RETRY_SECONDS)
        for (kind, _), job in zip(orders, found, strict=True):
            self.ordered[job.id] = kind

    def _roll_back(self, requests: Sequence[JobRequest]) -> None:
        try:
            with self.engine.connect() as connection:
                enqueue(connection, requests)
                connection.rollback()
        except Exception as error:
            if not is_outage(error):
                raise

    def _open(self) -> int:
        try:
            with self.engine.begin() as tx:
                return int(tx.execute(OPEN).scalar_one())
        except Exception as error:
            if not is_outage(error):
                raise
            time.sleep(RETRY_SECONDS)
            return 0

    def _request(self, kind: Kind) -> JobRequest:
        self._number += 1
        tenant = self.rng.choice(self.tenants)
        delay: float | None = None
        name = "upkeep.probe"
        payload: dict[str, Any] = {}
        if kind is Kind.SLOW:
            payload = {"sleep_seconds": round(self.rng.uniform(0.5, 3.0), 1)}
        elif kind is Kind.RETRIED:
            payload = {"fail_runs": 1}
        elif kind is Kind.DELAYED:
            delay = self.rng.uniform(1.0, 10.0)
        elif kind is Kind.GIVEN_UP:
            payload = {"give_up": True}
        elif kind is Kind.REDRIVEN:
            payload = {"fail_runs": 3}  # as many as it has attempts
        elif kind is Kind.REFRESH:
            name, payload = "compliance.refresh", {"local_date": str(self.day)}
        elif kind in {Kind.MAIL, Kind.CRITICAL}:
            reader = self._reader()
            tenant = reader.tenant_id
            who = {"recipient_kind": "user", "recipient_id": str(reader.user_id)}
            name, payload = "email.custom", who | {"subject": "Under way", "body": "A word from your firm."}
            if kind is Kind.CRITICAL:
                expires = (datetime.now(UTC) + timedelta(days=1)).isoformat()
                name = "email.password_reset"
                payload = who | {"url": "https://app.example/reset", "expires_at": expires}
        return JobRequest(
            name,
            payload,
            tenant_id=tenant,
            delay_seconds=delay,
            dedup_key=f"chaos-{self.seed}-{self._number}",
            dedup_window_seconds=DEDUP_WINDOW_SECONDS,
        )

    def _reader(self) -> Reader:
        """Each reader in turn, so that none gets more than a day allows."""
        self._mails += 1
        return self.readers[self._mails % len(self.readers)]


def _readers(tx: Connection, count: int) -> list[Reader]:
    rows = tx.execute(
        text("""
            WITH new AS MATERIALIZED (
                SELECT n, gen_random_uuid() AS id FROM generate_series(1, CAST(:count AS integer)) AS n
            ), firm AS (
                SELECT id, row_number() OVER (ORDER BY id) - 1 AS number FROM tenants
            ), made AS (
                INSERT INTO users (id, email, name)
                SELECT id, 'reader-' || n || '@chaos.example', 'Reader ' || n FROM new
            )
            INSERT INTO tenant_users (tenant_id, user_id, role)
            SELECT firm.id, new.id, 'viewer' FROM new JOIN firm ON firm.number = mod(new.n, CAST(:tenants AS integer))
            RETURNING tenant_id, user_id
        """),
        {"count": count, "tenants": TENANTS},
    )
    return [Reader(row.tenant_id, row.user_id) for row in rows]
