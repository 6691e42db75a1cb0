"""How the answers of the management API, and what the doctor found, look on a terminal."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from duecourse.doctor.finding import Finding, Level
from duecourse.words import clip, instant

SIGNS = {
    Level.OK: ("✓", "green"),
    Level.WARNING: ("!", "yellow"),
    Level.PROBLEM: ("✗", "red"),
    Level.UNKNOWN: ("?", "yellow"),
}


def findings(found: list[Finding]) -> RenderableType:
    """One line for each thing looked at, what to do below it, and the sum at the end. Lines can be copied whole."""
    width = max(len(finding.check) for finding in found)
    lines = []
    for finding in found:
        sign, style = SIGNS[finding.level]
        lines.append(Text.assemble((sign, style), f" {finding.check:{width}}  {finding.what}"))
        if finding.fix:
            lines.append(Text(f"{'':{width}}    → {finding.fix}", style="dim"))
    counts = [(level, sum(finding.level is level for finding in found)) for level in Level]
    total = ", ".join(f"{count} {level}" for level, count in counts if count)
    return Group(*lines, Text(), Text(total))


def table(titles: Iterable[str], rows: Iterable[Iterable[Any]], *, right: Iterable[str] = ()) -> Table:
    """A plain table; the columns named in `right` hold numbers. Cells are never read as markup."""
    titles = tuple(titles)
    made = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, show_header=any(titles))
    for title in titles:
        made.add_column(title, justify="right" if title in set(right) else "left", no_wrap=True)
    for row in rows:
        made.add_row(*(cell if isinstance(cell, Text) else Text("" if cell is None else str(cell)) for cell in row))
    return made


def errors(groups: list[dict[str, Any]]) -> Table:
    """A line for each kind of error, with its latest job."""
    rows = (
        (
            instant(group["last_seen"]),
            f"{group['runs']:,}",
            f"{group['jobs']:,}",
            Text(f"{group['dead_jobs']:,}", style="red" if group["dead_jobs"] else ""),
            f"{group['tenants']:,}",
            group["type"],
            clip(f"{group['error_class']}: {group['error']}"),
            f"{group['queue']} {group['example_job_id']}",
        )
        for group in groups
    )
    numbers = ("runs", "jobs", "dead", "tenants")
    return table(("last seen", *numbers, "type", "error", "e.g. job"), rows, right=numbers)


def metrics(families: list[dict[str, Any]]) -> Table:
    """Name, labels and value; the buckets of histograms are left out."""
    rows = (
        (
            sample["name"],
            ", ".join(f"{key}={value}" for key, value in sample["labels"].items()),
            f"{sample['value']:,g}",
        )
        for family in families
        for sample in family["samples"]
        if not sample["name"].endswith("_bucket")
    )
    return table(("metric", "of", "value"), rows, right=("value",))


def audit(actions: list[dict[str, Any]]) -> Table:
    """Who did what, newest first."""
    rows = (
        (
            instant(action["at"]),
            f"{action['actor']} ({action['role']})",
            action["action"],
            action["target"],
            _change(action["before"], action["after"]),
            action["result"],
        )
        for action in actions
    )
    return table(("at", "who", "what", "on", "change", "result"), rows)


def _change(before: Any, after: Any) -> str:
    """What changed, in short; --json has it whole."""
    if not isinstance(before, dict) or not isinstance(after, dict):
        return ""
    keys = [key for key in {**before, **after} if before.get(key) != after.get(key)]
    return ", ".join(f"{key}: {before.get(key, '–')} → {after.get(key, '–')}" for key in keys)
