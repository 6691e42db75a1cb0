"""Which local days of a time zone are due at an instant: pure, so that years can be tested in seconds."""

from __future__ import annotations

from datetime import date, datetime, time, timedelta
from functools import lru_cache
from typing import Literal, NamedTuple
from zoneinfo import ZoneInfo

from functions.core.clock import local_instant

LOOK_BACK_DAYS = 7
"""How far back days that nobody planned are recorded as missed."""
NOON = time(12)


class DueDay(NamedTuple):
    """A local day whose run instant has come: to be planned, or too late and missed."""

    local_date: date
    due_at: datetime
    outcome: Literal["planned", "missed"]


def due_days(zone: ZoneInfo, now: datetime, *, local_time: time, catch_up: timedelta) -> list[DueDay]:
    """The days of `zone`, newest first, whose run at `local_time` has come by `now` (aware), as far back as recorded.

    Which of them were planned before is the database's knowledge, not this function's.
    """
    latest_missed = now - catch_up
    return [
        DueDay(day, due_at, "planned" if due_at >= latest_missed else "missed")
        for day, due_at in _run_instants(zone, now.astimezone(zone).date(), local_time)
        if due_at <= now
    ]


@lru_cache(maxsize=1024)
def _run_instants(zone: ZoneInfo, today: date, local_time: time) -> tuple[tuple[date, datetime], ...]:
    """Today and the days before it, newest first, each with the instant of its run: the same all day long.

    A day that the zone skipped altogether (Samoa's 2011-12-30) is not a day: it has no noon.
    """
    days = (today - timedelta(days=back) for back in range(LOOK_BACK_DAYS + 1))
    return tuple(
        (day, local_instant(day, local_time, zone))
        for day in days
        if local_instant(day, NOON, zone).astimezone(zone).date() == day
    )
