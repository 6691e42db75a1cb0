"""Keyset pagination: a cursor is the position of the last row shown, and works only with the query that made it.

It holds no secret and grants nothing: every page is filtered and scoped anew.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from hashlib import sha256
from typing import Annotated, Any

from aws_lambda_powertools.event_handler.openapi.params import Query

from functions.api import problems

DEFAULT_LIMIT = 50
LONGEST_PAGE = 200
LONGEST_CURSOR = 1000
FINGERPRINT_DIGITS = 16

Limit = Annotated[int, Query(ge=1, le=LONGEST_PAGE, description="Rows a page, at most.")]
"""Use as `limit: Limit = DEFAULT_LIMIT`."""
Cursor = Annotated[str | None, Query(max_length=LONGEST_CURSOR, description="`next_cursor` of the page before.")]
"""Use as `cursor: Cursor = None`."""


def encode(query: object, position: list[Any]) -> str:
    """A cursor for the rows after `position`. `query` is whatever the list depends on: path, filters, scope."""
    text = json.dumps([_fingerprint(query), *position], default=str, separators=(",", ":"))
    return base64.urlsafe_b64encode(text.encode()).rstrip(b"=").decode()


def decode(query: object, cursor: str | None, *parsers: Callable[[Any], Any]) -> list[Any] | None:
    """The position in a cursor, each part through its parser (`UUID`, `int`, `datetime.fromisoformat`); None: start.

    Raises `Problem` 422 when it was not made for this query.
    """
    if cursor is None:
        return None
    try:
        raw = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        fingerprint, *parts = json.loads(raw)
        if fingerprint != _fingerprint(query):
            raise problems.invalid("query.cursor", "it is of another query: keep the filters, or start anew")
        return [parse(part) for parse, part in zip(parsers, parts, strict=True)]
    except (ValueError, TypeError, AttributeError, OverflowError, RecursionError):
        raise problems.invalid("query.cursor", "it is damaged: use next_cursor exactly as it was given") from None


def _fingerprint(query: object) -> str:
    return sha256(json.dumps(query, default=str, sort_keys=True).encode()).hexdigest()[:FINGERPRINT_DIGITS]
