"""infra/queues.yaml is held to the catalogue."""

from __future__ import annotations

import re
from typing import Any

import pytest

from functions.core.catalog import CATALOG, Queue
from functions.pipeline.sweep import MESSAGE_RETENTION
from tests.contract.templates import PREFIX, QUEUE_ARN, mail, queues

LONGEST_RETENTION_SECONDS = 14 * 24 * 3600
LONGEST_VISIBILITY_SECONDS = 12 * 3600
ALL = pytest.mark.parametrize("queue", CATALOG.queues.values(), ids=CATALOG.queues)


def physical_name(queue: Queue, suffix: str = "") -> str:
    return f"{PREFIX}-{queue.name}{suffix}{'.fifo' if queue.fifo else ''}"


def properties(name: str) -> dict[str, Any]:
    return by_name()[name]


def by_name() -> dict[str, dict[str, Any]]:
    return {found["QueueName"]: found for found in queues().resources("AWS::SQS::Queue").values()}


def test_every_queue_of_the_catalogue_has_its_dead_letter_queue_and_there_are_no_others() -> None:
    expected = {physical_name(queue, suffix) for queue in CATALOG.queues.values() for suffix in ("", "-dlq")}
    assert set(by_name()) == expected


@ALL
def test_visibility_is_six_timeouts_and_the_window(queue: Queue) -> None:
    visibility = properties(physical_name(queue))["VisibilityTimeout"]
    assert visibility == queue.visibility_seconds
    assert 6 * queue.timeout_seconds + queue.batch_window_seconds <= visibility <= LONGEST_VISIBILITY_SECONDS


@ALL
def test_a_message_is_moved_to_its_own_dead_letter_queue_after_attempts_and_hand_backs(queue: Queue) -> None:
    assert properties(physical_name(queue))["RedrivePolicy"] == {
        "deadLetterTargetArn": QUEUE_ARN + physical_name(queue, "-dlq"),
        "maxReceiveCount": CATALOG.max_receive_count(queue.name),
    }


@ALL
def test_a_dead_letter_queue_takes_from_its_own_source_alone(queue: Queue) -> None:
    assert properties(physical_name(queue, "-dlq"))["RedriveAllowPolicy"] == {
        "redrivePermission": "byQueue",
        "sourceQueueArns": [QUEUE_ARN + physical_name(queue)],
    }


@ALL
@pytest.mark.parametrize("suffix", ["", "-dlq"])
def test_a_queue_is_encrypted_kept_long_enough_and_of_its_kind(queue: Queue, suffix: str) -> None:
    found = properties(physical_name(queue, suffix))
    assert found["SqsManagedSseEnabled"] is True
    assert found["MessageRetentionPeriod"] == LONGEST_RETENTION_SECONDS
    high_throughput = {
        "FifoQueue": True,
        "DeduplicationScope": "messageGroup",
        "FifoThroughputLimit": "perMessageGroupId",
    }
    fifo = {name: value for name, value in found.items() if re.search("fifo|dedup", name, re.IGNORECASE)}
    assert fifo == (high_throughput if queue.fifo else {})


def test_the_sweep_knows_how_long_messages_are_kept() -> None:
    assert MESSAGE_RETENTION.total_seconds() == LONGEST_RETENTION_SECONDS


def test_a_queue_waits_for_its_dead_letter_queue() -> None:
    """SQS refuses a redrive policy whose target does not exist yet."""
    body = queues().body["Resources"]
    sources = {name: resource for name, resource in body.items() if "RedrivePolicy" in resource["Properties"]}
    assert len(sources) == len(CATALOG.queues)
    for name, resource in sources.items():
        assert resource["DependsOn"] == name.removesuffix("Queue") + "DeadLetterQueue"


def test_no_queue_answers_plain_http() -> None:
    policies = queues().resources("AWS::SQS::QueuePolicy").values()
    named = [queue for policy in policies for queue in policy["Queues"]]
    assert sorted(named) == sorted(queues().resources("AWS::SQS::Queue"))  # each once: a queue has one policy
    for policy in policies:
        statement = policy["PolicyDocument"]["Statement"][0]
        assert (statement["Effect"], statement["Action"]) == ("Deny", "sqs:*")
        assert statement["Condition"]["Bool"] == {"aws:SecureTransport": "false"}


def test_the_rule_for_the_provider_s_events_and_nobody_else_is_let_in() -> None:
    allowed = [
        (policy["Queues"], statement)
        for policy in queues().resources("AWS::SQS::QueuePolicy").values()
        for statement in policy["PolicyDocument"]["Statement"]
        if statement["Effect"] == "Allow"
    ]
    [(named, statement)] = allowed
    [rule] = mail().resources("AWS::Events::Rule").values()
    [target] = rule["Targets"]
    assert named == ["SesEventsQueue"]
    assert target["Arn"] == QUEUE_ARN + f"{PREFIX}-ses-events"
    assert (statement["Principal"], statement["Action"]) == ({"Service": "events.amazonaws.com"}, "sqs:SendMessage")
    assert statement["Condition"]["ArnEquals"]["aws:SourceArn"].endswith(f":rule/{rule['Name']}")


def test_outputs_name_every_queue() -> None:
    outputs = queues().outputs()
    expected = [QUEUE_ARN + physical_name(queue) for queue in CATALOG.queues.values()]
    assert outputs["QueueArns"].split(",") == expected
    assert outputs["ComplianceRefreshQueueArn"] == QUEUE_ARN + f"{PREFIX}-compliance-refresh"
    assert outputs["UpkeepQueueArn"] == QUEUE_ARN + f"{PREFIX}-upkeep"
