"""Applications that share the database with the flow and hold a transaction open: with orders, with locks, or idle."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import Connection, Engine, text

from duecourse.chaos.load import Kind, Load, Order
from functions.db.engine import is_conflict, is_outage, make_engine
from functions.pipeline.enqueue import enqueue

if TYPE_CHECKING:
    from functions.db.settings import DatabaseSettings

HOLD_SECONDS = 4.0
IDLE_LIMIT_SECONDS = 4
"""Instead of the flow's own limit of more than a minute, which is longer than any function runs."""
IDLE_MARGIN_SECONDS = 2.0
FRESH_ORDERS, HELD_ORDERS = 20, 30
LOCKED_JOBS = 20

LOCK_QUEUES = text("SELECT name FROM queues ORDER BY name FOR UPDATE")
LOCK_JOBS = text("""
    SELECT id FROM jobs WHERE closed_at IS NULL AND state IN ('waiting', 'retrying', 'delayed')
    ORDER BY id LIMIT :most FOR UPDATE SKIP LOCKED
""")
LIMIT_IDLE = text("SELECT set_config('idle_in_transaction_session_timeout', :limit, false)")


@dataclass
class Applications:
    """The programs. Each method holds a transaction for some seconds, and is to be run in a thread of its own."""

    database: DatabaseSettings
    load: Load

    def orders(self, wanted: Sequence[Order], held: Sequence[Order], *, commit: bool) -> None:
        """Order fresh keys among keys that are held already, and commit, or roll back, seconds later."""
        requests = [order.request for order in (*wanted, *held)]
        self.load.faults[f"application kept its orders open, then {'committed' if commit else 'rolled back'}"] += 1

        def work(tx: Connection) -> None:
            found = enqueue(tx, requests)
            time.sleep(HOLD_SECONDS)
            if commit:
                tx.commit()
                for order, job in zip(wanted, found, strict=False):
                    self.load.ordered[job.id] = order.kind
            else:
                tx.rollback()

        if not self._in_transaction(work) and commit:
            self.load.again.append(wanted)

    def locks(self) -> None:
        """Lock the rows of `queues` and of some jobs, and let them go seconds later."""
        self.load.faults["application locked queues and jobs"] += 1

        def work(tx: Connection) -> None:
            _lock(tx)
            time.sleep(HOLD_SECONDS)
            tx.rollback()

        self._in_transaction(work)

    def idle(self) -> None:
        """Lock the same and then do nothing, until PostgreSQL ends the session."""
        self.load.faults["application idle in its transaction"] += 1

        def work(tx: Connection) -> None:
            tx.execute(LIMIT_IDLE, {"limit": f"{IDLE_LIMIT_SECONDS}s"})
            _lock(tx)
            time.sleep(IDLE_LIMIT_SECONDS + IDLE_MARGIN_SECONDS)

        self._in_transaction(work)

    def _in_transaction(self, work: Callable[[Connection], None]) -> bool:
        """Whether it went through; a database that is away, or a lock not had, is the application's own affair."""
        engine: Engine = make_engine(self.database)
        try:
            with engine.connect() as tx:
                work(tx)
        except Exception as error:
            if not (is_outage(error) or is_conflict(error)):
                raise
            return False
        else:
            return True
        finally:
            with suppress(Exception):
                engine.dispose()


def pick(load: Load) -> tuple[list[Order], list[Order]]:
    """Fresh orders, and some of those made last, whose keys are held. To be called where the load is ordered."""
    fresh = [load.order(Kind.PLAIN) for _ in range(FRESH_ORDERS)]
    return fresh, load.rng.sample(list(load.recent), min(HELD_ORDERS, len(load.recent)))


def _lock(tx: Connection) -> None:
    tx.execute(LOCK_QUEUES)
    tx.execute(LOCK_JOBS, {"most": LOCKED_JOBS})
