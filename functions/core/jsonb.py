"""What PostgreSQL's jsonb can hold: less than Python's json writes. One value that it refuses fails a whole batch."""

from __future__ import annotations

import json
import re

NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")
"""JSON's escape of the NUL character, as against a text that speaks of it (an even number of backslashes)."""


def to_jsonb(value: object) -> str:
    """The value as JSON text that PostgreSQL's jsonb takes. Raises `ValueError` saying why there is none, in words that
    quote nothing of it.
    """
    try:
        text = json.dumps(value, allow_nan=False, ensure_ascii=False)
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("it holds half a surrogate pair") from None
    except TypeError as error:
        raise ValueError(str(error)) from None
    except (ValueError, RecursionError):
        raise ValueError("it holds NaN, an infinite number or too deep a nesting") from None
    if "\\u0000" in text and NUL.search(text):  # the plain search is fifty times as fast
        raise ValueError("it holds a NUL character")
    return text


def why_not_jsonb(value: object) -> str | None:
    """Why PostgreSQL would refuse the value; None when it would not."""
    try:
        to_jsonb(value)
    except ValueError as error:
        return str(error)
    return None
