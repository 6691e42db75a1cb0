"""Feeds workers as an event source mapping would, without a queue between: what is measured is ours."""

from __future__ import annotations

import io
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import text

from functions.core.job import ENVELOPE_VERSION
from functions.db.engine import transaction

ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
    "POWERTOOLS_SERVICE_NAME": "bench",
    "POWERTOOLS_TRACE_DISABLED": "true",
    "QUEUE_URL_PREFIX": "http://127.0.0.1:9/000000000000/bench-",
}
"""What template.yaml gives a worker."""

# As the relay does once SQS has the messages.
SEND_DUE = text("""
    UPDATE jobs SET outbox_at = NULL, sent_at = clock_timestamp(),
        state = CASE state WHEN 'delayed' THEN 'waiting' ELSE state END
    WHERE id IN (SELECT id FROM jobs WHERE outbox_at <= clock_timestamp() AND queue = :queue
                 ORDER BY outbox_at, id LIMIT :most FOR UPDATE SKIP LOCKED)
    RETURNING id, type, delivery, tenant_id
""")
MAKE_DUE = text("UPDATE jobs SET run_at = now(), outbox_at = now() WHERE outbox_at > now()")


@contextmanager
def environment(values: Mapping[str, str] = ENVIRONMENT) -> Iterator[None]:
    """These variables, while it lasts."""
    before = dict(os.environ)
    os.environ.update(values)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextmanager
def quiet() -> Iterator[None]:
    """Log lines and metrics are made as ever, and written nowhere."""
    with redirect_stdout(io.StringIO()):
        yield


def event(messages: Sequence[tuple[UUID, str, UUID | None]]) -> dict[str, Any]:
    """An SQS event of jobs (id, type, tenant) on their first delivery, as Lambda gets it."""
    return {"Records": [_record(job_id, job_type, tenant_id, 1) for job_id, job_type, tenant_id in messages]}


def take(queue: str, most: int) -> dict[str, Any] | None:
    """An event of the jobs of a queue that are due, at most so many; None when there are none."""
    with transaction() as tx:
        rows = tx.execute(SEND_DUE, {"queue": queue, "most": most}).all()
    records = [_record(row.id, row.type, row.tenant_id, row.delivery) for row in rows]
    return {"Records": records} if records else None


def make_due() -> None:
    """As if every wait were over: a tenant's jitter, a slot of the provider's rate."""
    with transaction() as tx:
        tx.execute(MAKE_DUE)


def _record(job_id: UUID, job_type: str, tenant_id: UUID | None, delivery: int) -> dict[str, Any]:
    body = {"v": ENVELOPE_VERSION, "id": str(job_id), "delivery": delivery, "type": job_type}
    body |= {"tenant_id": str(tenant_id)} if tenant_id else {}
    sent = str(int(time.time() * 1000))
    return {
        "messageId": str(uuid4()),
        "receiptHandle": "AQEBwJnKyrHigUMZj6rYigCgxlaS3SLy0a",
        "body": json.dumps(body | {"correlation_id": str(job_id)}),
        "attributes": {
            "ApproximateReceiveCount": "1",
            "SentTimestamp": sent,
            "SenderId": "AIDAIENQZJOLO23YVJ4VO",
            "ApproximateFirstReceiveTimestamp": sent,
        },
        "messageAttributes": {},
        "md5OfBody": "42ebc10ac7292bdcdc14a4ed597261e5",
        "eventSource": "aws:sqs",
        "eventSourceARN": "arn:aws:sqs:us-east-1:000000000000:duecourse-bench",
        "awsRegion": "us-east-1",
    }
