"""What the tests act with: real queues, an event source mapping in slow motion, and a context with a clock."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, text

from duecourse.local.delivery import Context, event_of
from functions.aws import sqs
from functions.aws.clients import client
from functions.core.catalog import CATALOG, Catalog
from functions.core.job import JobRequest
from functions.pipeline.enqueue import enqueue
from functions.pipeline.worker import handle


@dataclass
class Queues:
    """The catalogue's queues in SQS, and what a test does with them."""

    url_prefix: str
    catalog: Catalog

    @classmethod
    def create(cls, prefix: str, catalog: Catalog) -> Queues:
        first = ""
        for queue in catalog.queues.values():
            suffix = ".fifo" if queue.fifo else ""
            kind = {"FifoQueue": "true"} if queue.fifo else {}
            made = client("sqs").create_queue(QueueName=f"{prefix}{queue.name}-dlq{suffix}", Attributes=kind)
            arn = _arn(made["QueueUrl"])
            policy = {"deadLetterTargetArn": arn, "maxReceiveCount": catalog.max_receive_count(queue.name)}
            made = client("sqs").create_queue(
                QueueName=f"{prefix}{queue.name}{suffix}",
                Attributes={"VisibilityTimeout": "30", "RedrivePolicy": json.dumps(policy), **kind},
            )
            first = first or made["QueueUrl"].removesuffix(f"{queue.name}{suffix}")
        return cls(first, catalog)

    def url(self, queue: str, *, dead_letter: bool = False) -> str:
        suffix = ".fifo" if self.catalog.queues[queue].fifo else ""
        return f"{self.url_prefix}{queue}{'-dlq' if dead_letter else ''}{suffix}"

    def delete(self) -> None:
        for queue in self.catalog.queues:
            client("sqs").delete_queue(QueueUrl=self.url(queue))
            client("sqs").delete_queue(QueueUrl=self.url(queue, dead_letter=True))

    def send(self, queue: str, body: object, **extra: Any) -> str:
        """Send a body, text or JSON; returns its message id."""
        text_body = body if isinstance(body, str) else json.dumps(body)
        sent = client("sqs").send_message(QueueUrl=self.url(queue), MessageBody=text_body, **extra)
        return str(sent["MessageId"])

    def receive(self, queue: str, *, visibility: int = 30, most: int = 1000) -> list[dict[str, Any]]:
        """What the queue holds right now, as SQS returned it, invisible to others for `visibility` seconds."""
        found: list[dict[str, Any]] = []
        while len(found) < most and (part := sqs.receive(self.url(queue), visibility_seconds=visibility)):
            found += part
        return found

    def bodies(self, queue: str, *, dead_letter: bool = False) -> list[str]:
        """The bodies in a queue, left where they are."""
        url = self.url(queue, dead_letter=dead_letter)
        found: dict[str, tuple[str, str]] = {}
        while part := [item for item in sqs.receive(url, visibility_seconds=5) if item["MessageId"] not in found]:
            found |= {item["MessageId"]: (item["Body"], item["ReceiptHandle"]) for item in part}
        if found:
            sqs.change_visibility(url, {receipt: 0 for _, receipt in found.values()})
        return [body for body, _ in found.values()]

    def depth(self, queue: str, *, dead_letter: bool = False) -> sqs.Depth:
        return sqs.depth(self.url(queue, dead_letter=dead_letter))


def _arn(url: str) -> str:
    return str(client("sqs").get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"])


Handler = Callable[..., dict[str, Any]]


def deliver(
    queues: Queues,
    queue: str,
    messages: Sequence[dict[str, Any]],
    *,
    catalog: Catalog = CATALOG,
    context: Context | None = None,
) -> list[str]:
    """Invoke the worker with these messages and do what a mapping does: delete what it did not report as failed.

    Returns the message ids it reported.
    """
    answer = handle(event_of(messages), context or Context(), queue=queue, catalog=catalog)
    failed = {item["itemIdentifier"] for item in answer["batchItemFailures"]}
    done = [item["ReceiptHandle"] for item in messages if item["MessageId"] not in failed]
    sqs.delete(queues.url(queue), done)
    return sorted(failed)


def work(queues: Queues, queue: str, *, catalog: Catalog = CATALOG, batch: int = 10, most: int = 200) -> int:
    """Deliver batch after batch until the queue shows nothing; returns how many invocations that took."""
    for invocations in range(most):
        messages: list[dict[str, Any]] = []
        while len(messages) < batch and (part := sqs.receive(queues.url(queue), visibility_seconds=30)):
            messages += part
        if not messages:
            return invocations
        deliver(queues, queue, messages, catalog=catalog)
    raise AssertionError(f"{queue} is not empty after {most} invocations")


def order(tx: Connection, *requests: JobRequest, catalog: Catalog = CATALOG) -> list[uuid.UUID]:
    return [item.id for item in enqueue(tx, requests, catalog=catalog)]


def probe(**payload: Any) -> JobRequest:
    return JobRequest("upkeep.probe", payload)


def job(tx: Connection, job_id: uuid.UUID) -> Row[Any]:
    return tx.execute(text("SELECT * FROM jobs WHERE id = :id"), {"id": job_id}).one()


def states(tx: Connection) -> dict[str, int]:
    return {row.state: row.n for row in tx.execute(text("SELECT state, count(*) AS n FROM jobs GROUP BY state"))}


def new_tenant(tx: Connection, *, zone: str = "UTC", created_at: str = "2020-01-01T00:00:00Z") -> uuid.UUID:
    row = tx.execute(
        text("INSERT INTO tenants (name, time_zone, created_at) VALUES ('Firm', :zone, :at) RETURNING id"),
        {"zone": zone, "at": created_at},
    )
    found: uuid.UUID = row.scalar_one()
    return found
