"""Dotted strings of the catalogue, resolved on first use: a worker imports only the job in hand."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from typing import Any


@cache
def resolve(dotted: str) -> Any:
    """The object that `package.module:name` names. Raises `ImportError` or `AttributeError` where there is none."""
    module, _, name = dotted.partition(":")
    return getattr(import_module(module), name)
