"""`itertools.batched` for Python 3.11."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

Item = TypeVar("Item")


def chunks(items: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    """The items in their order, in slices of at most `size`."""
    for start in range(0, len(items), size):
        yield items[start : start + size]
