"""A double of SES: speaks as much of its API as we use, fails as ordered, and logs every mail it took.

What it took is the receiver's own log, against which doubled and lost mails are counted. It reports each mail with a
Send event, some of them twice, and tries until the queue takes it: in the form that the deployed rule gives SES's
events, as no one but AWS may put such events on the bus.
"""

from __future__ import annotations

import json
import queue
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from uuid import uuid4

from duecourse.local import aws

RATE_PER_SECOND = 1000
HANG_SECONDS = 5.0
"""Longer than the workers wait for an answer (saboteur.CLOCKS)."""
RETRY_SECONDS = 0.5
EVENTS_PER_CALL = 10
EVENTS_TWICE = 0.05
REPLAY_SECONDS = 240.0


class Mood(StrEnum):
    """How it answers."""

    WELL = "well"
    THROTTLING = "throttling"
    BREAKING = "breaking off"


@dataclass
class Provider:
    """The double, on a port of its own."""

    rng: random.Random
    mood: Mood = Mood.WELL
    accepted: list[tuple[float, str]] = field(default_factory=list)
    """When, and the job's id from the mail's tag."""
    attempts: list[tuple[float, str]] = field(default_factory=list)
    """The same of every mail that was tried, whatever became of it."""
    faults: Counter[str] = field(default_factory=Counter)
    _events: queue.Queue[str] = field(default_factory=queue.Queue)
    _reported: list[tuple[float, str]] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _server: ThreadingHTTPServer | None = None

    def start(self) -> str:
        """Serve in the background; returns the URL."""
        provider = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                quota = {"MaxSendRate": RATE_PER_SECOND, "Max24HourSend": -1, "SentLast24Hours": 0}
                _answer(self, 200, {"SendQuota": quota})

            def do_POST(self) -> None:
                request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                provider.take(request, lambda status, body: _answer(self, status, body), self._hang_up)

            def _hang_up(self) -> None:
                self.close_connection = True
                with suppress(OSError):
                    self.connection.shutdown(2)

            def log_message(self, *_: object) -> None:
                """No log."""

        self._server = _Server(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def report(self, endpoint: str, queue_url: str) -> None:
        """From now on report what was taken, to the queue of events."""
        threading.Thread(target=self._report, args=(endpoint, queue_url), daemon=True).start()

    def replay(self) -> None:
        """Report the last minutes' mails again, as from EventBridge's archive, after a queue has lost them."""
        since = time.time() - REPLAY_SECONDS
        with self._lock:
            lost = [body for at, body in self._reported if at > since]
        for body in lost:
            self._events.put(body)

    def stop(self) -> None:
        if self._server:
            self._server.shutdown()
            self._server.server_close()

    def take(
        self, request: dict[str, Any], answer: Callable[[int, dict[str, Any]], None], hang_up: Callable[[], None]
    ) -> None:
        """Take a mail, or do to it what the mood says."""
        with self._lock:
            self.attempts.append((time.time(), _job_of(request)))
            fate = self.rng.random()
        if self.mood is Mood.THROTTLING and fate < 0.7:
            self._count("mail throttled")
            answer(429, {"__type": "TooManyRequestsException", "message": "Maximum sending rate exceeded."})
        elif self.mood is Mood.BREAKING and fate < 0.15:
            self._count("mail not taken, and no answer")
            time.sleep(HANG_SECONDS)
            hang_up()
        elif self.mood is Mood.BREAKING and fate < 0.3:
            self._count("mail not taken, connection broken")
            hang_up()
        elif self.mood is Mood.BREAKING and fate < 0.45:
            self._count("mail taken, and no answer")
            self._accept(request)
            time.sleep(HANG_SECONDS)
            hang_up()
        elif self.mood is Mood.BREAKING and fate < 0.6:
            self._count("mail taken, connection broken")
            self._accept(request)
            hang_up()
        elif self.mood is Mood.BREAKING and fate < 0.7:
            self._count("mail taken, answered with an internal error")
            self._accept(request)
            answer(500, {"__type": "InternalServiceErrorException", "message": "Internal failure"})
        else:
            answer(200, {"MessageId": self._accept(request)})

    def _count(self, fault: str) -> None:
        with self._lock:
            self.faults[fault] += 1

    def _accept(self, request: dict[str, Any]) -> str:
        message_id = f"double-{uuid4()}"
        with self._lock:
            self.accepted.append((time.time(), _job_of(request)))
        now = datetime.now(UTC).isoformat()
        mail = {
            "timestamp": now,
            "source": request["FromEmailAddress"],
            "messageId": message_id,
            "destination": request["Destination"]["ToAddresses"],
            "tags": {tag["Name"]: [tag["Value"]] for tag in request["EmailTags"]},
        }
        event = {"eventType": "Send", "mail": mail, "send": {}}
        body = json.dumps(
            {"v": 1, "external": True, "type": "email.event", "dedup_key": str(uuid4()), "payload": event}
        )
        with self._lock:
            self._reported.append((time.time(), body))
            copies = 2 if self.rng.random() < EVENTS_TWICE else 1
        for _ in range(copies):
            self._events.put(body)
        return message_id

    def _report(self, endpoint: str, queue_url: str) -> None:
        """Hand the events on until each has been taken."""
        client = aws.client(endpoint, "sqs")
        while True:
            bodies = [self._events.get()]
            with suppress(queue.Empty):
                while len(bodies) < EVENTS_PER_CALL:
                    bodies.append(self._events.get_nowait())
            entries = [{"Id": str(index), "MessageBody": body} for index, body in enumerate(bodies)]
            while True:
                try:
                    client.send_message_batch(QueueUrl=queue_url, Entries=entries)
                    break
                except Exception:  # noqa: BLE001 - whatever it is, the queue is away and will be back
                    time.sleep(RETRY_SECONDS)


def _job_of(request: dict[str, Any]) -> str:
    return next(str(tag["Value"]) for tag in request["EmailTags"] if tag["Name"] == "job")


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Senders are killed in mid-sentence here."""


def _answer(handler: BaseHTTPRequestHandler, status: int, body: dict[str, Any]) -> None:
    content = json.dumps(body).encode()
    with suppress(OSError):
        handler.send_response(status)
        handler.send_header("Content-Type", "application/json")
        handler.send_header("Content-Length", str(len(content)))
        if "__type" in body:
            handler.send_header("x-amzn-ErrorType", body["__type"])
        handler.end_headers()
        handler.wfile.write(content)
