"""How queues and schedules look on a terminal."""

from __future__ import annotations

from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from duecourse.operate_views import table
from duecourse.words import about, instant

NUMBERS = ("waiting", "delayed", "active", "retrying", "dead", "oldest", "/min", "in SQS", "in flight", "DLQ")


def queues(found: dict[str, Any]) -> RenderableType:
    """Every queue, and below them what is wrong."""
    rows = (
        (
            queue["name"],
            _state(queue),
            f"{queue['waiting']:,}",
            f"{queue['delayed'] + queue['blocked'] + queue['held']:,}",
            f"{queue['active']:,}",
            f"{queue['retrying']:,}",
            Text(f"{queue['dead']:,}", style="red" if queue["dead"] else ""),
            about(queue["oldest_wait_seconds"]) if queue["oldest_wait_seconds"] else "",
            queue["finished_per_minute"],
            _count(queue["visible"]),
            _count(queue["in_flight"]),
            Text(_count(queue["dead_letters"]), style="red" if queue["dead_letters"] else ""),
        )
        for queue in found["queues"]
    )
    parts: list[RenderableType] = [table(("queue", "state", *NUMBERS), rows, right=NUMBERS), Text()]
    for finding in found["findings"]:
        level = (f"{finding['severity']} ", "red" if finding["severity"] == "bad" else "yellow")
        parts.append(Text.assemble(level, finding["reason"], (f" → {finding['runbook']}", "dim")))
    if not found["findings"]:
        parts.append(Text("All is well.", style="green"))
    return Group(*parts)


def schedules(found: list[dict[str, Any]]) -> RenderableType:
    """Every schedule with its last days."""
    rows = (
        (
            schedule["name"],
            schedule["local_time"][:5],
            schedule["job_type"],
            instant(schedule["enabled_since"]) or Text("off", style="red"),
            instant(schedule["last_planned_at"]),
            f"{schedule['planned_lately']:,}",
            Text(f"{schedule['missed_lately']:,}", style="red" if schedule["missed_lately"] else ""),
        )
        for schedule in found
    )
    titles = ("schedule", "local time", "job", "on since", "last planned", "planned", "missed")
    return table(titles, rows, right=("planned", "missed"))


def _state(queue: dict[str, Any]) -> Text:
    if queue["paused"]:
        return Text(f"paused by {queue['paused_by']}", style="yellow")
    mapping = queue["mapping"]
    return Text("runs") if mapping == "Enabled" else Text(f"mapping {mapping or 'unknown'}", style="red")


def _count(number: int | None) -> str:
    return "?" if number is None else f"{number:,}"
