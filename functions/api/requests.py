"""What a request must be before it is validated: readable, and nothing in it that PostgreSQL cannot hold."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

from functions.api import problems
from functions.api.problems import Problem
from functions.core.jsonb import why_not_jsonb

if TYPE_CHECKING:
    from aws_lambda_powertools.event_handler import APIGatewayHttpResolver, Response
    from aws_lambda_powertools.event_handler.middlewares import NextMiddleware

OWN_CODE = "functions."


def readable(event: Mapping[str, Any]) -> dict[str, Any]:
    """The event with its body as text. Raises `Problem` 400 or 415."""
    parameters = event.get("queryStringParameters") or {}
    for part in (event["rawPath"], *parameters, *parameters.values()):
        if why_not_jsonb(part):
            raise problems.bad_request("the URL holds a character that nothing here can be named with")
    body = event.get("body") or ""
    if not body:
        return {**event, "body": None, "isBase64Encoded": False}
    content_type = next((v for k, v in (event.get("headers") or {}).items() if k.lower() == "content-type"), "")
    if content_type.partition(";")[0].strip().lower() not in {"", "application/json"}:
        raise Problem(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "the body must be application/json")
    if event.get("isBase64Encoded"):
        try:
            body = base64.b64decode(body, validate=True).decode()
        except ValueError:
            raise problems.bad_request("the body is not UTF-8") from None
    return {**event, "body": body, "isBase64Encoded": False}


def read_json(body: str) -> dict[str, Any]:
    """The JSON object in a body. Raises `Problem` 400 or 422."""
    try:
        value = json.loads(body)
    except json.JSONDecodeError as error:
        raise problems.bad_request(f"the body is no JSON: {error.msg} at position {error.pos}") from None
    except (ValueError, RecursionError):  # a number of thousands of digits, or nesting of thousands of levels
        raise problems.bad_request("the body is no JSON that can be read here") from None
    if reason := why_not_jsonb(value):
        raise problems.invalid("body", reason)
    if not isinstance(value, dict):
        raise problems.invalid("body", "it must be a JSON object")
    return value


def refuse_unknown_parameters(app: APIGatewayHttpResolver, next_middleware: NextMiddleware) -> Response[Any]:
    """A misspelt filter must not list everything. Raises `Problem` 422 for a query parameter that no route knows."""
    from aws_lambda_powertools.event_handler.openapi.compat import is_scalar_field

    route = app.context["_route"]
    if route.func.__module__.startswith(OWN_CODE):  # not Powertools' own "not found" route
        known = {field.alias: field for field in route.dependant.query_params}
        for name, values in parse_qs(app.current_event.raw_query_string, keep_blank_values=True).items():
            if name not in known:
                names = ", ".join(sorted(known)) or "none"
                raise problems.invalid(f"query.{name}"[:100], f"there is no such parameter; there are: {names}")
            if len(values) > 1 and is_scalar_field(known[name]):
                raise problems.invalid(f"query.{name}", "it may be given once")
    return next_middleware(app)
