"""Servers that stop answering: in front of a real PostgreSQL, or of nothing at all."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from functions.db.settings import DatabaseSettings

CHUNK_BYTES = 65_536


@dataclass
class Relay:
    """Passes bytes between clients and a real server until told to fall silent; accepts connections all the same."""

    settings: DatabaseSettings
    silent: threading.Event = field(default_factory=threading.Event)
    answer_bytes: int | None = None
    """Of what the server says, how much still gets through before it falls silent; None: all, until `silent`."""
    _stack: ExitStack = field(default_factory=ExitStack)

    def answer_again(self) -> None:
        """From now on all is well, but for the connections made so far."""
        self._stack.pop_all().close()
        self.answer_bytes = None
        self.silent.clear()

    def serve(self, listener: socket.socket, server: DatabaseSettings | None) -> None:
        with suppress(OSError):
            while True:
                client, _ = listener.accept()
                self._stack.callback(_close, client)
                if server is not None and not self.silent.is_set():
                    upstream = _connect(server)
                    self._stack.callback(_close, upstream)
                    threading.Thread(target=self._pass, args=(client, upstream, False), daemon=True).start()
                    threading.Thread(target=self._pass, args=(upstream, client, True), daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket, answers: bool) -> None:
        with suppress(OSError):
            while data := source.recv(CHUNK_BYTES):
                if answers and self.answer_bytes is not None:
                    data, self.answer_bytes = data[: self.answer_bytes], max(0, self.answer_bytes - len(data))
                    if not self.answer_bytes:
                        self.silent.set()
                        target.sendall(data)
                if self.silent.is_set():
                    return
                target.sendall(data)


@contextmanager
def relay(server: DatabaseSettings | None, *, directory: Path | None = None) -> Iterator[Relay]:
    """A relay to `server`, or to nobody: it then accepts and never says a word. On TCP, or in a directory's socket."""
    if directory is None:
        listener = socket.create_server(("127.0.0.1", 0))
        host, port = "127.0.0.1", listener.getsockname()[1]
    else:
        listener = socket.socket(socket.AF_UNIX)
        host, port = str(directory), 5432
        listener.bind(f"{host}/.s.PGSQL.{port}")
        listener.listen()
    settings = replace(server or DatabaseSettings(host, port, "d", "u", None), host=host, port=port)
    made = Relay(settings)
    thread = threading.Thread(target=made.serve, args=(listener, server), daemon=True)
    thread.start()
    try:
        yield made
    finally:
        with suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(timeout=5)
        made._stack.close()


def _close(sock: socket.socket) -> None:
    with suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)
    sock.close()


def _connect(server: DatabaseSettings) -> socket.socket:
    if not server.is_local_socket:
        return socket.create_connection((server.host, server.port))
    upstream = socket.socket(socket.AF_UNIX)
    upstream.connect(f"{server.host}/.s.PGSQL.{server.port}")
    return upstream
