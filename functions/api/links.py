"""Where on AWS a job's story goes on: its worker's log, and the traces of its latest run."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

from pydantic import Field
from sqlalchemy import Row

from functions.api.models import View
from functions.pipeline.settings import settings

LONGEST_RUN = timedelta(minutes=15)
"""A Lambda runs no longer."""


class Links(View):
    """Addresses in the AWS console; null where the API does not run on AWS."""

    log_group: str = Field(examples=["/aws/lambda/duecourse-prod-email-worker"])
    log_filter: str = Field(description="A filter pattern: the lines that name this job.")
    logs: str | None
    traces: str | None = Field(description="Of the worker, while the latest run lasted.")


def links_of(row: Row[Any]) -> Links:
    """The links of a job."""
    worker = settings().worker_function(row.queue)
    group, pattern = f"/aws/lambda/{worker}", f'"{row.id}"'
    region = os.environ.get("AWS_REGION", "")
    logs = traces = None
    if region and "AWS_ENDPOINT_URL" not in os.environ:
        home = f"https://{region}.console.aws.amazon.com"
        since = int(row.created_at.timestamp() * 1000)
        # The console wants its own fragment encoded twice, with $ for %.
        fragment = f"?filterPattern={quote(pattern, safe='')}&start={since}"
        logs = (
            f"{home}/cloudwatch/home?region={region}#logsV2:log-groups/log-group/{_twice(group)}/log-events"
            f"{quote(fragment, safe='').replace('%', '$')}"
        )
        if row.started_at is not None:
            span = f"{_instant(row.started_at)}~{_instant(row.started_at + LONGEST_RUN)}"
            wanted = quote(f'service("{worker}")', safe="")
            traces = f"{home}/xray/home?region={region}#/traces?filter={wanted}&timeRange={span}"
    return Links(log_group=group, log_filter=pattern, logs=logs, traces=traces)


def _twice(text: str) -> str:
    return quote(quote(text, safe=""), safe="").replace("%", "$")


def _instant(at: datetime) -> str:
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S")
