"""Orders the jobs of a run, through every outage, as a program with a database does: in transactions, repeated until
they commit, and remembered by dedup key. What was ordered is what the verdict counts against.
"""

from __future__ import annotations

import random
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum
from typing import Any
from uuid import UUID

from sqlalchemy import Engine, text

from duecourse.chaos.mails import Mails, make_readers
from duecourse.chaos.turns import Place
from duecourse.local.seed import seed as seed_world
from functions.core.catalog import CATALOG
from functions.core.job import JobRequest
from functions.db.engine import is_conflict, is_outage
from functions.pipeline.enqueue import Enqueued, enqueue

WAVE = 200
"""Orders per transaction."""
DEDUP_WINDOW_SECONDS = 86_400.0
RETRY_SECONDS = 0.3
FULL_SECONDS = 0.1
TENANTS, CLIENTS = 20, 400
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
    SWALLOWING = "probe that swallows a failed statement"
    ENDING = "probe that ends the transaction"
    FORGETTING = "probe that returns nothing"
    UNREASONED = "probe with a reason that is no text"
    MISORDERING = "probe that orders an invalid follower"
    REFRESH = "compliance refresh"
    MAIL = "routine mail"
    TIMED_MAIL = "routine mail with a time of its own"
    CRITICAL = "password reset"


MISTAKEN = frozenset({Kind.SWALLOWING, Kind.ENDING, Kind.FORGETTING, Kind.UNREASONED, Kind.MISORDERING})
"""Probes whose handler gets something wrong in its first attempt (misbehave)."""
SHARES = {
    Kind.PLAIN: 0.785,
    Kind.SLOW: 0.002,
    Kind.RETRIED: 0.04,
    Kind.DELAYED: 0.028,
    Kind.GIVEN_UP: 0.01,
    Kind.REDRIVEN: 0.005,
    **dict.fromkeys(sorted(MISTAKEN), 0.003),
    Kind.REFRESH: 0.005,
    Kind.MAIL: 0.09,
    Kind.TIMED_MAIL: 0.01,
    Kind.CRITICAL: 0.01,
}
"""Of the orders."""
PROBES = MISTAKEN | {Kind.PLAIN, Kind.SLOW, Kind.RETRIED, Kind.DELAYED, Kind.GIVEN_UP, Kind.REDRIVEN}
MAILS = frozenset({Kind.MAIL, Kind.TIMED_MAIL, Kind.CRITICAL})

OPEN = text("SELECT count(*) FROM jobs WHERE closed_at IS NULL AND died_at IS NULL")
UNDECIDED = text("SELECT id FROM jobs WHERE id = ANY(CAST(:ids AS uuid[])) AND state = 'blocked'")


@dataclass(frozen=True, slots=True)
class Order:
    """One job that a program wants, and its place among all that it wants."""

    kind: Kind
    request: JobRequest
    number: int


@dataclass
class Load:
    """The orders of a run and the world they are about."""

    engine: Engine
    rng: random.Random
    seed: int
    backlog: int
    ordered: dict[UUID, Kind] = field(default_factory=dict)
    places: dict[UUID, Place] = field(default_factory=dict)
    """Of the mails of FIFO queues."""
    recent: deque[Order] = field(default_factory=lambda: deque(maxlen=WAVE))
    """The last that were committed."""
    again: deque[Sequence[Order]] = field(default_factory=deque)
    """Orders of which somebody else does not know whether they were committed: they are ordered again."""
    faults: Counter[str] = field(default_factory=Counter)
    day: date = field(default_factory=lambda: datetime.now(UTC).date())
    tenants: list[UUID] = field(default_factory=list)
    _number: int = 0
    _mails: Mails = field(init=False, repr=False)

    def prepare(self, jobs: int) -> None:
        """Make the tenants, their clients and documents, and enough readers for the mails."""
        mails = int(jobs * sum(SHARES[kind] for kind in MAILS) * 1.2 + 400)
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
            readers = make_readers(tx, mails)
        self.rng.shuffle(readers)
        self._mails = Mails(self.rng, deque(readers))

    def run(self, jobs: int, progress: Callable[[int], None]) -> None:
        """Order so many jobs, never more than `backlog` open at a time; calls `progress` after each wave."""
        while len(self.ordered) < jobs:
            while self._open() > self.backlog:
                time.sleep(FULL_SECONDS)
            self._wave(min(WAVE, jobs - len(self.ordered)))
            self.settle_doubts()
            progress(len(self.ordered))

    def trickle(self) -> None:
        """One more mail: traffic goes on, so that the provider's later events tell of the earlier ones."""
        self._insist([self.order(Kind.MAIL)])

    def settle_doubts(self) -> None:
        """Order again what somebody does not know the fate of."""
        while self.again:
            self._insist(self.again.popleft())

    def order(self, kind: Kind) -> Order:
        """The next order of a kind."""
        self._number += 1
        return Order(kind, self._request(kind), self._number)

    def _wave(self, size: int) -> None:
        orders = [self.order(kind) for kind in self.rng.choices(list(SHARES), list(SHARES.values()), k=size)]
        if self.rng.random() < ROLLED_BACK:
            self.faults["orders rolled back"] += size
            self._roll_back(orders)
        self._insist(orders)
        if self.rng.random() < REPEATED:
            self.faults["orders repeated"] += size
            self._insist(orders)

    def _insist(self, orders: Sequence[Order]) -> None:
        """Order until it has surely been committed. What was in doubt is ordered again under the same keys."""
        requests = [order.request for order in orders]
        began = time.time()
        while True:
            try:
                with self.engine.begin() as tx:
                    found: Sequence[Enqueued] = enqueue(tx, requests)
                    undecided = set(tx.execute(UNDECIDED, {"ids": [job.id for job in found]}).scalars())
                break
            except Exception as error:
                if not (is_outage(error) or is_conflict(error)):
                    raise
                self.faults["orders interrupted"] += len(requests)
                time.sleep(RETRY_SECONDS)
        ended = time.time()
        for order, job in zip(orders, found, strict=True):
            # When a job comes due whose key was another transaction's, only the ledger knows.
            if order.kind in MAILS and job.id not in self.ordered and job.id not in undecided:
                self.places[job.id] = _place(order, began, ended)
            self.ordered[job.id] = order.kind
        self.recent.extend(orders)

    def _roll_back(self, orders: Sequence[Order]) -> None:
        try:
            with self.engine.connect() as connection:
                enqueue(connection, [order.request for order in orders])
                connection.rollback()
        except Exception as error:
            if not (is_outage(error) or is_conflict(error)):
                raise

    def _open(self) -> int:
        try:
            with self.engine.begin() as tx:
                return int(tx.execute(OPEN).scalar_one())
        except Exception as error:
            if not (is_outage(error) or is_conflict(error)):
                raise
            time.sleep(RETRY_SECONDS)
            return 0

    def _request(self, kind: Kind) -> JobRequest:
        payload: dict[str, Any] = {}
        if kind is Kind.SLOW:
            payload = {"sleep_seconds": round(self.rng.uniform(0.5, 3.0), 1)}
        elif kind is Kind.RETRIED:
            payload = {"fail_runs": 1}
        elif kind is Kind.GIVEN_UP:
            payload = {"give_up": True}
        elif kind is Kind.REDRIVEN:
            payload = {"fail_runs": 3}  # as many as it has attempts
        elif kind in MISTAKEN:
            payload = {"note": kind.value}
        request = JobRequest(
            "upkeep.probe",
            payload,
            tenant_id=self.rng.choice(self.tenants),
            dedup_key=f"chaos-{self.seed}-{self._number}",
            dedup_window_seconds=DEDUP_WINDOW_SECONDS,
        )
        if kind is Kind.DELAYED:
            return replace(request, delay_seconds=self.rng.uniform(1.0, 10.0))
        if kind is Kind.REFRESH:
            return replace(request, type="compliance.refresh", payload={"local_date": str(self.day)})
        if kind in MAILS:
            reader, name, payload = self._mails.next(reset=kind is Kind.CRITICAL)
            request = replace(request, type=name, payload=payload, tenant_id=reader.tenant_id)
            if kind is Kind.TIMED_MAIL:
                return replace(request, run_at=datetime.now(UTC) + timedelta(seconds=self.rng.uniform(1.0, 10.0)))
        return request


def _place(order: Order, began: float, ended: float) -> Place:
    request = order.request
    row = CATALOG.job_type(request.type)
    group = "/".join([row.queue, str(request.tenant_id), *(str(request.payload[name]) for name in row.group)])
    if request.run_at is None:
        return Place(group, order.number, timed=False, due_from=began, due_until=ended)
    due = request.run_at.timestamp()
    return Place(group, order.number, timed=True, due_from=due, due_until=max(due, ended))
