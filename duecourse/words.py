"""Durations, instants and errors in few words."""

from __future__ import annotations

from datetime import datetime

CLIP = 60


def duration(seconds: float) -> str:
    """A duration in the largest unit that keeps it short: `1 min 30 s`, `6 h`, `14 days`."""
    units = (("days", 86_400), ("h", 3600), ("min", 60))
    for name, size in units:
        whole, rest = divmod(seconds, size)
        if whole and (name != "days" or not rest):
            return f"{whole:g} {name}" + (f" {duration(rest)}" if rest else "")
    return f"{seconds:g} s"


def about(seconds: float | None) -> str:
    """A duration in one unit, as a table shows it: `45 s`, `12 min`, `3 h`, `5 d`."""
    if seconds is None:
        return ""
    for name, size in (("d", 86_400), ("h", 3600), ("min", 60)):
        if abs(seconds) >= size:
            return f"{seconds / size:.0f} {name}"
    return f"{seconds:.0f} s"


def instant(text: str | None) -> str:
    """An instant of the API in this machine's time zone, to the second."""
    return f"{datetime.fromisoformat(text).astimezone():%Y-%m-%d %H:%M:%S}" if text else ""


def clip(text: str) -> str:
    """The text's beginning, in one line."""
    line = " ".join(text.split())
    return line if len(line) <= CLIP else f"{line[: CLIP - 1]}…"
