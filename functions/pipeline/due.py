"""Which local days of a time zone are due at an instant: pure, so that years can be tested in seconds."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from typing import Literal
from zoneinfo import ZoneInfo

from functions.core.clock import local_instant

LOOK_BACK_DAYS = 7
"""How far back days that nobody planned are recorded as missed."""
NOON = time(12)


@dataclass(frozen=True, slots=True)
class DueDay:
    """A local day whose run instant has come: to be planned, or too late and missed."""

    local_date: date
    due_at: datetime
    outcome: Literal["planned", "missed"]


def due_days(zone: ZoneInfo, now: datetime, *, local_time: time, catch_up: timedelta) -> list[DueDay]:
    """The days of `zone`, newest first, whose run at `local_time` has come by `now` (aware), as far back as is recorded.

    Which of them were planned before is the database's knowledge, not this function's. A day that the zone skipped
    altogether (Samoa's 2011-12-30) is not a day: it has no noon.
    """
    today = now.astimezone(zone).date()
    days = []
    for back in range(LOOK_BACK_DAYS + 1):
        day = today - timedelta(days=back)
        if local_instant(day, NOON, zone).astimezone(zone).date() != day:
            continue
        due_at = local_instant(day, local_time, zone)
        if due_at <= now:
            days.append(DueDay(day, due_at, "planned" if now - due_at <= catch_up else "missed"))
    return days
