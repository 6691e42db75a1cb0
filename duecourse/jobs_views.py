"""How jobs look on a terminal."""

from __future__ import annotations

import json
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from duecourse.operate_views import table
from duecourse.words import clip, instant

STATES = {"dead": "red", "retrying": "yellow", "paused": "yellow", "active": "green"}


def jobs(found: list[dict[str, Any]]) -> RenderableType:
    """The jobs found, newest first, each with its last error."""
    rows = (
        (
            job["id"],
            job["type"],
            state(job["state"]),
            f"{job['attempts']}/{job['max_attempts'] or '?'}",
            instant(job["created_at"]),
            clip(error(job)),
        )
        for job in found
    )
    return table(("id", "type", "state", "attempts", "ordered", "error"), rows, right=("attempts",))


def job(found: dict[str, Any]) -> RenderableType:
    """All there is to know of a job."""
    facts = [
        ("id", found["id"]),
        ("type", f"{found['type']} on {found['queue']}"),
        ("state", state(found["state"])),
        ("tenant", found["tenant_id"]),
        (
            "attempts",
            f"{found['attempts']} of {found['max_attempts'] or '?'}; runs: {found['runs']}, lost: {found['lost']}",
        ),
        ("not before", instant(found["run_at"])),
        ("deadline", instant(found["deadline_at"])),
        ("progress", None if found["progress"] is None else f"{found['progress']:.0%}"),
        ("error", error(found)),
        ("payload", _json(found["payload"])),
        ("result", _json(found["result"])),
        ("checkpoint", _json(found["checkpoint"])),
        ("group", found["group_key"]),
        ("dedup key", found["dedup_key"]),
        ("parent", found["parent"] and _relative(found["parent"])),
        ("children", "\n".join(map(_relative, found["children"]))),
        ("correlation", found["correlation_id"]),
        ("log", f"{found['links']['log_group']} {found['links']['log_filter']}"),
        ("", found["links"]["logs"]),
        ("traces", found["links"]["traces"]),
    ]
    events = ((instant(event["at"]), event["event"], event["detail"]) for event in found["timeline"])
    parts: list[RenderableType] = [
        table(("", ""), ((Text(name, style="dim"), value) for name, value in facts if value)),
        Text(),
        table(("at", "what", ""), events),
    ]
    tracebacks = [run["traceback"] for run in found["attempts_log"] if run["traceback"]]
    if tracebacks:
        parts += [Text(), Text(tracebacks[-1].rstrip(), style="dim")]
    return Group(*parts)


def state(name: str) -> Text:
    """A state in its colour."""
    return Text(name, style=STATES.get(name, ""))


def error(found: dict[str, Any]) -> str:
    """The last error in one line."""
    return ": ".join(part for part in (found["error_class"], found["error"]) if part)


def _relative(found: dict[str, Any]) -> str:
    return f"{found['queue']} {found['id']}: {found['type']}, {found['state']}"


def _json(value: Any) -> str | None:
    return None if value is None else json.dumps(value, indent=2, ensure_ascii=False)
