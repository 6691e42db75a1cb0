"""An SQS event as the worker sees it, and events that are none."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from functions.core.errors import BadEvent
from functions.pipeline.decide import Acknowledge
from functions.pipeline.inbox import Message, Reply, read_messages
from functions.pipeline.schedule import read_event

RECORD: dict[str, Any] = {
    "messageId": "m-1",
    "receiptHandle": "r-1",
    "body": "{}",
    "attributes": {"ApproximateReceiveCount": "3", "SentTimestamp": "1764000000000"},
    "eventSource": "aws:sqs",
    "awsRegion": "eu-central-1",
}
TICK: dict[str, Any] = {
    "source": "aws.events",
    "detail-type": "Scheduled Event",
    "time": "2026-11-24T02:15:00Z",
    "detail": {},
}


def _without(record: dict[str, Any], *names: str) -> dict[str, Any]:
    return {key: value for key, value in record.items() if key not in names}


def test_a_record_becomes_a_message() -> None:
    [message] = read_messages({"Records": [RECORD]})
    sent_at = datetime(2025, 11, 24, 16, tzinfo=UTC)
    assert message == Message("m-1", "r-1", "{}", 3, sent_at)


@pytest.mark.parametrize(
    "event",
    [
        None,
        [],
        "text",
        {},
        {"Records": []},
        {"Records": None},
        {"Records": 5},
        {"Records": ["text"]},
        {"Records": [RECORD | {"eventSource": "aws:s3"}]},
        {"Records": [RECORD, _without(RECORD, "eventSource")]},
        {"Records": [_without(RECORD, "attributes")]},
        {"Records": [_without(RECORD, "messageId")]},
        {"Records": [RECORD | {"attributes": {"ApproximateReceiveCount": "many", "SentTimestamp": "0"}}]},
        TICK,
    ],
    ids=str,
)
def test_an_event_that_is_not_from_sqs_is_refused_with_what_is_expected(event: Any) -> None:
    with pytest.raises(BadEvent, match=r"this function serves SQS events .* events/ holds a sample"):
        read_messages(event)


def _reply(*names: str) -> Reply:
    sent_at = datetime(2026, 11, 24, tzinfo=UTC)
    return Reply("http://queue", {name: Message(name, f"r-{name}", "{}", 1, sent_at) for name in names})


def test_what_nobody_decided_is_handed_back() -> None:
    reply = _reply("a", "b", "c")
    reply.set("b", Acknowledge())
    assert [message.message_id for message in reply.undecided()] == ["a", "c"]
    assert reply.send() == {"batchItemFailures": [{"itemIdentifier": "a"}, {"itemIdentifier": "c"}]}


def test_the_tick_of_a_cron_rule_is_read_with_its_own_time() -> None:
    assert read_event(TICK).time == datetime(2026, 11, 24, 2, 15, tzinfo=UTC)
    assert read_event(TICK).detail.jitter


def test_a_replay_may_switch_the_jitter_off() -> None:
    assert not read_event(TICK | {"detail": {"jitter": False}}).detail.jitter


@pytest.mark.parametrize(
    "event",
    [
        None,
        {},
        TICK | {"detail-type": "Object Created"},
        TICK | {"time": "2026-11-24T02:15:00"},
        TICK | {"time": "soon"},
        _without(TICK, "time"),
        {"Records": [RECORD]},
    ],
    ids=str,
)
def test_an_event_that_is_no_tick_is_refused_with_what_is_expected(event: Any) -> None:
    with pytest.raises(BadEvent, match=r"this function serves EventBridge scheduled events .* events/ holds a sample"):
        read_event(event)
