"""A FIFO queue in memory, by the rules that SQS documents, with faults on demand: many orders of events in little time.

https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/FIFO-queues-understanding-logic.html
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from functions.aws.sqs import Outgoing


@dataclass
class Held:
    """A message in the queue."""

    body: str
    group: str
    hidden: bool = False
    """In flight, or handed back for a while."""
    receives: int = 0
    id: str = field(default_factory=lambda: str(uuid4()))
    sent_at: float = field(default_factory=time.time)


@dataclass
class FifoQueue:
    """Stands in for `functions.aws.sqs` where one FIFO queue is all there is. Time passes by `show_all`."""

    refuses: Callable[[], bool] = lambda: False
    """Asked for every entry of a send call."""
    most_receives: int = 18
    """Then a message goes to the dead-letter queue."""
    messages: list[Held] = field(default_factory=list)
    _seen: set[str] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def send_batch(self, queue_url: str, messages: Sequence[Outgoing], **_: Any) -> list[str | None]:
        del queue_url
        answers: list[str | None] = []
        with self._lock:
            for message in messages:
                if self.refuses():
                    answers.append("InternalError: try again")
                    continue
                assert message.group_id is not None
                assert message.deduplication_id is not None
                if message.deduplication_id not in self._seen:
                    self._seen.add(message.deduplication_id)
                    self.messages.append(Held(message.body, message.group_id))
                answers.append(None)
        return answers

    def receive(self, most: int) -> list[dict[str, Any]]:
        """The oldest messages of every group that has none in flight, in order."""
        self.messages = [message for message in self.messages if message.receives < self.most_receives]
        busy = {message.group for message in self.messages if message.hidden}
        found = [message for message in self.messages if message.group not in busy][:most]
        for message in found:
            message.hidden = True
            message.receives += 1
        return [
            {
                "MessageId": message.id,
                "ReceiptHandle": message.id,
                "Body": message.body,
                "Attributes": {
                    "ApproximateReceiveCount": str(message.receives),
                    "SentTimestamp": str(int(message.sent_at * 1000)),
                    "MessageGroupId": message.group,
                },
            }
            for message in found
        ]

    def change_visibility(self, queue_url: str, seconds_by_receipt: Mapping[str, int]) -> int:
        del queue_url
        for message in self.messages:
            if seconds_by_receipt.get(message.id) == 0:
                message.hidden = False
        return 0

    def answer(self, messages: Sequence[dict[str, Any]], failed: Sequence[str]) -> None:
        """Delete what the worker did not report as failed, as an event source mapping does."""
        done = {message["MessageId"] for message in messages} - set(failed)
        self.messages = [message for message in self.messages if message.id not in done]

    def lose(self, place: int) -> None:
        """A message that nobody has is gone: expired, purged, or moved to a dead-letter queue."""
        if free := [message for message in self.messages if not message.hidden]:
            self.messages.remove(free[place % len(free)])

    def show_all(self) -> None:
        """All visibility timeouts have passed."""
        for message in self.messages:
            message.hidden = False
