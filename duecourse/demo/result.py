"""What the demo found: the same numbers as a table and as .duecourse/demo.json."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

from duecourse.demo.ledger import Notices, Zone
from functions.pipeline.conservation import Conservation

if TYPE_CHECKING:
    from rich.console import RenderableType


@dataclass(frozen=True, slots=True)
class Result:
    """The day in numbers. `statements_per_batch` is the most that any batch of refreshes took."""

    zones: list[Zone]
    clients: int
    runs: dict[str, int]
    """Runs planned, by schedule."""
    notices: Notices
    mails: dict[str, int]
    """Mails sent, by type."""
    dead: int
    rejected: int
    redriven: int
    scores: dict[str, int]
    waits: dict[str, float]
    statements_per_batch: int
    seconds: float
    conservation: Conservation
    not_once: int
    """Tenants that were not refreshed exactly once."""

    @property
    def tenants(self) -> int:
        return sum(zone.tenants for zone in self.zones)

    @property
    def planned(self) -> int:
        return sum(zone.jobs for zone in self.zones)

    @property
    def completed(self) -> int:
        return sum(zone.completed for zone in self.zones)

    def problems(self) -> list[str]:
        """What is not as it must be; empty on a good day."""
        found = []
        if self.not_once:
            found.append(f"{self.not_once} tenants were not refreshed exactly once")
        if not self.conservation.holds:
            found.append(f"conservation is broken: {self.conservation}")
        if sum(self.scores.values()) != self.clients:
            found.append(f"{sum(self.scores.values())} of {self.clients} clients have a score")
        if uneven := [name for name, runs in self.runs.items() if runs != self.tenants]:
            found.append(f"{', '.join(uneven)} did not run once for each tenant")
        if self.notices.pending:
            found.append(f"{self.notices.pending} notices were not sent")
        return found

    def write(self, path: Path) -> None:
        """Write the numbers for scripts."""
        document: dict[str, Any] = {
            "tenants": self.tenants,
            "clients": self.clients,
            "planned": self.planned,
            "completed": self.completed,
            "runs": self.runs,
            "obligations": self.notices.obligations,
            "notices": self.notices.notices,
            "mails": sum(self.mails.values()),
            "mails_by_type": self.mails,
            "naive_mails": self.notices.naive_mails,
            "dead": self.dead,
            "rejected": self.rejected,
            "redriven": self.redriven,
            "scores": self.scores,
            "waits_seconds": self.waits,
            "statements_per_batch": self.statements_per_batch,
            "seconds": round(self.seconds, 1),
            "conservation": {
                "enqueued": self.conservation.enqueued,
                **self.conservation.states,
                "pruned": self.conservation.pruned,
                "holds": self.conservation.holds,
            },
            "problems": self.problems(),
        }
        path.write_text(json.dumps(document, indent=2) + "\n")

    def render(self) -> RenderableType:
        """The tables a person reads."""
        from rich.console import Group
        from rich.padding import Padding

        return Group(Padding(self._zone_table(), (1, 0)), self._summary())

    def _zone_table(self) -> RenderableType:
        from rich.table import Table

        table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
        for title in ("time zone", "local run", "UTC"):
            table.add_column(title, no_wrap=True)
        for title in ("tenants", "refreshed", "clients"):
            table.add_column(title, justify="right", no_wrap=True)
        for zone in self.zones:
            local = zone.due_at.astimezone(ZoneInfo(zone.name))
            table.add_row(
                zone.name,
                f"{local:%a %H:%M %z}",
                f"{zone.due_at:%a %H:%M}",
                str(zone.tenants),
                f"{zone.completed} of {zone.jobs}",
                f"{zone.clients:,}",
            )
        return table

    def _summary(self) -> RenderableType:
        from rich.table import Table

        held = self.conservation
        present = " + ".join(f"{count} {state}" for state, count in held.states.items() if count)
        table = Table.grid(padding=(0, 2))
        table.add_row("refreshes", f"{self.completed} of {self.planned} completed, each tenant once")
        table.add_row("scores", ", ".join(f"{count:,} {level}" for level, count in self.scores.items()) + " risk")
        told = self.notices
        table.add_row("schedules", f"{len(self.runs)}, each run once for each of {self.tenants} tenants")
        table.add_row("notices", f"{told.notices:,} for {told.obligations:,} obligations, each to those responsible")
        mails = ", ".join(f"{count} {name.removeprefix('email.')}" for name, count in self.mails.items())
        table.add_row("mails", f"{mails or 'none'}; the old rule would have sent {told.naive_mails:,}")
        table.add_row("wait", f"{self.waits['p50']:.2f} s median, {self.waits['max']:.2f} s longest")
        table.add_row("statements", f"{self.statements_per_batch} a batch, whatever the tenants and clients")
        table.add_row("dead letters", f"{self.dead} job and {self.rejected} poison message; {self.redriven} redriven")
        table.add_row("conservation", f"{held.enqueued} enqueued = {present}" + (" ✓" if held.holds else " ✗"))
        table.add_row("time", f"{self.seconds:.1f} s")
        return table
