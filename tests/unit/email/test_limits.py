"""The slots' arithmetic against the limits as the provider states them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from math import ceil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from functions.email.limits import DAY, UNLIMITED, Lane, Limits, reserve

START = datetime(2026, 11, 24, tzinfo=UTC)
SECOND = timedelta(seconds=1)
HORIZON = timedelta(seconds=1)


class Ledger:
    """Lanes that remember every slot, as the table does."""

    def __init__(self, *limits: Limits) -> None:
        self.limits = limits
        self.slots: list[dict[int, datetime]] = [{} for _ in limits]

    def lanes(self, count: int, which: slice) -> list[Lane]:
        found = []
        for limits, slots in zip(self.limits[which], self.slots[which], strict=True):
            bare = Lane(limits, len(slots) + 1, {})
            found.append(Lane(limits, len(slots) + 1, {n: slots[n] for n in bare.matters(count) if n in slots}))
        return found

    def take(self, count: int, now: datetime, *, critical: bool = False) -> list[datetime]:
        which = slice(0, 1) if critical else slice(None)
        got = reserve(self.lanes(count, which), count, now=now, horizon=HORIZON).times
        for slots in self.slots[which]:
            for at in got:
                slots[len(slots) + 1] = at
        return got


def most_within(times: list[datetime], window: timedelta) -> int:
    """The most instants in any half-open window: an obvious reference."""
    return max((sum(start <= at < start + window for at in times) for start in times), default=0)


BATCHES = st.lists(st.tuples(st.floats(0, 90_000), st.integers(1, 12), st.booleans()), min_size=1, max_size=40)


@settings(max_examples=150, deadline=None)
@given(rate=st.floats(0.2, 50), per_day=st.integers(1, 60), batches=BATCHES)
def test_no_second_and_no_day_holds_more_than_its_limit(
    rate: float, per_day: int, batches: list[tuple[float, int, bool]]
) -> None:
    whole = Limits(rate, per_day)
    ledger = Ledger(whole, whole.without_reserve())
    now = START
    for step, count, critical in batches:
        now += timedelta(seconds=step % (7 if count % 2 else 90_000))
        got = ledger.take(count, now, critical=critical)
        assert all(now <= at <= now + HORIZON for at in got)
    for limits, slots in zip(ledger.limits, ledger.slots, strict=True):
        times = list(slots.values())
        assert times == sorted(times)
        assert most_within(times, SECOND) <= ceil(limits.per_second)
        assert most_within(times, timedelta(hours=24)) <= limits.per_day


@settings(max_examples=30, deadline=None)
@given(rate=st.floats(0.5, 30), waiting=st.integers(1, 40))
def test_what_waits_goes_at_nearly_the_full_rate(rate: float, waiting: int) -> None:
    ledger = Ledger(Limits(rate, UNLIMITED))
    now = START
    sent: list[datetime] = []
    while len(sent) < waiting:
        sent += ledger.take(waiting - len(sent), now, critical=True)
        now += SECOND / 4
    assert sent[-1] - sent[0] <= (waiting - 1) * 1.06 * SECOND / rate + SECOND / 2 * waiting


def test_a_used_up_day_opens_a_day_after_its_first_mail() -> None:
    ledger = Ledger(Limits(10, 5))
    first = ledger.take(9, START, critical=True)
    assert len(first) == 5
    assert ledger.take(1, START + timedelta(hours=23), critical=True) == []
    lanes = ledger.lanes(1, slice(None))
    assert reserve(lanes, 1, now=START + timedelta(hours=2), horizon=HORIZON).next_free == first[0] + DAY
    assert len(ledger.take(9, first[-1] + DAY, critical=True)) == 5


def test_routine_mail_leaves_a_reserve_for_critical_mail() -> None:
    whole = Limits(1000, 100)
    ledger = Ledger(whole, whole.without_reserve())
    assert len(ledger.take(200, START)) == 90
    assert len(ledger.take(200, START + SECOND * 2, critical=True)) == 10


@pytest.mark.parametrize(("limits", "routine"), [((14, 200), (12.6, 180)), ((1, 1), (0.9, 1)), ((14, -1), (12.6, -1))])
def test_the_reserve_is_a_tenth(limits: tuple[float, int], routine: tuple[float, int]) -> None:
    found = Limits(*limits).without_reserve()
    assert found.per_second == pytest.approx(routine[0])
    assert found.per_day == routine[1]
