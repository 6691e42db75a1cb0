"""Dotted strings of the catalogue."""

from __future__ import annotations

import pytest

from functions.core.resolve import resolve


def test_a_dotted_string_names_an_object_of_a_module() -> None:
    assert resolve("datetime:UTC") is __import__("datetime").UTC


def test_a_module_or_name_that_does_not_exist_is_named_in_the_error() -> None:
    with pytest.raises(ImportError, match="no_such_module"):
        resolve("functions.no_such_module:x")
    with pytest.raises(AttributeError, match="no_such_name"):
        resolve("functions.core.resolve:no_such_name")
