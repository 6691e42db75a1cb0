"""Queues: whether they exist, move their dead to the right place, and keep messages out of sight for long enough."""

from __future__ import annotations

import json
from collections.abc import Iterator

from duecourse.doctor.facts import Facts, policy
from duecourse.doctor.finding import Fault, warning

RETENTION_SECONDS = 14 * 86_400
"""The most that SQS allows. On a standard queue a dead letter keeps the age of its message, so that both need it."""
REDEPLOY = "deploy the current template again: it is part of infra/queues.yaml"


def present(facts: Facts) -> Iterator[Fault]:
    """Whether every queue is there and keeps its messages."""
    for name, attributes in facts.queues.items():
        if attributes is None:
            yield Fault(f"the queue {name} does not exist", REDEPLOY)
        elif (seconds := int(attributes["MessageRetentionPeriod"])) < RETENTION_SECONDS:
            yield Fault(
                f"{name} forgets a message after {seconds / 86_400:.1f} days, instead of 14",
                _set(attributes["QueueUrl"], "MessageRetentionPeriod", str(RETENTION_SECONDS)),
            )


def policies(facts: Facts) -> Iterator[Fault]:
    """Whether SQS moves a dead job's message to the queue's own dead-letter queue, and at the right receive."""
    for queue in facts.catalog.queues.values():
        source = facts.queues[facts.queue_name(queue)]
        dead_letters = facts.queues[facts.queue_name(queue, dead_letter=True)]
        if source is None or dead_letters is None:
            continue  # `present` says so
        redrive = policy(source, "RedrivePolicy")
        wanted = {
            "deadLetterTargetArn": dead_letters["QueueArn"],
            "maxReceiveCount": facts.catalog.max_receive_count(queue.name),
        }
        fix = _set(source["QueueUrl"], "RedrivePolicy", json.dumps(wanted))
        if redrive.get("deadLetterTargetArn") != wanted["deadLetterTargetArn"]:
            yield Fault(
                f"{queue.name} has no redrive policy to its dead-letter queue: dead messages go round for ever", fix
            )
        elif int(redrive.get("maxReceiveCount", 0)) != wanted["maxReceiveCount"]:
            count = redrive.get("maxReceiveCount")
            yield Fault(f"{queue.name} gives a message up after {count} receives, not {wanted['maxReceiveCount']}", fix)
        allow = policy(dead_letters, "RedriveAllowPolicy")
        if allow.get("redrivePermission") == "denyAll" or (
            allow.get("redrivePermission") == "byQueue" and source["QueueArn"] not in allow.get("sourceQueueArns", ())
        ):
            mine = json.dumps({"redrivePermission": "byQueue", "sourceQueueArns": [source["QueueArn"]]})
            yield Fault(
                f"the dead-letter queue of {queue.name} takes nothing from it: its redrive-allow policy forbids it",
                _set(dead_letters["QueueUrl"], "RedriveAllowPolicy", mine),
            )


def visibility(facts: Facts) -> Iterator[Fault]:
    """Whether a message stays out of sight for six of its worker's timeouts and the batching window."""
    for queue in facts.served:
        attributes = facts.queues[facts.queue_name(queue)]
        worker = facts.functions.get(facts.worker_name(queue))
        if attributes is None or worker is None:
            continue
        least = 6 * int(worker["Timeout"]) + facts.window_seconds(queue)
        seconds = int(attributes["VisibilityTimeout"])
        if seconds < least:
            yield Fault(
                f"{queue.name} shows a message again after {seconds} s: its worker may take {worker['Timeout']} s, so"
                f" it must be {least} s at least",
                _set(attributes["QueueUrl"], "VisibilityTimeout", str(max(least, queue.visibility_seconds))),
            )


def dead_letters(facts: Facts) -> Iterator[Fault]:
    """Whether dead-letter queues are empty."""
    for queue in facts.catalog.queues.values():
        attributes = facts.queues[facts.queue_name(queue, dead_letter=True)] or {}
        count = sum(
            int(attributes.get(f"ApproximateNumberOfMessages{kind}", 0)) for kind in ("", "NotVisible", "Delayed")
        )
        if count:
            yield warning(
                f"the dead-letter queue of {queue.name} holds {count:,} message{'s' * (count > 1)}",
                f"docs/runbooks/dead-letter-queue.md; `duecourse jobs list {queue.name} --state dead` shows why",
            )


def _set(url: str, name: str, value: str) -> str:
    import shlex

    attributes = shlex.quote(json.dumps({name: value}))
    return f"aws sqs set-queue-attributes --queue-url {url} --attributes {attributes}"
