"""Lambda `api`: the management API behind API Gateway (HTTP API, payload format 2.0).

A request is authenticated before it meets a route: without a token, nothing shows what exists.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any

from aws_lambda_powertools.event_handler import APIGatewayHttpResolver

from functions.api import auth, problems, requests
from functions.api.failures import to_problem
from functions.api.identity import Caller
from functions.core.errors import BadEvent
from functions.db.deadline import deadline
from functions.db.engine import transaction
from functions.pipeline import observe

if TYPE_CHECKING:
    from aws_lambda_powertools.event_handler import Response

ROUTERS: Mapping[str, tuple[str, ...]] = {
    "health": (
        "functions.api.liveness",
        "functions.api.health_queues",
        "functions.api.health_database",
        "functions.api.health_workers",
        "functions.api.health_schedules",
    ),
    "errors": ("functions.api.errors",),
    "jobs": ("functions.api.jobs", "functions.api.job_actions"),
    "queues": ("functions.api.queues",),
    "schedules": ("functions.api.schedules",),
    "metrics": ("functions.api.metrics",),
    "audit": ("functions.api.audit",),
    "openapi.json": ("functions.api.openapi",),
}
"""Modules with a `router`, by the first part of their paths: a cold start loads those of its own request alone."""

PUBLIC = frozenset({("GET", "/health")})
"""What needs no token: a load balancer asks for it."""

HEADERS = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
LONGEST_LOGGED_PATH = 200
LARGEST_ANSWER = 6_000_000
"""Bytes; Lambda returns no more than 6 MB, in which the body's quotes and backslashes count twice.
https://docs.aws.amazon.com/lambda/latest/dg/gettingstarted-limits.html"""


def application() -> APIGatewayHttpResolver:
    """A resolver with every route."""
    return _resolver(tuple(name for names in ROUTERS.values() for name in names))


@cache
def _resolver(modules: tuple[str, ...]) -> APIGatewayHttpResolver:
    """The process's resolver with the routes of these modules."""
    app = APIGatewayHttpResolver(enable_validation=True, json_body_deserializer=requests.read_json)
    app.use([requests.refuse_unknown_parameters])
    for name in modules:
        app.include_router(import_module(name).router)

    def answer(error: Exception) -> Response[str]:
        return problems.response(to_problem(error, app), app.current_event.path)

    app.exception_handler(Exception)(answer)
    return app


def handler(event: Any, context: Any) -> dict[str, Any]:
    """Serve one request. Raises `BadEvent` when it is called by anything but an HTTP API."""
    started = time.monotonic()
    try:
        method, path = event["requestContext"]["http"]["method"].upper(), event["rawPath"]
    except (KeyError, TypeError, AttributeError):
        raise BadEvent("this function serves an HTTP API, with payload format 2.0") from None
    request_id = str(event["requestContext"].get("requestId", ""))
    with deadline(context), observe.logger().append_context_keys(request_id=request_id):
        answer = _answer(event, context, method, path)
        if len(answer.get("body") or "") * 2 > LARGEST_ANSWER and len(json.dumps(answer)) > LARGEST_ANSWER:
            answer = _as_answer(problems.too_large(), path)
        _log(method, path, answer["statusCode"], time.monotonic() - started)
    answer["headers"] = HEADERS | {"X-Request-Id": request_id} | answer.get("headers", {})
    return answer


def _answer(event: Any, context: Any, method: str, path: str) -> dict[str, Any]:
    auth.set_caller(None)
    try:
        if (method, path) not in PUBLIC:
            auth.set_caller(_identify(event))
        routes = _resolver(ROUTERS.get(path.split("/")[1] if "/" in path else "", ()))
        return routes.resolve(requests.readable(event), context)
    except Exception as error:  # noqa: BLE001 - whatever it is, the client gets a problem document
        return _as_answer(error, path)


def _identify(event: Any) -> Caller:
    headers = {str(name).lower(): value for name, value in (event.get("headers") or {}).items()}
    token = auth.bearer(headers.get("authorization"))
    source = event["requestContext"]["http"].get("sourceIp", "")
    with transaction() as tx:  # commits the count of failures, then refuses
        found = auth.authenticate(tx, token, source)
    if found is None:
        raise auth.refused()
    return found


def _as_answer(error: Exception, path: str) -> dict[str, Any]:
    found = problems.response(to_problem(error), path)
    return {"statusCode": found.status_code, "headers": dict(found.headers), "body": found.body}


def _log(method: str, path: str, status: int, seconds: float) -> None:
    caller = auth.current()
    observe.logger().info(
        "request",
        method=method,
        path=path[:LONGEST_LOGGED_PATH],
        status=status,
        milliseconds=round(seconds * 1000),
        token_id=caller and str(caller.token_id),
    )
