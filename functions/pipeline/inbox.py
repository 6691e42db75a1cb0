"""An SQS event as the worker sees it: messages with their envelopes, and the reply that SQS is owed.

Whatever is not acknowledged is handed back: forgetting a message means that it comes again, never that it is lost.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from functions.aws import sqs
from functions.core.errors import BadEvent
from functions.pipeline.decide import Acknowledge, HandBack
from functions.pipeline.envelope import Envelope


@dataclass(frozen=True, slots=True)
class Message:
    """One SQS record: its envelope is parsed later, since it may be unreadable."""

    message_id: str
    receipt_handle: str
    body: str
    receives: int
    sent_at: datetime
    group: str | None = None
    """Its group in SQS, where it has one."""


@dataclass(frozen=True, slots=True)
class Parcel:
    """A message whose envelope could be read."""

    message: Message
    envelope: Envelope


@dataclass(slots=True)
class Reply:
    """What becomes of each message of the batch; handed back unless said otherwise."""

    queue_url: str
    messages: Mapping[str, Message]
    _fates: dict[str, Acknowledge | HandBack] = field(default_factory=dict)

    def set(self, message_id: str, fate: Acknowledge | HandBack) -> None:
        self._fates[message_id] = fate

    def undecided(self) -> list[Message]:
        return [message for message in self.messages.values() if message.message_id not in self._fates]

    def send(self) -> dict[str, list[dict[str, str]]]:
        """Set the visibility of what is handed back, then answer in the form of a partial batch response.

        A visibility that SQS refuses costs only time: the queue's own timeout applies.
        https://docs.aws.amazon.com/lambda/latest/dg/services-sqs-errorhandling.html
        """
        handed_back = {
            self.messages[message_id].receipt_handle: fate.seconds
            for message_id, fate in self._fates.items()
            if isinstance(fate, HandBack)
        }
        if handed_back:
            sqs.change_visibility(self.queue_url, handed_back)
        failures = [
            message_id for message_id in self.messages if not isinstance(self._fates.get(message_id), Acknowledge)
        ]
        return {"batchItemFailures": [{"itemIdentifier": message_id} for message_id in failures]}


def read_messages(event: Any) -> list[Message]:
    """The messages of an SQS event. Raises `BadEvent` for any other event."""
    try:
        messages = [_message(record) for record in event["Records"] if record["eventSource"] == "aws:sqs"]
        foreign = len(event["Records"]) - len(messages)
    except (KeyError, TypeError, ValueError):
        messages, foreign = [], 0
    if not messages or foreign:
        raise BadEvent(
            "this function serves SQS events ({'Records': [{'eventSource': 'aws:sqs', …}]});"
            " events/ holds a sample for each function"
        )
    return messages


def _message(record: Any) -> Message:
    return Message(
        message_id=record["messageId"],
        receipt_handle=record["receiptHandle"],
        body=record["body"],
        receives=int(record["attributes"]["ApproximateReceiveCount"]),
        sent_at=datetime.fromtimestamp(int(record["attributes"]["SentTimestamp"]) / 1000, tz=UTC),
        group=record["attributes"].get("MessageGroupId"),
    )
