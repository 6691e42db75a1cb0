"""Handlers with nothing of ours in them: the yardsticks for an invocation and for a cold start."""

from __future__ import annotations

import json
from functools import cache
from typing import Any


@cache
def _powertools() -> Any:
    from aws_lambda_powertools import Logger, Metrics
    from aws_lambda_powertools.metrics import MetricUnit
    from aws_lambda_powertools.utilities.batch import BatchProcessor, EventType, process_partial_response

    return (
        Logger(),
        Metrics(namespace="Bare"),
        MetricUnit.Count,
        BatchProcessor(EventType.SQS),
        process_partial_response,
    )


def batch(event: Any, context: Any) -> Any:
    """Powertools' batch processor as its documentation shows it: a log line and a count for each message."""
    logger, metrics, unit, processor, respond = _powertools()

    def record_handler(record: Any) -> None:
        body = json.loads(record.body)
        logger.info("job_completed", job_id=body["id"], job_type=body["type"])
        metrics.add_metric("JobsCompleted", unit, 1)

    metrics.add_dimension("job_type", "empty")
    answer = respond(event=event, record_handler=record_handler, processor=processor, context=context)
    metrics.flush_metrics()
    return answer


def start(event: Any, context: Any) -> None:
    """boto3 with one client, and a log line: the least that a function of this kind loads."""
    import boto3
    from aws_lambda_powertools import Logger

    del event, context
    boto3.client("sqs", region_name="us-east-1")
    Logger().info("started")
