"""A double of SES, Secrets Manager and Lambda over HTTP: it accepts every mail, and knows no event source mapping."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

ACCOUNT = {"SendQuota": {"Max24HourSend": -1, "MaxSendRate": 100_000, "SentLast24Hours": 0}, "SendingEnabled": True}
MAPPINGS: dict[str, list[object]] = {"EventSourceMappings": []}
SECRET = {"SecretString": "a key of the benchmark's own, long enough"}


@dataclass
class Double:
    """What was accepted."""

    endpoint: str
    mails: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def accept(self) -> dict[str, str]:
        with self.lock:
            self.mails += 1
            return {"MessageId": f"bench-{self.mails}"}


@contextmanager
def running() -> Iterator[Double]:
    """The double on a free port of this machine."""
    double = Double("")

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._answer(MAPPINGS if "event-source-mappings" in self.path else ACCOUNT)

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            secret = "secretsmanager" in self.headers.get("X-Amz-Target", "")
            self._answer(SECRET if secret else double.accept())

        def log_message(self, *arguments: object) -> None:
            """Nothing."""

        def _answer(self, body: object) -> None:
            data = json.dumps(body).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    double.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield double
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
