"""The management API as a WSGI application, for tools that send requests of their own."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import Any

from duecourse.local.delivery import Context
from functions.api import app
from tests.api import event

StartResponse = Callable[[str, list[tuple[str, str]]], object]


def wsgi(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
    """Hand a request to the function as API Gateway would: its body in base64, its path decoded."""
    headers = {
        name.removeprefix("HTTP_").replace("_", "-").lower(): value
        for name, value in environ.items()
        if name.startswith("HTTP_") or name in {"CONTENT_TYPE", "CONTENT_LENGTH"}
    }
    path = environ["PATH_INFO"].encode("latin-1").decode(errors="replace")
    sent = event(environ["REQUEST_METHOD"], path.replace("?", "%3F"), headers=headers, raw=environ["QUERY_STRING"])
    content = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    sent |= {"body": base64.b64encode(content).decode(), "isBase64Encoded": True} if content else {}
    answer = app.handler(sent, Context())
    status = HTTPStatus(answer["statusCode"])
    start_response(f"{int(status)} {status.phrase}", list(answer["headers"].items()))
    body = answer.get("body") or ""
    return [base64.b64decode(body) if answer.get("isBase64Encoded") else body.encode()]
