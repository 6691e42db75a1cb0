"""Which local days of a time zone are due at an instant: pure, so that years can be tested in seconds."""

from __future__ import annotations

from datetime import date, datetime, time, timedelta
from functools import lru_cache
from typing import Literal, NamedTuple
from zoneinfo import ZoneInfo

from functions.core.clock import local_instant

LOOK_BACK_DAYS = 7
"""How far back every tick looks for days without a run: a tenant's zone or the local time may have changed."""
CATCH_UP_DAYS = 31
"""After a longer outage of the ticks: how many of its days one tick records. The next one goes on from there."""
NOON = time(12)


class DueDay(NamedTuple):
    """A local day whose run instant has come; `missed`: longer ago than the run may be caught up."""

    local_date: date
    due_at: datetime
    outcome: Literal["planned", "missed"]


def due_days(
    zone: ZoneInfo, now: datetime, *, local_time: time, catch_up: timedelta, planned_until: datetime | None = None
) -> list[DueDay]:
    """The days of `zone`, newest first, whose run at `local_time` has come by `now` (aware) and may be without a run.

    These are the last `LOOK_BACK_DAYS`, and what came due from `planned_until` on, `CATCH_UP_DAYS` of it at most. Which
    of them have their run is the database's knowledge, not this function's.
    """
    latest_missed = now - catch_up
    today = now.astimezone(zone).date()
    instants = _run_instants(zone, today, LOOK_BACK_DAYS, local_time)
    if planned_until is not None:
        # A day before, since the run of a day whose time a gap skipped comes on the next.
        first = planned_until.astimezone(zone).date() - timedelta(days=1)
        last = min(first + timedelta(days=CATCH_UP_DAYS + 1), today - timedelta(days=LOOK_BACK_DAYS + 1))
        if first <= last:
            instants += _run_instants(zone, last, (last - first).days, local_time)
    return [
        DueDay(day, due_at, "planned" if due_at >= latest_missed else "missed")
        for day, due_at in instants
        if due_at <= now
    ]


def planned_after(now: datetime, planned_until: datetime | None) -> datetime:
    """Until when every day has its run, once a tick at `now` has planned what `due_days` names."""
    return now if planned_until is None else min(now, planned_until + timedelta(days=CATCH_UP_DAYS))


@lru_cache(maxsize=1024)
def _run_instants(zone: ZoneInfo, last: date, back: int, local_time: time) -> tuple[tuple[date, datetime], ...]:
    """A day and those before it, newest first, each with the instant of its run: the same all day long.

    A day that the zone skipped altogether (Samoa's 2011-12-30) is not a day: it has no noon.
    """
    days = (last - timedelta(days=days) for days in range(back + 1))
    return tuple(
        (day, local_instant(day, local_time, zone))
        for day in days
        if local_instant(day, NOON, zone).astimezone(zone).date() == day
    )
