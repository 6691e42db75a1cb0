"""Horizontal bars as SVG, readable on a light and on a dark page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

WIDTH, LABEL, VALUE, BAR, GAP, TOP = 760, 250, 90, 18, 8, 40
STYLE = """
  text { font: 13px system-ui, sans-serif; fill: #24292f }
  .title { font-weight: 600 } .ours { fill: #0969da } .theirs { fill: #8c959f }
  .spread { stroke: #24292f; stroke-width: 1.5 }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3 } .ours { fill: #4493f8 } .theirs { fill: #6e7681 } .spread { stroke: #e6edf3 }
  }"""


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar with its spread."""

    label: str
    value: float
    least: float
    most: float
    ours: bool


def bars(title: str, items: Sequence[Bar]) -> str:
    """The plot, its scale from nought to the greatest value."""
    greatest = max(item.most for item in items)
    room = WIDTH - LABEL - VALUE
    height = TOP + len(items) * (BAR + GAP) + GAP
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}"'
        f' role="img" aria-label="{escape(title)}">',
        f"<style>{STYLE}\n</style>",
        f'<text class="title" x="8" y="22">{escape(title)}</text>',
    ]
    for index, item in enumerate(items):
        top = TOP + index * (BAR + GAP)
        middle = top + BAR / 2
        length, low, high = (value / greatest * room for value in (item.value, item.least, item.most))
        parts += [
            f'<text x="{LABEL - 10}" y="{middle + 4.5}" text-anchor="end">{escape(item.label)}</text>',
            f'<rect class="{"ours" if item.ours else "theirs"}" x="{LABEL}" y="{top}" width="{max(length, 1):.1f}"'
            f' height="{BAR}"/>',
            f'<line class="spread" x1="{LABEL + low:.1f}" x2="{LABEL + high:.1f}" y1="{middle}" y2="{middle}"/>',
            f'<text x="{LABEL + high + 8:.1f}" y="{middle + 4.5}">{_short(item.value)}</text>',
        ]
    return "\n".join([*parts, "</svg>", ""])


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"
