"""Instants and days: offsets, spring gaps and autumn folds."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta, timezone
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from functions.core.clock import local_instant, parse_instant

NEW_YORK = ZoneInfo("America/New_York")
LORD_HOWE = ZoneInfo("Australia/Lord_Howe")


def test_an_instant_is_read_into_utc() -> None:
    read = parse_instant("2026-11-24T02:00:00+05:45")
    assert read == datetime(2026, 11, 23, 20, 15, tzinfo=UTC)
    assert read.utcoffset() == timedelta(0)


def test_the_z_of_eventbridge_is_understood() -> None:
    assert parse_instant("2026-11-24T02:00:00Z") == datetime(2026, 11, 24, 2, tzinfo=UTC)


@given(
    st.integers(0, 4_000_000_000).map(lambda seconds: datetime.fromtimestamp(seconds, tz=UTC)),
    st.integers(-14 * 60, 14 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes))),
)
def test_every_instant_survives_being_written_and_read(moment: datetime, offset: timezone) -> None:
    instant = moment.astimezone(offset)
    assert parse_instant(instant.isoformat()) == instant


def test_an_instant_without_an_offset_is_refused() -> None:
    with pytest.raises(ValueError, match="has no UTC offset"):
        parse_instant("2026-11-24T02:00:00")


@pytest.mark.parametrize("text", ["", "tomorrow", "2026-13-01T00:00:00Z"])
def test_text_that_is_no_instant_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"(?i)isoformat|month"):
        parse_instant(text)


def test_an_ordinary_time_is_the_local_one() -> None:
    assert local_instant(date(2026, 1, 15), time(2), NEW_YORK) == datetime(2026, 1, 15, 7, tzinfo=UTC)
    assert local_instant(date(2026, 7, 15), time(2), NEW_YORK) == datetime(2026, 7, 15, 6, tzinfo=UTC)


def test_a_time_in_the_spring_gap_comes_after_it() -> None:
    # 02:00–03:00 does not exist on 8 March 2026; the clocks jump at 07:00 UTC.
    instant = local_instant(date(2026, 3, 8), time(2, 30), NEW_YORK)
    assert instant == datetime(2026, 3, 8, 7, 30, tzinfo=UTC)
    assert instant.astimezone(NEW_YORK).time() == time(3, 30)


def test_a_gap_of_half_an_hour_is_half_an_hour() -> None:
    # Lord Howe goes from +10:30 to +11 at 02:00 on 4 October 2026.
    instant = local_instant(date(2026, 10, 4), time(2, 15), LORD_HOWE)
    assert instant.astimezone(LORD_HOWE).time() == time(2, 45)


def test_a_time_in_the_autumn_fold_means_its_first_occurrence() -> None:
    # 01:00–02:00 comes twice on 1 November 2026.
    first = local_instant(date(2026, 11, 1), time(1, 30), NEW_YORK)
    assert first == datetime(2026, 11, 1, 5, 30, tzinfo=UTC)
    assert (first + timedelta(hours=1)).astimezone(NEW_YORK).time() == time(1, 30)
