"""The transaction of a batch, as a job's own code gets it: many jobs share it, and none of them may end it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

from sqlalchemy import Connection

from functions.core.errors import DatabaseAway, SharedTransaction

SAVEPOINT = "duecourse_job"
"""What a job's writes are rolled back to."""

ENDS_THE_TRANSACTION = re.compile(
    r"(?:\s+|--[^\n]*\n|/\*.*?\*/)*"
    r"(?:COMMIT|END|ABORT|BEGIN|START\s+TRANSACTION|PREPARE\s+TRANSACTION|DISCARD"
    r"|ROLLBACK(?!\s+(?:(?:WORK|TRANSACTION)\s+)?TO\b)"
    r"|SET\s+(?:SESSION\s+CHARACTERISTICS|TRANSACTION|SESSION\s+AUTHORIZATION)"
    rf"|(?:SAVEPOINT|RELEASE(?:\s+SAVEPOINT)?|ROLLBACK\s+(?:(?:WORK|TRANSACTION)\s+)?TO(?:\s+SAVEPOINT)?)\s+\"?{SAVEPOINT})\b",
    re.IGNORECASE | re.DOTALL,
)
IDLE, FAILED = b"I", b"E"
"""What PostgreSQL says of a transaction after each statement: there is none; one of its statements failed.
https://www.postgresql.org/docs/current/protocol-message-formats.html#PROTOCOL-MESSAGE-FORMATS-READYFORQUERY"""


class SharedConnection(Connection):
    """A connection in a transaction that its user may not end."""

    @classmethod
    def of(cls, tx: Connection) -> SharedConnection:
        """The same connection: it has one state, whichever of the two is used."""
        shared = cls.__new__(cls)
        shared.__dict__ = tx.__dict__
        return shared

    def _refuse(self, *_: Any, **__: Any) -> NoReturn:
        raise SharedTransaction(
            "a job must not commit, roll back or close its transaction: it shares it with other jobs, and it is"
            " committed together with how they end; tx.begin_nested() makes a savepoint"
        )

    commit = rollback = close = detach = begin_twophase = _refuse

    def invalidate(self, exception: BaseException | None = None) -> None:
        """SQLAlchemy says so itself, with the reason, when the connection broke: a job has none to give."""
        if exception is None:
            self._refuse()
        super().invalidate(exception)


@contextmanager
def shared(tx: Connection) -> Iterator[SharedConnection]:
    """Lend the connection to jobs' own code. The driver's own commit and rollback are refused as well."""
    lent = SharedConnection.of(tx)
    driver: Any = tx.connection.driver_connection
    driver.commit = driver.rollback = lent._refuse
    try:
        yield lent
    finally:
        del driver.commit, driver.rollback
        if not tx.invalidated and not tx.in_transaction():
            driver.rollback()  # SQLAlchemy takes it for ended and would leave it open to whoever comes next


def refuse_to_end(conn: Connection, _cursor: object, statement: str, *_: object) -> None:
    """For the engine's event `before_cursor_execute`. Raises `SharedTransaction` for a job's `COMMIT` and the like."""
    if isinstance(conn, SharedConnection) and ENDS_THE_TRANSACTION.match(statement):
        conn._refuse()


def has_ended(tx: Connection) -> bool:
    """Whether the transaction was ended behind our back. Asks nobody: PostgreSQL tells its state after each statement.

    Raises `DatabaseAway` when the connection was lost, whatever the job made of the error that told it so.
    """
    if tx.invalidated:
        raise DatabaseAway("the connection to PostgreSQL broke")
    return not tx.in_transaction() or _status(tx) == IDLE


def why_unusable(tx: Connection) -> str | None:
    """Why what a job leaves behind cannot be kept, None when it can."""
    if _status(tx) == FAILED:
        return "a statement failed and the job went on: let its error through, or use tx.begin_nested()"
    if tx.in_nested_transaction():
        return "the job left a savepoint open: use `with tx.begin_nested():`"
    return None


def undo(tx: Connection) -> None:
    """Roll back to `SAVEPOINT`, over whatever savepoints the job left open."""
    while (nested := tx.get_nested_transaction()) is not None:
        nested.rollback()
    tx.exec_driver_sql(f"ROLLBACK TO SAVEPOINT {SAVEPOINT}")


def _status(tx: Connection) -> bytes:
    status: bytes = tx.connection.driver_connection._transaction_status  # type: ignore[union-attr]
    return status
