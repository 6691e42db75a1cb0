"""Errors as RFC 9457 problem details: what a route raises, and what the client gets.

A 401, 403 or 404 never says whether the thing asked for exists. https://www.rfc-editor.org/rfc/rfc9457
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from aws_lambda_powertools.event_handler import Response

from functions.core.errors import DuecourseError

CONTENT_TYPE = "application/problem+json"
TITLES = {HTTPStatus.UNPROCESSABLE_ENTITY: "Unprocessable Content"}
"""Where Python's words differ from one version to the next: these are RFC 9110's."""


class Problem(DuecourseError):
    """Ends a request with a problem document; the message is its `detail`, one sentence that names cause and fix."""

    def __init__(
        self,
        status: HTTPStatus,
        detail: str,
        *,
        errors: Sequence[Mapping[str, Any]] = (),
        headers: Mapping[str, str] | None = None,
        **members: Any,
    ) -> None:
        """`errors` says what is wrong where; `members` are extension members, such as the `state` that was found."""
        super().__init__(detail)
        self.status = status
        self.errors = list(errors)
        self.headers = dict(headers or {})
        self.members = members


def bad_request(detail: str) -> Problem:
    """400: the request cannot be read at all."""
    return Problem(HTTPStatus.BAD_REQUEST, detail)


def invalid(where: str, reason: str) -> Problem:
    """422: one value is wrong. `where` is its place, e.g. `query.state` or `body.payload.note`."""
    return all_invalid([{"location": where, "reason": reason}])


def all_invalid(errors: Sequence[Mapping[str, Any]]) -> Problem:
    """422: these values are wrong, each a `location` and a `reason`."""
    detail = "a value of the request is wrong" if len(errors) == 1 else f"{len(errors)} values of the request are wrong"
    return Problem(HTTPStatus.UNPROCESSABLE_ENTITY, detail, errors=errors)


def forbidden(detail: str = "this token may not do that") -> Problem:
    """403: the token is good, and does not suffice."""
    return Problem(HTTPStatus.FORBIDDEN, detail)


def not_found(detail: str = "there is nothing here for this token") -> Problem:
    """404: it does not exist, or not for this token; the answer is the same."""
    return Problem(HTTPStatus.NOT_FOUND, detail)


def conflict(detail: str, **members: Any) -> Problem:
    """409: it is not in the state that the request needs; `members` say which it is in."""
    return Problem(HTTPStatus.CONFLICT, detail, **members)


def too_large() -> Problem:
    """500: the answer is larger than a function may return."""
    return Problem(HTTPStatus.INTERNAL_SERVER_ERROR, "the answer is larger than 6 MB: ask for fewer rows at a time")


def unavailable(detail: str, *, retry_after_seconds: int = 5) -> Problem:
    """503: something behind the API is away; asking again later helps."""
    return Problem(HTTPStatus.SERVICE_UNAVAILABLE, detail, headers={"Retry-After": str(retry_after_seconds)})


def title(status: HTTPStatus) -> str:
    """A status in words."""
    return TITLES.get(status, status.phrase)


def document(problem: Problem, instance: str) -> dict[str, Any]:
    """The problem details object; `instance` is the path that was asked for."""
    found: dict[str, Any] = {
        "type": "about:blank",
        "title": title(problem.status),
        "status": int(problem.status),
        "detail": str(problem),
        "instance": instance,
    }
    if problem.errors:
        found["errors"] = problem.errors
    return found | problem.members


def response(problem: Problem, instance: str) -> Response[str]:
    """The problem as an HTTP response."""
    body = json.dumps(document(problem, instance), default=str)
    return Response(int(problem.status), content_type=CONTENT_TYPE, body=body, headers=problem.headers)
