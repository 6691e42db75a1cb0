"""The provider's rate as arithmetic: numbered slots, each with the instant at which one mail may be sent.

Slot n of a lane is not before slot n-1 plus the spacing, nor before slot n-per_day plus a day. So no second ever holds
more than `per_second` slots and no day more than `per_day`, whoever reserves them and whenever: pure, and exact.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from math import ceil, floor

UNLIMITED = -1
CRITICAL_RESERVE = 0.10
"""The share of every limit that routine mail leaves for password resets."""
SPACING_MARGIN = 1.05
"""Slots lie this much further apart than the rate demands: what is sent a little late must not meet the next."""
DAY = timedelta(hours=24, minutes=1)
"""The provider's day is 24 h by its own clock, and a mail is accepted up to a few seconds after its slot."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What the provider allows; `per_day` may be `UNLIMITED`."""

    per_second: float
    per_day: int

    def without_reserve(self) -> Limits:
        """What of it routine mail may use."""
        share = 1 - CRITICAL_RESERVE
        per_day = self.per_day if self.per_day == UNLIMITED else max(1, floor(self.per_day * share))
        return Limits(self.per_second * share, per_day)

    @property
    def spacing(self) -> timedelta:
        """The least time between two slots, in whole microseconds, rounded up."""
        return timedelta(microseconds=ceil(SPACING_MARGIN * 1_000_000 / self.per_second))


@dataclass(frozen=True, slots=True)
class Lane:
    """A lane as it stands: the number of its next slot, and the instants of the earlier ones that matter to it."""

    limits: Limits
    next_slot: int
    taken: Mapping[int, datetime]

    def matters(self, count: int) -> list[int]:
        """The numbers of the slots that decide about the next `count`."""
        last = [self.next_slot - 1]
        if self.limits.per_day == UNLIMITED:
            return last
        first = self.next_slot - self.limits.per_day
        return sorted({*last, *range(first, min(first + count, self.next_slot))})


@dataclass(frozen=True, slots=True)
class Slots:
    """What a reservation got, and from when the next one could have had a slot."""

    times: list[datetime]
    next_free: datetime


def reserve(lanes: Sequence[Lane], count: int, *, now: datetime, horizon: timedelta) -> Slots:
    """Up to `count` slots within `horizon` of `now`. Each is a slot in every lane: the latest rules."""
    times: list[datetime] = []
    taken = [dict(lane.taken) for lane in lanes]
    while True:
        number = len(times)
        pairs = zip(lanes, taken, strict=True)
        at = max(_earliest(lane, past, lane.next_slot + number, now) for lane, past in pairs)
        if number == count or at > now + horizon:
            return Slots(times, at)
        for lane, past in zip(lanes, taken, strict=True):
            past[lane.next_slot + number] = at
        times.append(at)


def _earliest(lane: Lane, taken: Mapping[int, datetime], number: int, now: datetime) -> datetime:
    earliest = now
    if (last := taken.get(number - 1)) is not None:
        earliest = max(earliest, last + lane.limits.spacing)
    if lane.limits.per_day != UNLIMITED and (day_ago := taken.get(number - lane.limits.per_day)) is not None:
        earliest = max(earliest, day_ago + DAY)
    return earliest
