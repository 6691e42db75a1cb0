"""The verdict of a health page: findings, each with its reason and runbook, and the status they add up to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from typing import Literal, TypeVar

from aws_lambda_powertools.event_handler.openapi.types import OpenAPIResponse
from botocore.exceptions import BotoCoreError, ClientError

from functions.api.models import View
from functions.pipeline import observe

Status = Literal["ok", "degraded", "bad"]
Asked = TypeVar("Asked")
Answered = TypeVar("Answered")

JSON = "application/json"
LOOKS_AT_ONCE = 16
RESPONSES: dict[int, OpenAPIResponse] = {
    200: {"description": "Nobody has to act now."},
    503: {"description": "Somebody has to act: `findings` say why."},
}
"""Of every health page, for the OpenAPI document: the same body in both."""


class Finding(View):
    """One thing that is not as it should be."""

    severity: Literal["degraded", "bad"]
    reason: str
    runbook: str


def bad(reason: str, runbook: str) -> Finding:
    """Somebody has to act now; the page answers 503."""
    return Finding(severity="bad", reason=reason, runbook=f"docs/runbooks/{runbook}.md")


def degraded(reason: str, runbook: str) -> Finding:
    """Somebody has to know."""
    return Finding(severity="degraded", reason=reason, runbook=f"docs/runbooks/{runbook}.md")


def status_of(findings: Sequence[Finding]) -> Status:
    """The worst of them."""
    severities = {finding.severity for finding in findings}
    return "bad" if "bad" in severities else "degraded" if "degraded" in severities else "ok"


def http_status(findings: Sequence[Finding]) -> HTTPStatus:
    """503 for a monitor that reads nothing but the status line."""
    return HTTPStatus.SERVICE_UNAVAILABLE if status_of(findings) == "bad" else HTTPStatus.OK


def ask_aws(ask: Callable[[Asked], Answered], about: Sequence[Asked]) -> list[Answered | None]:
    """Ask AWS about each, at the same time; None where it did not answer, which the log explains.

    A health page must still tell what the ledger knows.
    """

    def one(item: Asked) -> Answered | None:
        try:
            return ask(item)
        except (BotoCoreError, ClientError) as error:
            observe.logger().warning("aws_not_asked", error=observe.summary(error))
            return None

    with ThreadPoolExecutor(min(LOOKS_AT_ONCE, len(about) or 1)) as pool:
        return list(pool.map(one, about))
