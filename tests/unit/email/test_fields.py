"""Text, links and files: what is refused, and what is cleaned."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from functions.email.fields import LINE_LENGTH, Cleaned, FileName, Line, Text, Url, is_plain

LINE: TypeAdapter[str] = TypeAdapter(Line)
CLEANED: TypeAdapter[str] = TypeAdapter(Cleaned)
TEXT: TypeAdapter[str] = TypeAdapter(Text)
URL: TypeAdapter[str] = TypeAdapter(Url)
FILE: TypeAdapter[str] = TypeAdapter(FileName)

CONTROLS = [*map(chr, range(32)), "\x7f", "\x85", "\u2028", "\u2029", "\u202e", "\u2066"]


@pytest.mark.parametrize("control", CONTROLS, ids=lambda c: f"U+{ord(c):04X}")
def test_a_line_with_a_control_character_is_refused(control: str) -> None:
    with pytest.raises(ValidationError, match="one line"):
        LINE.validate_python(f"Invoice{control}Bcc: everybody@example.com")


@pytest.mark.parametrize("name", ["Ana", "Zoë O’Neill", "株式会社 山田", "شركة النور", "می‌خواهم", "👩‍👩‍👧"])
def test_names_of_all_scripts_are_lines(name: str) -> None:
    assert LINE.validate_python(name) == name


def test_a_line_is_bounded() -> None:
    assert LINE.validate_python("x" * LINE_LENGTH)
    for refused in ("x" * (LINE_LENGTH + 1), "", "  "):
        with pytest.raises(ValidationError):
            LINE.validate_python(refused)


@given(st.text(max_size=400))
def test_a_name_of_our_own_tables_always_becomes_a_line(name: str) -> None:
    cleaned = CLEANED.validate_python(name)
    assert 1 <= len(cleaned) <= LINE_LENGTH
    assert all(map(is_plain, cleaned))
    assert unicodedata.category(cleaned[0]) != "Cc"


def test_cleaning_keeps_the_words() -> None:
    assert CLEANED.validate_python(" Passport\tof\r\nAda ") == "Passport of Ada"
    assert CLEANED.validate_python("x" * 300).endswith("…")


def test_a_text_has_lines_and_no_other_controls() -> None:
    assert TEXT.validate_python("one\r\ntwo\n\n\tthree") == "one\ntwo\n\n\tthree"
    for refused in ("a\rb", "a\x00b", "a\u202eb", " ", "x" * 10_001):
        with pytest.raises(ValidationError):
            TEXT.validate_python(refused)


@pytest.mark.parametrize(
    "url", ["https://app.example.com/a?b=c&d=%20#e", "http://127.0.0.1:8080/x", "http://localhost/"]
)
def test_links_that_are_taken(url: str) -> None:
    assert URL.validate_python(url) == url


@pytest.mark.parametrize(
    "url",
    [
        "javascript:alert(1)",
        "data:text/html,x",
        "http://example.com/",
        "//example.com/",
        "/path",
        "https://",
        "https://user:secret@example.com/",
        "https://example.com:port/",
        'https://example.com/"onclick="x',
        "https://example.com/\r\nBcc: x",
        "https://example.com/a b",
        "https://example.com/<b>",
        "https://example.com/" + "x" * 2_000,
    ],
)
def test_links_that_are_refused(url: str) -> None:
    with pytest.raises(ValidationError):
        URL.validate_python(url)


@pytest.mark.parametrize("name", ["../a.pdf", "a/b.pdf", "a\\b.pdf", 'a".pdf', ".hidden", "a\r\n.pdf", "a.", "x" * 151])
def test_file_names_that_are_refused(name: str) -> None:
    with pytest.raises(ValidationError):
        FILE.validate_python(name)
