"""pg8000's connection, made safe to share by the jobs of a batch: an error leaves it in step, or known not to be.

Also one round trip per statement instead of pg8000's three.
"""

from __future__ import annotations

import socket
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pg8000.dbapi
from pg8000.converters import make_params
from pg8000.core import (
    BIND,
    DESCRIBE,
    EXECUTE_MSG,
    NULL_BYTE,
    PARSE,
    PORTAL,
    SYNC_MSG,
    TERMINATE_MSG,
    Context,
    H_pack,
    _create_message,
    _flush,
    _write,
    i_pack,
    ii_pack,
)

from functions.db.deadline import at_most
from functions.db.sockets import BoundedSocket, connected

if TYPE_CHECKING:
    from collections.abc import Sequence

CANCEL_REQUEST = 80_877_102
"""https://www.postgresql.org/docs/current/protocol-message-formats.html"""
GOODBYE_SECONDS = 1.0


class Connection(pg8000.dbapi.Connection):  # type: ignore[misc]
    """A connection that says whether it is usable, closes all it holds, and cancels what takes too long."""

    in_step = True
    """Nothing is left to be read of an earlier statement. Otherwise the next one would get that one's answer."""

    _sock: Any = None
    _usock: Any = None

    def __init__(self, sock: BoundedSocket, **options: Any) -> None:
        self._misread: Exception | None = None
        try:
            super().__init__(sock=sock, **options)
        except BaseException:
            self.in_step = False
            self.close()
            sock.close()
            raise
        self._usock.cancel = self._cancel

    def execute_simple(self, statement: str) -> Context:
        self.in_step = False
        return super().execute_simple(statement)

    def execute_unnamed(
        self, statement: str, vals: Sequence[Any] = (), oids: Sequence[int] = (), stream: Any = None
    ) -> Context:
        """Send a statement with its values, and read the whole answer.

        pg8000 sends the statement, then converts the values; one that cannot be converted (a date that overflows, half
        of a surrogate pair) would leave the answer unread. Here nothing is sent before everything is converted.
        """
        if stream is not None:
            raise NotImplementedError("COPY is not in use here")
        values = [None if value is None else value.encode() for value in make_params(self.py_types, vals)]
        message = b"".join(
            [
                _create_message(
                    PARSE,
                    NULL_BYTE
                    + statement.encode()
                    + NULL_BYTE
                    + H_pack(len(oids))
                    + b"".join(i_pack(max(0, oid)) for oid in oids),
                ),
                _create_message(
                    BIND,
                    b"".join(
                        [
                            NULL_BYTE + NULL_BYTE + H_pack(0) + H_pack(len(values)),
                            *(i_pack(-1) if value is None else i_pack(len(value)) + value for value in values),
                            H_pack(0),
                        ]
                    ),
                ),
                _create_message(DESCRIBE, PORTAL + NULL_BYTE),
                EXECUTE_MSG,
                SYNC_MSG,
            ]
        )
        context = Context(statement)
        self.in_step = False
        _write(self._sock, message)
        _flush(self._sock)
        self.handle_messages(context)
        return context

    def handle_messages(self, context: Context) -> None:
        """Read an answer to its end, whatever is wrong with a row of it.

        A socket that breaks is an error of the driver's here, too. pg8000 names it so except where it begins to read,
        and SQLAlchemy knows no other error for an outage while it makes a connection.
        """
        self._misread = None
        try:
            super().handle_messages(context)
        except OSError as error:
            raise pg8000.dbapi.InterfaceError("network error") from error
        if self._misread is not None:
            raise self._misread

    def handle_READY_FOR_QUERY(self, data: bytes, context: Context) -> None:  # noqa: N802 - pg8000's name
        super().handle_READY_FOR_QUERY(data, context)
        self.in_step = True

    def handle_DATA_ROW(self, data: bytes, context: Context) -> None:  # noqa: N802 - pg8000's name
        """Keep an error of a value that Python cannot hold until the answer has been read."""
        try:
            super().handle_DATA_ROW(data, context)
        except Exception as error:  # noqa: BLE001 - raised by handle_messages
            self._misread = self._misread or error

    def close(self) -> None:
        """Close socket and file; pg8000 leaves the file open, and a broken one complains when it is collected."""
        file, sock, self._sock, self._usock = self._sock, self._usock, None, None
        if file is not None and self.in_step:
            with suppress(OSError, ValueError), at_most(GOODBYE_SECONDS):
                file.write(TERMINATE_MSG)
                file.flush()
        if sock is not None:
            sock.cancel = None
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for opened in (file, sock):
            if opened is not None:
                with suppress(OSError, ValueError):
                    opened.close()

    def _cancel(self) -> None:
        """Ask the server to give up the running statement. Best effort: the connection tells what came of it."""
        if self._backend_key_data is None or self._usock is None:
            return
        request = ii_pack(8 + len(self._backend_key_data), CANCEL_REQUEST) + self._backend_key_data
        with (
            suppress(OSError),
            connected(self._usock.family, self._usock.getpeername()) as sock,
        ):
            sock.sendall(request)
            sock.recv(1)  # the server hangs up once it has passed the request on: no later statement is hit
