"""The API described: OpenAPI 3.1, made from the routes and their models. `GET /openapi.json` serves it.

Powertools writes down the parameters, bodies and answers; what all operations share is added here by one rule each.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from aws_lambda_powertools.event_handler import Response

from functions.api import auth
from functions.api.models import ProblemDetails
from functions.api.problems import CONTENT_TYPE, title
from functions.api.routing import new_router

if TYPE_CHECKING:
    from aws_lambda_powertools.event_handler import APIGatewayHttpResolver
    from aws_lambda_powertools.event_handler.api_gateway import Route

VERSION = "1.0.0"
REFERENCE = "#/components/{kind}/{name}"
INFO = """The management API of Duecourse: look at jobs, queues and schedules, and steer them.

Every request but `GET /health` carries `Authorization: Bearer <token>`; `duecourse token create` gives tokens out.
A viewer reads, an operator also steers, an administrator also sees personal data. A token of one tenant sees and
steers that tenant's jobs alone. Every error is a problem document (RFC 9457). A list answers with `items` and
`next_cursor`; a page may hold fewer items than asked for, or none, and still have a cursor: go on until it is null."""

EVERY_OPERATION = (HTTPStatus.BAD_REQUEST, HTTPStatus.UNPROCESSABLE_ENTITY, HTTPStatus.SERVICE_UNAVAILABLE)
WITH_A_TOKEN = (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, HTTPStatus.TOO_MANY_REQUESTS)
WITH_A_NAME_IN_ITS_PATH = (HTTPStatus.NOT_FOUND,)
THAT_CHANGES = (HTTPStatus.CONFLICT, HTTPStatus.UNSUPPORTED_MEDIA_TYPE)
OF_POWERTOOLS = ("HTTPValidationError", "ValidationError", "ResponseValidationError")
"""Its own error models, which no answer of ours has."""

router = new_router()


@router.get("/openapi.json", include_in_schema=False)
def openapi() -> Response[str]:
    """This API as an OpenAPI document."""
    auth.require("viewer")
    from functions.api.app import application  # it has us among its routers

    return Response(200, content_type="application/json", body=json.dumps(document(application())))


def document(app: APIGatewayHttpResolver) -> dict[str, Any]:
    """The OpenAPI document of an application's routes."""
    from aws_lambda_powertools.event_handler.openapi.models import HTTPBearer  # 100 ms, for this alone

    from functions.api.app import PUBLIC

    made: dict[str, Any] = json.loads(
        app.get_openapi_json_schema(
            title="Duecourse management API",
            version=VERSION,
            description=INFO,
            security_schemes={"token": HTTPBearer()},
            security=[{"token": []}],
        )
    )
    components = made["components"]
    for name in OF_POWERTOOLS:
        components["schemas"].pop(name, None)
    components["schemas"] |= _problem_schemas()
    components["responses"] = {}
    for route, operation in _operations(app, made):
        public = (route.method, route.path) in PUBLIC
        operation["operationId"] = route.func.__name__
        operation["description"] = inspect.getdoc(route.func) or ""
        if public:
            operation["security"] = []
        for parameter in operation.get("parameters", ()):
            parameter["schema"] = _without_null(parameter["schema"])
        operation["responses"].pop("422", None)
        for status in _statuses(route, public=public):
            name = title(status).replace(" ", "")
            components["responses"][name] = _response(status)
            shared = {"$ref": REFERENCE.format(kind="responses", name=name)}
            answer = operation["responses"].setdefault(str(int(status)), shared)
            if answer is not shared:  # an answer of the route's own, such as what is wrong with the queues
                answer["content"] |= components["responses"][name]["content"]
        operation["responses"] = dict(sorted(operation["responses"].items()))
    for kind in ("schemas", "responses"):
        components[kind] = dict(sorted(components[kind].items()))
    made["paths"] = dict(sorted(made["paths"].items()))
    return made


def _operations(app: APIGatewayHttpResolver, made: dict[str, Any]) -> Iterator[tuple[Route, dict[str, Any]]]:
    for route in app._static_routes + app._dynamic_routes:
        if route.include_in_schema:
            yield route, made["paths"][route.openapi_path][route.method.lower()]


def _statuses(route: Route, *, public: bool) -> Iterator[HTTPStatus]:
    yield from EVERY_OPERATION
    if not public:
        yield from WITH_A_TOKEN
    if "<" in route.path:
        yield from WITH_A_NAME_IN_ITS_PATH
    if route.method != "GET":
        yield from THAT_CHANGES


def _response(status: HTTPStatus) -> dict[str, Any]:
    schema = {"$ref": REFERENCE.format(kind="schemas", name=ProblemDetails.__name__)}
    return {"description": title(status), "content": {CONTENT_TYPE: {"schema": schema}}}


def _problem_schemas() -> dict[str, Any]:
    made = ProblemDetails.model_json_schema(ref_template=REFERENCE.format(kind="schemas", name="{model}"))
    inner: dict[str, Any] = made.pop("$defs", {})
    return inner | {ProblemDetails.__name__: made}


def _without_null(schema: dict[str, Any]) -> dict[str, Any]:
    """A parameter that may be left out: a URL cannot say null."""
    kept = [choice for choice in schema.get("anyOf", ()) if choice != {"type": "null"}]
    if len(kept) != 1:
        return schema
    [only] = kept
    return {**{key: value for key, value in schema.items() if key != "anyOf"}, **only}
