"""Slicing into batches."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from functions.core.chunks import chunks


@given(st.lists(st.integers(), max_size=200), st.integers(1, 50))
def test_chunks_hold_every_item_once_and_in_order(items: list[int], size: int) -> None:
    assert [item for chunk in chunks(items, size) for item in chunk] == items


@given(st.lists(st.integers(), min_size=1, max_size=200), st.integers(1, 50))
def test_every_chunk_but_the_last_is_full_and_none_is_empty(items: list[int], size: int) -> None:
    *full, last = [len(chunk) for chunk in chunks(items, size)]
    assert set(full) <= {size}
    assert 1 <= last <= size


def test_nothing_makes_no_chunk() -> None:
    assert list(chunks([], 10)) == []
