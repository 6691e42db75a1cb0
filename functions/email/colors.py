"""A firm's colour, made readable: WCAG 2.2 contrast. https://www.w3.org/TR/WCAG22/#dfn-contrast-ratio"""

from __future__ import annotations

import re
from colorsys import hls_to_rgb, rgb_to_hls
from dataclasses import dataclass
from typing import Final

READABLE: Final = 4.5
"""The least contrast of body text (WCAG level AA)."""
PAPER: Final = "#ffffff"
PAPER_DARK: Final = "#1c1f24"
"""The card's background where the reader has a dark theme; layout.html has the same."""

_STEPS: Final = 100


@dataclass(frozen=True, slots=True)
class Palette:
    """A firm's colour in the roles that it plays in a mail."""

    fill: str
    """Buttons and the rule at the top: the firm's colour itself."""
    on_fill: str
    """Text on `fill`: black or white, whichever is easier to read."""
    accent: str
    """The colour as text on a white card: darkened until it is readable."""
    accent_dark: str
    """The colour as text on a dark card: lightened until it is readable."""


def palette(color: str) -> Palette:
    """The roles of a colour such as `#1f4e79`. Raises `ValueError` for anything else."""
    if not re.fullmatch(r"#[0-9a-fA-F]{6}", color):
        raise ValueError(f"{color!r} is no colour: it must be like #1f4e79")
    fill = color.lower()
    on_fill = max("#ffffff", "#000000", key=lambda ink: contrast(ink, fill))
    return Palette(fill, on_fill, _toward(fill, 0, PAPER), _toward(fill, 1, PAPER_DARK))


def contrast(one: str, other: str) -> float:
    """The contrast ratio of two colours: 1 (none) to 21 (black and white)."""
    darker, lighter = sorted((_luminance(one), _luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)


def _toward(color: str, end: float, paper: str) -> str:
    """The colour nearest to `color`, in its own hue on the way to lightness `end`, that is readable on `paper`."""
    hue, lightness, saturation = rgb_to_hls(*(channel / 255 for channel in _channels(color)))
    for step in range(_STEPS + 1):
        mixed = hls_to_rgb(hue, lightness + (end - lightness) * step / _STEPS, saturation)
        shade = "#" + "".join(f"{round(channel * 255):02x}" for channel in mixed)
        if contrast(shade, paper) >= READABLE:
            return shade
    raise AssertionError("black on white and white on a dark card are readable")


def _channels(color: str) -> tuple[int, int, int]:
    return int(color[1:3], 16), int(color[3:5], 16), int(color[5:7], 16)


def _luminance(color: str) -> float:
    red, green, blue = (_linear(channel / 255) for channel in _channels(color))
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def _linear(value: float) -> float:
    return value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4
