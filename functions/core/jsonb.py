"""What PostgreSQL's jsonb can hold: less than Python's json writes. One value that it refuses fails a whole batch."""

from __future__ import annotations

import json
import re

NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")
"""JSON's escape of the NUL character, as against a text that speaks of it (an even number of backslashes)."""


def why_not_jsonb(value: object) -> str | None:
    """Why PostgreSQL's jsonb would refuse the value, in words that quote nothing of it; None when it would not."""
    try:
        text = json.dumps(value, allow_nan=False, ensure_ascii=False)
        text.encode()
    except UnicodeEncodeError:
        return "it holds half a surrogate pair"
    except TypeError as error:
        return str(error)
    except (ValueError, RecursionError):
        return "it holds NaN, an infinite number or too deep a nesting"
    if "\\u0000" in text and NUL.search(text):  # the plain search is fifty times as fast
        return "it holds a NUL character"
    return None
