"""Changes of tables that are in use, behind which nobody waits long.

A change waits until every transaction that has touched its table has ended, and whoever comes later waits behind the
change: during a backup's hour, or a console left open, the ledger would stand still. So a change gives its wait up
soon, lets the others pass, and tries again. https://www.postgresql.org/docs/current/explicit-locking.html
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC
from typing import TypeVar

from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from functions.core.errors import TablesInUse
from functions.db.engine import engine, is_conflict
from functions.db.sessions import lift_limits

Result = TypeVar("Result")
Begin = Callable[[], AbstractContextManager[Connection]]

LIMIT_WAIT = text("SELECT set_config('lock_timeout', CAST(:milliseconds AS text), true)")
LONGEST_TRANSACTION = text("""
    SELECT pid, coalesce(nullif(application_name, ''), 'unnamed') AS application, state, xact_start
    FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid() AND xact_start IS NOT NULL
    ORDER BY xact_start LIMIT 1
""")


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a change waits for a lock, which is how long others may wait behind it; and for how long it tries."""

    lock_milliseconds: int
    pause_seconds: float
    seconds: float


def reshape(work: Callable[[Connection], Result], patience: Patience, *, begin: Begin | None = None) -> Result:
    """Do `work`, which changes tables, in a transaction of its own; from the start again when it had to wait.

    `begin` opens a transaction that commits at the end of its block: the process's own database, where left out.
    Raises `TablesInUse`, which names the longest transaction, when patience is over.
    """
    begin = begin or engine().begin
    deadline = time.monotonic() + patience.seconds
    while True:
        try:
            with begin() as tx:
                tx.execute(LIMIT_WAIT, {"milliseconds": patience.lock_milliseconds})
                lift_limits(tx)
                return work(tx)
        except DBAPIError as error:
            if not is_conflict(error):
                raise
            if time.monotonic() > deadline:
                raise TablesInUse(_who(begin, patience)) from error
        time.sleep(patience.pause_seconds)


def _who(begin: Begin, patience: Patience) -> str:
    with begin() as tx:
        longest = tx.execute(LONGEST_TRANSACTION).first()
    said = f"other transactions kept the tables in use for {patience.seconds:g} s"
    if longest is None:
        return said
    since = longest.xact_start.astimezone(UTC)
    return (
        f"{said}; the longest is that of process {longest.pid} ({longest.application}, {longest.state}), since"
        f" {since:%H:%M:%S} UTC: wait for it, or end it with SELECT pg_terminate_backend({longest.pid})"
    )
