"""Text, links and files as mails take them: bounded, and unable to change a header or a layout."""

from __future__ import annotations

import re
import unicodedata
from typing import Annotated, Final
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints

LINE_LENGTH: Final = 200
TEXT_LENGTH: Final = 10_000
URL_LENGTH: Final = 2_000
NAMELESS: Final = "–"

_BREAKS: Final = {"Cc", "Cs", "Zl", "Zp"}
_BIDI_CONTROLS: Final = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""Embeddings, overrides and isolates: with them a name could reverse the text around it."""
_LOOPBACK: Final = {"localhost", "127.0.0.1", "::1"}


def is_plain(character: str) -> bool:
    """Whether a character may stand in one line of text: no control, no line break, no direction override."""
    return character not in _BIDI_CONTROLS and unicodedata.category(character) not in _BREAKS


def check_line(value: str) -> str:
    """One line of text. Raises `ValueError` for a line break or another control character: header injection."""
    if not all(map(is_plain, value)):
        raise ValueError("must be one line without control characters")
    return value


def clean_line(value: object) -> object:
    """A name out of our own tables, as one line: what is no plain text becomes a space, what is too long ends in "…".

    A digest is never lost because somebody's name is empty or holds a tab.
    """
    if not isinstance(value, str):
        return value
    line = " ".join("".join(c if is_plain(c) else " " for c in value).split()) or NAMELESS
    return line if len(line) <= LINE_LENGTH else line[: LINE_LENGTH - 1].rstrip() + "…"


def check_text(value: str) -> str:
    """Lines of text, ended by a line feed. Raises `ValueError` for other control characters."""
    text = value.replace("\r\n", "\n")
    if not all(c in "\n\t" or is_plain(c) for c in text):
        raise ValueError("must not hold control characters other than line feeds and tabs")
    return text


def check_url(value: str) -> str:
    """An absolute https link, or http to this machine. Raises `ValueError` for any other: no javascript:, no data:."""
    if re.search(r"[\s\"<>\\^`{|}]", value) or not all(map(is_plain, value)):
        raise ValueError("must be a link without spaces, quotes or control characters")
    parts = urlsplit(value)
    _ = parts.port  # raises ValueError where it is no number
    if not parts.hostname or parts.username is not None:
        raise ValueError("must be an absolute link, without user or password")
    if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in _LOOPBACK):
        raise ValueError("must begin with https://")
    return value


def check_file_name(value: str) -> str:
    """A name a file can have on the reader's machine. Raises `ValueError` for a path, or what would break a header."""
    if set(check_line(value)) & set('/\\":<>|?*') or value.startswith(".") or value.endswith("."):
        raise ValueError('must be a plain file name, without / \\ " : < > | ? * and without a dot at either end')
    return value


_STRIPPED: Final = StringConstraints(strip_whitespace=True, min_length=1)

Line = Annotated[str, _STRIPPED, Field(max_length=LINE_LENGTH), AfterValidator(check_line)]
"""A name, a title or a subject that a caller gave."""
Cleaned = Annotated[str, BeforeValidator(clean_line), Field(min_length=1, max_length=LINE_LENGTH)]
"""A name or a title out of our own tables."""
Text = Annotated[str, _STRIPPED, Field(max_length=TEXT_LENGTH), AfterValidator(check_text)]
"""Paragraphs that a caller gave, plain text; an empty line parts two of them."""
Url = Annotated[str, Field(max_length=URL_LENGTH), AfterValidator(check_url)]
FileName = Annotated[str, _STRIPPED, Field(max_length=150), AfterValidator(check_file_name)]


class Contract(BaseModel):
    """Base of everything here: immutable, and an unknown field is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")
