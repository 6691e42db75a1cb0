"""What Lambda hands to a worker: the event that a mapping makes of messages, and the context of an invocation."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

LONGEST_SECONDS = 900.0
"""Lambda's limit of an invocation."""


@dataclass
class Context:
    """A Lambda context whose time runs out for real."""

    seconds: float = 60.0
    started: float = field(default_factory=time.monotonic)
    function_name: str = "duecourse"
    aws_request_id: str = "00000000-0000-0000-0000-000000000000"

    def get_remaining_time_in_millis(self) -> int:
        return max(0, int((self.seconds - (time.monotonic() - self.started)) * 1000))


def event_of(messages: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The event that a mapping would make of messages received."""
    return {
        "Records": [
            {
                "messageId": item["MessageId"],
                "receiptHandle": item["ReceiptHandle"],
                "body": item["Body"],
                "attributes": item["Attributes"],
                "eventSource": "aws:sqs",
            }
            for item in messages
        ]
    }
