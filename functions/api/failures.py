"""Every error that can end a request, as the problem its client gets. Only what is unforeseen becomes a 500."""

from __future__ import annotations

import traceback
from http import HTTPStatus
from typing import TYPE_CHECKING

from aws_lambda_powertools.event_handler.exceptions import NotFoundError
from aws_lambda_powertools.event_handler.openapi.exceptions import RequestValidationError
from sqlalchemy.exc import DBAPIError

from functions.api import problems
from functions.api.problems import Problem
from functions.db.engine import is_conflict, is_not_migrated, is_outage, is_too_slow, sqlstate
from functions.pipeline import observe

if TYPE_CHECKING:
    from aws_lambda_powertools.event_handler import APIGatewayHttpResolver

DATA_EXCEPTION = "22"
"""SQLSTATE class of values that a type cannot hold."""


def to_problem(error: Exception, app: APIGatewayHttpResolver | None = None) -> Problem:  # noqa: PLR0911 - one for each kind
    """The problem that an error is for the client."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, NotFoundError) and app is not None:
        return _no_route(app)
    if isinstance(error, RequestValidationError):
        return _invalid(error)
    if is_not_migrated(error):
        observe.logger().error("request_failed", error=observe.summary(error))
        return problems.unavailable("the database is older than this release: `duecourse db migrate`")
    if is_outage(error):
        observe.logger().warning("request_failed", error=observe.summary(error))
        return problems.unavailable("the database does not answer, or is not to be written to at present")
    if is_too_slow(error):
        observe.logger().warning("request_failed", error=observe.summary(error))
        return problems.unavailable("the database took too long: ask for less, or later")
    if is_conflict(error):
        return problems.unavailable("somebody else is changing the same rows", retry_after_seconds=1)
    if isinstance(error, DBAPIError) and sqlstate(error).startswith(DATA_EXCEPTION):
        return Problem(HTTPStatus.UNPROCESSABLE_ENTITY, "a value is out of the range that the database holds")
    if type(error).__module__.startswith("botocore"):
        observe.logger().warning("request_failed", error=observe.summary(error))
        return problems.unavailable("AWS did not answer; the API's log has its words, under the X-Request-Id")
    where = [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in traceback.extract_tb(error.__traceback__)]
    observe.logger().error("request_failed", error=observe.summary(error), where=where[-10:])
    return Problem(HTTPStatus.INTERNAL_SERVER_ERROR, "an error of ours; the API's log has it under the X-Request-Id")


def _no_route(app: APIGatewayHttpResolver) -> Problem:
    path = app.current_event.path
    routes = app._static_routes + app._dynamic_routes
    methods = sorted({route.method for route in routes if route.rule.match(path)})
    if not methods:
        return problems.not_found()
    return Problem(
        HTTPStatus.METHOD_NOT_ALLOWED, f"here is only {', '.join(methods)}", headers={"Allow": ", ".join(methods)}
    )


def _invalid(error: RequestValidationError) -> Problem:
    return problems.all_invalid(
        [{"location": ".".join(str(part) for part in found["loc"]), "reason": found["msg"]} for found in error.errors()]
    )
