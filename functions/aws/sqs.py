"""SQS in batches of ten, with every entry's fate. Bodies are references of under 1 KiB: 1 MiB is never near."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError, ParamValidationError

from functions.aws.clients import client
from functions.core.chunks import chunks

ENTRIES_PER_CALL = 10
SEND_ATTEMPTS = 2
"""One more for a connection that SQS has closed meanwhile; else the relay's next look is the repetition."""
SEND_READ_SECONDS = 3
MAX_VISIBILITY_SECONDS = 43_200 - 900
"""SQS allows twelve hours from the receive, of which a Lambda may have used a quarter of an hour before it asks.
https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/quotas-messages.html"""


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One message to send. `deduplication_id` only on FIFO queues; `group_id` also makes a standard queue fair."""

    body: str
    group_id: str | None
    deduplication_id: str | None = None


@dataclass(frozen=True, slots=True)
class Depth:
    """A queue's approximate message counts."""

    visible: int
    in_flight: int
    delayed: int

    @property
    def empty(self) -> bool:
        return self.visible == self.in_flight == self.delayed == 0


# Codes of refused calls that say nothing of what is in them: the queue, the caller's rights, its key, too many calls.
_OF_THE_QUEUE = (
    "AccessDenied", "ExpiredToken", "IncompleteSignature", "Internal", "InvalidAccessKey", "InvalidAddress",
    "InvalidClientTokenId", "InvalidSecurity", "KMS", "Kms", "MissingAuthenticationToken", "NonExistentQueue",
    "NotAuthorized", "OptInRequired", "OverLimit", "QueueDeletedRecently", "QueueDoesNotExist", "RequestExpired",
    "RequestThrottled", "ServiceUnavailable", "SignatureDoesNotMatch", "Throttling", "TooManyRequests",
    "UnrecognizedClient", "UnsupportedOperation",
)  # fmt: skip
_SERVER_ERROR = 500
"""The least HTTP status that says so."""


def sender() -> Any:
    """The client that sends. Its calls end sooner than others': what they do not say in time is sent again."""
    return client("sqs", attempts=SEND_ATTEMPTS, timeout_seconds=SEND_READ_SECONDS)


def is_about_contents(error: BotoCoreError | ClientError) -> bool:
    """Whether a call was refused for what is in it (one entry may be too long), as against the queue or the network."""
    if not isinstance(error, ClientError):
        return isinstance(error, ParamValidationError)
    code = str(error.response.get("Error", {}).get("Code", "")).rpartition("SimpleQueueService.")[2]
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    return status < _SERVER_ERROR and not code.startswith(_OF_THE_QUEUE)


def send_batch(queue_url: str, messages: Sequence[Outgoing]) -> list[str | None]:
    """Send up to ten messages in one call. Returns for each None, or why SQS refused it.

    Raises botocore's errors when the whole call failed (`is_about_contents` tells of what kind).
    """
    entries = []
    for index, message in enumerate(messages):
        entry = {"Id": str(index), "MessageBody": message.body}
        if message.group_id is not None:
            entry["MessageGroupId"] = message.group_id
        if message.deduplication_id is not None:
            entry["MessageDeduplicationId"] = message.deduplication_id
        entries.append(entry)
    reply = sender().send_message_batch(QueueUrl=queue_url, Entries=entries)
    refused = {int(item["Id"]): f"{item['Code']}: {item.get('Message', '')}" for item in reply.get("Failed", [])}
    return [refused.get(index) for index in range(len(messages))]


def change_visibility(queue_url: str, seconds_by_receipt: Mapping[str, int]) -> int:
    """Set how long messages in flight stay invisible. Returns how many SQS refused (their old timeout stands)."""
    refused = 0
    for part in chunks(list(seconds_by_receipt.items()), ENTRIES_PER_CALL):
        entries = [
            {
                "Id": str(index),
                "ReceiptHandle": receipt,
                "VisibilityTimeout": min(seconds, MAX_VISIBILITY_SECONDS),
            }
            for index, (receipt, seconds) in enumerate(part)
        ]
        reply = client("sqs").change_message_visibility_batch(QueueUrl=queue_url, Entries=entries)
        refused += len(reply.get("Failed", []))
    return refused


def depth(queue_url: str) -> Depth:
    """The queue's approximate counts; eventually consistent, about a minute behind at worst."""
    names = [
        "ApproximateNumberOfMessages",
        "ApproximateNumberOfMessagesNotVisible",
        "ApproximateNumberOfMessagesDelayed",
    ]
    found = client("sqs").get_queue_attributes(QueueUrl=queue_url, AttributeNames=names)["Attributes"]
    return Depth(*(int(found[name]) for name in names))


def receive(queue_url: str, *, visibility_seconds: int, wait_seconds: int = 0) -> list[dict[str, Any]]:
    """Up to ten messages, with their attributes; empty when SQS had none to give within `wait_seconds`."""
    reply = client("sqs").receive_message(
        QueueUrl=queue_url,
        MaxNumberOfMessages=ENTRIES_PER_CALL,
        VisibilityTimeout=visibility_seconds,
        WaitTimeSeconds=wait_seconds,
        MessageSystemAttributeNames=["All"],
    )
    return list(reply.get("Messages", []))


def delete(queue_url: str, receipts: Sequence[str]) -> None:
    """Delete messages received."""
    for part in chunks(receipts, ENTRIES_PER_CALL):
        entries = [{"Id": str(index), "ReceiptHandle": receipt} for index, receipt in enumerate(part)]
        client("sqs").delete_message_batch(QueueUrl=queue_url, Entries=entries)
