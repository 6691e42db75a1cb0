"""How results look on a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from duecourse.local.functions import LogLine
    from duecourse.local.mailbox import Mail
    from duecourse.local.status import Status


def status(found: Status) -> RenderableType:
    """The parts of the stack, then its queues."""
    parts = Table.grid(padding=(0, 2))
    parts.add_column()
    parts.add_column(overflow="fold")
    parts.add_row("PostgreSQL", Text(found.database_url or "not running"))
    parts.add_row("AWS emulator", Text(found.endpoint or "not running"))
    parts.add_row("Stack", Text(f"{found.stack_status}, {found.release}" if found.stack_status else "not deployed"))
    parts.add_row("Management API", Text(found.api_url or "not deployed"))
    parts.add_row("Functions", Text(", ".join(found.functions) or "none"))
    if not found.queues:
        return parts
    queues = Table(box=None, padding=(0, 2), pad_edge=False)
    queues.add_column("queue")
    for title in ("visible", "in flight", "delayed", "dead"):
        queues.add_column(title, justify="right")
    for queue in found.queues:
        dead = Text(str(queue.dead), style="red" if queue.dead else "")
        queues.add_row(queue.name, str(queue.visible), str(queue.in_flight), str(queue.delayed), dead)
    return Group(parts, Text(), queues)


def log_line(line: LogLine) -> Text:
    """Local time, then the message as it is."""
    return Text.assemble((f"{line.at.astimezone():%H:%M:%S} ", "dim"), line.message)


def tokens(found: list[dict[str, Any]]) -> RenderableType:
    """The tokens, oldest first."""
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for title in ("name", "role", "tenant", "made by", "until", "last used"):
        table.add_column(title, no_wrap=True)
    for row in found:
        until = "revoked" if row["revoked_at"] else (row["expires_at"] or "")[:16].replace("T", " ")
        used = (row["last_used_at"] or "never")[:16].replace("T", " ")
        cells = (row["name"], row["role"], row["tenant_id"] or "all", row["created_by"], until, used)
        table.add_row(*map(Text, cells), style="dim" if row["revoked_at"] else "")
    return table


def mailbox(found: list[Mail]) -> RenderableType:
    """The mails by number, oldest first."""
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for title in ("", "time", "to"):
        table.add_column(title, no_wrap=True)
    table.add_column("subject", overflow="ellipsis", no_wrap=True)
    for number, mail in enumerate(found, start=1):
        table.add_row(str(number), f"{mail.at.astimezone():%H:%M:%S}", Text(", ".join(mail.to)), Text(mail.subject))
    return table
