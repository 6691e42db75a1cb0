"""Quiet hours and waits, against a walk through every minute."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from functions.notifications.rules import (
    DIGEST_WAIT,
    DOCUMENT_EXPIRY,
    FILING,
    LONGEST_SNOOZE,
    Warnings,
    after_quiet_hours,
    snooze,
)

ZONES = ["UTC", "Europe/London", "America/New_York", "Asia/Kathmandu", "Australia/Lord_Howe", "America/Sao_Paulo"]
minutes = st.builds(time, st.integers(0, 23), st.sampled_from([0, 15, 30, 45]))


def between(first: date, last: date) -> st.SearchStrategy[datetime]:
    start = datetime.combine(first, time(), tzinfo=UTC)
    return st.integers(0, (last - first).days * 1440).map(lambda minute: start + timedelta(minutes=minute))


# Around the days on which clocks change as often as anywhere else.
instants = st.one_of(
    between(date(2020, 1, 1), date(2030, 1, 1)),
    between(date(2026, 3, 28), date(2026, 3, 31)),
    between(date(2026, 10, 24), date(2026, 11, 3)),
)


def is_quiet(moment: datetime, zone: ZoneInfo, start: time, end: time) -> bool:
    at = moment.astimezone(zone).time()
    return start <= at < end if start <= end else at >= start or at < end


@given(instants, st.sampled_from(ZONES), minutes, minutes)
def test_nobody_is_disturbed_in_quiet_hours_nor_waits_longer_than_they_last(
    now: datetime, zone_name: str, start: time, end: time
) -> None:
    zone = ZoneInfo(zone_name)
    found = after_quiet_hours(now, zone, start, end)
    walked = now
    while is_quiet(walked, zone, start, end):
        walked += timedelta(minutes=1)
    # Where clocks go back over the end, it comes twice: the first time is enough. Else the walk is right to the minute.
    repeated = walked.astimezone(zone).utcoffset() != now.astimezone(zone).utcoffset()
    assert found == walked or (repeated and now <= found < walked) or (found == now and now.astimezone(zone).fold)


def test_quiet_hours_may_pass_midnight() -> None:
    def at(hour: int) -> datetime:
        return datetime(2026, 11, 24, hour, tzinfo=UTC)

    night = (ZoneInfo("UTC"), time(20), time(7))
    assert after_quiet_hours(at(6), *night) == at(7)
    assert after_quiet_hours(at(7), *night) == at(7)
    assert after_quiet_hours(at(19), *night) == at(19)
    assert after_quiet_hours(at(20), *night) == at(7) + timedelta(days=1)


def test_without_quiet_hours_there_is_nothing_to_wait_for() -> None:
    now = datetime(2026, 11, 24, 3, tzinfo=UTC)
    assert after_quiet_hours(now, ZoneInfo("UTC"), None, None) == now
    assert after_quiet_hours(now, ZoneInfo("UTC"), time(3), time(3)) == now


def test_digests_look_again_soon_at_first_and_then_every_ten_minutes() -> None:
    waits = [snooze(runs) for runs in range(1, 200)]
    assert waits == sorted(waits)
    assert waits[0] <= timedelta(minutes=1)
    assert waits[-1] == LONGEST_SNOOZE == timedelta(minutes=10)
    assert sum(waits[:25], timedelta()) > DIGEST_WAIT


@pytest.mark.parametrize("warnings", [DOCUMENT_EXPIRY, FILING], ids=lambda row: row.category)
def test_milestones_are_ordered_and_within_the_days_looked_at(warnings: Warnings) -> None:
    assert list(warnings.milestones) == sorted(set(warnings.milestones), reverse=True)
    assert warnings.until < min(warnings.milestones)
