"""SQS in batches of ten: every message's fate is told, and limits are kept."""

from __future__ import annotations

from typing import Any

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError, ParamValidationError

from functions.aws import sqs
from functions.aws.clients import client
from functions.aws.sqs import Depth, Outgoing

HALF_A_DAY_SECONDS = 12 * 3600


def _queue(name: str = "q", **attributes: str) -> str:
    return str(client("sqs").create_queue(QueueName=name, Attributes=attributes)["QueueUrl"])


def _fifo() -> str:
    return _queue("q.fifo", FifoQueue="true", ContentBasedDeduplication="false")


def _fill(url: str, count: int) -> None:
    for start in range(0, count, sqs.ENTRIES_PER_CALL):
        part = [Outgoing(str(number), None) for number in range(start, min(start + sqs.ENTRIES_PER_CALL, count))]
        assert sqs.send_batch(url, part) == [None] * len(part)


def _take(url: str, visibility_seconds: int = 30) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    while part := sqs.receive(url, visibility_seconds=visibility_seconds):
        found += part
    return found


def test_what_is_sent_is_received_with_its_attributes() -> None:
    url = _queue()
    assert sqs.send_batch(url, [Outgoing("hello", "tenant-1")]) == [None]
    [message] = sqs.receive(url, visibility_seconds=30)
    assert message["Body"] == "hello"
    assert message["Attributes"]["ApproximateReceiveCount"] == "1"
    assert message["Attributes"]["MessageGroupId"] == "tenant-1"
    assert int(message["Attributes"]["SentTimestamp"]) > 0


def test_a_message_without_a_group_has_none() -> None:
    url = _queue()
    sqs.send_batch(url, [Outgoing("hello", None)])
    [message] = sqs.receive(url, visibility_seconds=30)
    assert "MessageGroupId" not in message["Attributes"]


def test_fifo_keeps_a_groups_order_and_drops_a_second_copy() -> None:
    url = _fifo()
    sqs.send_batch(url, [Outgoing(str(number), "g", f"id.{number}") for number in range(10)])
    sqs.send_batch(url, [Outgoing("copy", "g", "id.3")])
    assert [message["Body"] for message in _take(url)] == [str(number) for number in range(10)]


def test_eleven_messages_are_more_than_one_call_takes() -> None:
    with pytest.raises(ClientError, match="TooManyEntries"):
        sqs.send_batch(_queue(), [Outgoing(str(number), None) for number in range(11)])


def test_a_queue_that_does_not_exist_fails_the_whole_call() -> None:
    url = _queue()
    client("sqs").delete_queue(QueueUrl=url)
    with pytest.raises(ClientError, match="NonExistentQueue"):
        sqs.send_batch(url, [Outgoing("hello", None)])


def test_each_message_that_sqs_refuses_is_told_apart_from_those_it_took() -> None:
    url = _queue()

    def spoil(params: dict[str, Any], **_: object) -> None:
        for entry in params["Entries"]:
            if entry["MessageBody"] == "bad":
                entry["DelaySeconds"] = 901  # moto refuses an entry, and not the call, only for this

    sqs.sender().meta.events.register("provide-client-params.sqs.SendMessageBatch", spoil)
    answers = sqs.send_batch(url, [Outgoing("one", None), Outgoing("bad", None), Outgoing("two", None)])
    assert (answers[0], answers[2]) == (None, None)
    assert str(answers[1]).startswith("InvalidParameterValue: ")
    assert sorted(message["Body"] for message in _take(url)) == ["one", "two"]


def test_receiving_takes_ten_at_most_and_nothing_from_an_empty_queue() -> None:
    url = _queue()
    assert sqs.receive(url, visibility_seconds=30) == []
    _fill(url, 23)
    assert [len(sqs.receive(url, visibility_seconds=30)) for _ in range(4)] == [10, 10, 3, 0]


def test_deleting_more_than_ten_deletes_them_all() -> None:
    url = _queue()
    _fill(url, 23)
    messages = _take(url)
    assert len(messages) == 23
    sqs.delete(url, [message["ReceiptHandle"] for message in messages])
    assert sqs.depth(url).empty


def test_deleting_nothing_makes_no_call() -> None:
    sqs.delete("https://no-such-queue.invalid/q", [])


def test_visibility_of_more_than_ten_is_changed_for_them_all() -> None:
    url = _queue()
    _fill(url, 23)
    receipts = [message["ReceiptHandle"] for message in _take(url)]
    assert sqs.receive(url, visibility_seconds=30) == []
    assert sqs.change_visibility(url, dict.fromkeys(receipts, 0)) == 0
    assert len(_take(url)) == 23


def test_a_message_made_visible_later_stays_out_of_sight() -> None:
    url = _queue()
    _fill(url, 2)
    back, away = (message["ReceiptHandle"] for message in _take(url))
    sqs.change_visibility(url, {back: 0, away: 600})
    assert len(_take(url)) == 1
    assert sqs.depth(url) == Depth(visible=0, in_flight=2, delayed=0)


def test_no_visibility_goes_beyond_what_sqs_allows() -> None:
    url = _queue()
    _fill(url, 1)
    [message] = _take(url)
    with pytest.raises(ClientError, match="beyond the limit"):
        client("sqs").change_message_visibility(
            QueueUrl=url, ReceiptHandle=message["ReceiptHandle"], VisibilityTimeout=HALF_A_DAY_SECONDS
        )
    assert sqs.change_visibility(url, {message["ReceiptHandle"]: 10 * HALF_A_DAY_SECONDS}) == 0
    assert sqs.depth(url).in_flight == 1


def test_visibility_that_sqs_refuses_is_counted_and_the_rest_is_changed() -> None:
    url = _queue()
    _fill(url, 2)
    receipts = [message["ReceiptHandle"] for message in _take(url)]
    assert sqs.change_visibility(url, {"no-such-receipt": 0} | dict.fromkeys(receipts, 0)) == 1
    assert len(_take(url)) == 2


def test_depth_tells_visible_in_flight_and_delayed_apart() -> None:
    url = _queue()
    _fill(url, 3)
    client("sqs").send_message(QueueUrl=url, MessageBody="later", DelaySeconds=600)
    sqs.receive(url, visibility_seconds=600)
    _fill(url, 2)
    assert sqs.depth(url) == Depth(visible=2, in_flight=3, delayed=1)


@pytest.mark.parametrize(
    ("depth", "empty"),
    [(Depth(0, 0, 0), True), (Depth(1, 0, 0), False), (Depth(0, 1, 0), False), (Depth(0, 0, 1), False)],
)
def test_a_queue_is_empty_only_when_nothing_is_visible_in_flight_or_delayed(depth: Depth, empty: bool) -> None:
    assert depth.empty is empty


@pytest.mark.parametrize(
    ("code", "status", "contents"),
    [
        ("AWS.SimpleQueueService.BatchRequestTooLong", 400, True),
        ("InvalidMessageContents", 400, True),
        ("InvalidParameterValue", 400, True),
        ("AWS.SimpleQueueService.NonExistentQueue", 400, False),
        ("QueueDoesNotExist", 400, False),
        ("AccessDenied", 403, False),
        ("KmsThrottled", 400, False),
        ("RequestThrottled", 403, False),
        ("ServiceUnavailable", 503, False),
        ("InvalidParameterValue", 500, False),
    ],
)
def test_a_call_refused_for_its_contents_is_told_apart_from_a_queue_that_refuses(
    code: str, status: int, contents: bool
) -> None:
    response: Any = {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}
    assert sqs.is_about_contents(ClientError(response, "SendMessageBatch")) is contents


def test_what_never_reached_sqs_is_not_about_contents_unless_boto3_says_so() -> None:
    url = _queue()
    with pytest.raises(ParamValidationError) as error:
        sqs.sender().send_message_batch(QueueUrl=url, Entries=[{"Id": "1", "MessageBody": 7}])
    assert sqs.is_about_contents(error.value)
    assert not sqs.is_about_contents(EndpointConnectionError(endpoint_url=url))
