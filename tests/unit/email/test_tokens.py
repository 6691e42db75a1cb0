"""Unsubscribe tokens: what is signed comes back, everything else is refused."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from functions.email.tokens import VALID_FOR, ExpiredToken, ForgedToken, Subscription, make_token, read_token

KEY = b"k" * 32
NOW = datetime(2026, 11, 24, tzinfo=UTC)
WHO = Subscription(UUID(int=1), "user", UUID(int=2), ("document_expiry", "filing"))


def test_what_is_signed_comes_back() -> None:
    token = make_token(KEY, WHO, now=NOW)
    assert read_token(KEY, token, now=NOW + VALID_FOR) == WHO
    assert token.replace("-", "").replace("_", "").isalnum()


def test_an_expired_token_is_refused() -> None:
    token = make_token(KEY, WHO, now=NOW)
    with pytest.raises(ExpiredToken):
        read_token(KEY, token, now=NOW + VALID_FOR + timedelta(seconds=1))


def test_another_key_s_token_is_refused() -> None:
    with pytest.raises(ForgedToken):
        read_token(b"x" * 32, make_token(KEY, WHO, now=NOW), now=NOW)


@given(st.integers(0, 10_000), st.characters(codec="ascii"))
def test_a_token_with_any_character_changed_is_refused(position: int, character: str) -> None:
    token = make_token(KEY, WHO, now=NOW)
    position %= len(token)
    changed = token[:position] + character + token[position + 1 :]
    if changed != token:
        with pytest.raises(ForgedToken):
            read_token(KEY, changed, now=NOW)


@given(st.text(max_size=300))
def test_no_text_is_a_token_by_chance(text: str) -> None:
    with pytest.raises(ForgedToken):
        read_token(KEY, text, now=NOW)
