"""A firm's colour stays readable in every role, whatever the firm chose."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from functions.email.colors import PAPER, PAPER_DARK, READABLE, contrast, palette

COLORS = st.integers(0, 0xFFFFFF).map(lambda number: f"#{number:06x}")


def test_contrast_is_that_of_the_standard() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)
    assert contrast("#1f4e79", "#1f4e79") == pytest.approx(1)


@given(COLORS)
@example("#ffd400")
@example("#000000")
@example("#ffffff")
@example("#747474")
def test_text_in_and_on_every_colour_is_readable(color: str) -> None:
    roles = palette(color)
    assert roles.fill == color
    assert contrast(roles.on_fill, roles.fill) >= READABLE
    assert contrast(roles.accent, PAPER) >= READABLE
    assert contrast(roles.accent_dark, PAPER_DARK) >= READABLE


def test_a_colour_that_is_readable_is_left_as_it_is() -> None:
    assert palette("#1F4E79").accent == "#1f4e79"


@pytest.mark.parametrize("color", ["red", "#fff", "#12345g", "#123456;", "#123456\n", "", "1f4e79"])
def test_anything_else_is_no_colour(color: str) -> None:
    with pytest.raises(ValueError, match="no colour"):
        palette(color)
