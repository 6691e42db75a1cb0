"""Sockets to PostgreSQL: each call waits no longer than the deadline allows, and a peer that is gone is noticed."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any

from functions.db.deadline import at_most, patience

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable
    from pathlib import Path

# A peer that vanished without a word is noticed about 30 s after its last sign, on an idle connection and on one
# that waits for an answer. Not every platform has each of them.
PEER_OPTIONS = {"TCP_KEEPIDLE": 15, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3, "TCP_USER_TIMEOUT": 30_000}
CANCEL_SECONDS = 1.0
"""What a server gets for cancelling a statement and saying so."""


class BoundedSocket(socket.socket):
    """A socket whose every call obeys `deadline.patience()`; a timeout that was set once would not see time pass."""

    cancel: Callable[[], None] | None = None
    """Asks the server to give up the statement that we wait for. A server that is alive answers with an error of the
    statement (57014), which its job has to bear; only one that does not answer is away."""

    def recv(self, *args: Any) -> bytes:
        self._limit()
        return super().recv(*args)

    def recv_into(self, *args: Any) -> int:
        self._limit()
        try:
            return super().recv_into(*args)
        except TimeoutError:
            if self.cancel is None:
                raise
            with at_most(CANCEL_SECONDS):
                self.cancel()
                self._limit()
                return super().recv_into(*args)

    def send(self, *args: Any) -> int:
        self._limit()
        return super().send(*args)

    def _limit(self) -> None:
        seconds = patience()
        if seconds is not None or self.gettimeout() is not None:
            self.settimeout(seconds)


def dial(host: str, port: int) -> BoundedSocket:
    """A TCP connection to the first address of `host` that takes one. Raises `OSError`."""
    failure: OSError | None = None
    for family, _, _, _, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
        try:
            return connected(family, address)
        except OSError as error:
            failure = error
    raise failure or OSError(f"{host} has no address")


def connected(family: int, address: Any) -> BoundedSocket:
    """A connected stream socket; the address of a unix socket is its path. Raises `OSError`."""
    sock = BoundedSocket(family, socket.SOCK_STREAM)
    try:
        if family != socket.AF_UNIX:
            # With Nagle's algorithm a TLS connect takes 47 ms instead of 3.
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for name, value in PEER_OPTIONS.items():
                if hasattr(socket, name):
                    sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
        sock._limit()
        sock.connect(address)
    except BaseException:
        sock.close()
        raise
    return sock


def tls_context(authorities: Path) -> ssl.SSLContext:
    """TLS that verifies the server, and whose sockets obey the deadline as well."""
    import ssl

    class BoundedTlsSocket(BoundedSocket, ssl.SSLSocket):
        pass

    # The public roots stay trusted: RDS Proxy's certificate is Amazon Trust Services', not the RDS bundle's.
    context = ssl.create_default_context()
    context.load_verify_locations(authorities)
    context.sslsocket_class = BoundedTlsSocket
    return context
