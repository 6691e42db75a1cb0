"""Planning by local days: over years of quarter-hours every local date is due at exactly one tick."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from functions.pipeline.due import LOOK_BACK_DAYS, due_days

TICK = timedelta(minutes=15)
CATCH_UP = timedelta(hours=22)
FROM, TO = datetime(2017, 1, 1, tzinfo=UTC), datetime(2019, 1, 1, tzinfo=UTC)
"""Two years in which Brazil still had daylight saving time."""
ZONES = [
    "Africa/Casablanca",
    "America/Guyana",
    "America/New_York",
    "America/Sao_Paulo",
    "Asia/Kathmandu",
    "Australia/Lord_Howe",
    "Europe/London",
    "Pacific/Apia",
]
LOCAL_TIMES = [time(0, 30), time(2), time(8)]

Run = tuple[datetime, str]
"""The tick at which a date was recorded, and as what."""


def ticks(start: datetime, end: datetime) -> Iterator[datetime]:
    while start < end:
        yield start
        start += TICK


def simulate(zone: ZoneInfo, local_time: time, at: Iterable[datetime], since: datetime) -> dict[date, Run]:
    """What schedule_runs would hold after these ticks: a date is recorded once, by the first that finds it due."""
    runs: dict[date, Run] = {}
    for now in at:
        for day in due_days(zone, now, local_time=local_time, catch_up=CATCH_UP):
            if day.local_date not in runs and day.due_at >= since:
                runs[day.local_date] = (now, day.outcome)
    return runs


def wall_clock(zone: ZoneInfo, local_time: time, start: datetime, end: datetime) -> dict[date, tuple[datetime, bool]]:
    """By looking at the clock on the wall at every tick: the first of each local date at which it shows the time or
    later, and whether it showed exactly that time. The date on which the look-out began is left out.
    """
    seen: dict[date, tuple[datetime, bool]] = {}
    for tick in ticks(start, end):
        local = tick.astimezone(zone)
        day, shown = local.date(), local.time()
        if day not in seen and shown >= local_time:
            seen[day] = (tick, shown == local_time)
    seen.pop(start.astimezone(zone).date(), None)
    return seen


@pytest.mark.parametrize("local_time", LOCAL_TIMES, ids=str)
@pytest.mark.parametrize("zone_name", ZONES)
def test_in_two_years_each_local_date_is_planned_at_exactly_one_tick(zone_name: str, local_time: time) -> None:
    zone = ZoneInfo(zone_name)
    planned = simulate(zone, local_time, ticks(FROM, TO), FROM)
    planned.pop(FROM.astimezone(zone).date(), None)
    expected = wall_clock(zone, local_time, FROM, TO)
    assert {outcome for _, outcome in planned.values()} == {"planned"}
    assert planned.keys() == expected.keys()
    for day, (tick, time_existed) in expected.items():
        late = planned[day][0] - tick
        # Only where a spring gap swallowed the time may the run come later than the wall clock would have it.
        assert late == timedelta(0) if time_existed else timedelta(0) <= late <= timedelta(hours=1), day


@st.composite
def outages(draw: st.DrawFn) -> tuple[datetime, list[tuple[datetime, datetime]]]:
    """Forty days somewhere in the two years, with spans in which nothing ticks: of an hour, or of several days."""
    start = FROM + timedelta(days=draw(st.integers(0, 690)))
    spans = [
        (begin, begin + timedelta(hours=hours))
        for begin, hours in draw(
            st.lists(
                st.tuples(
                    st.integers(0, 40 * 96).map(lambda tick: start + tick * TICK),
                    st.one_of(st.integers(1, 20), st.integers(21, 100)),
                ),
                max_size=3,
            )
        )
    ]
    return start, spans


@settings(max_examples=80, deadline=None)
@given(st.sampled_from(ZONES), st.sampled_from(LOCAL_TIMES), outages())
def test_after_an_outage_each_date_is_recorded_once_late_or_missed(
    zone_name: str, local_time: time, plan: tuple[datetime, list[tuple[datetime, datetime]]]
) -> None:
    zone, (start, spans) = ZoneInfo(zone_name), plan
    end = start + timedelta(days=40)
    kept = [tick for tick in ticks(start, end) if not any(begin <= tick < until for begin, until in spans)]
    if not kept:
        return
    punctual = simulate(zone, local_time, ticks(start, end), start)
    recorded = simulate(zone, local_time, kept, start)
    for day, (due_tick, _) in punctual.items():
        first = next((tick for tick in kept if tick >= due_tick), None)
        if first is None:
            assert day not in recorded
        elif first - due_tick < timedelta(days=LOOK_BACK_DAYS - 1):
            missed = first - due_tick > CATCH_UP
            assert recorded[day] == (first, "missed" if missed else "planned")


@pytest.mark.parametrize("zone_name", ZONES)
def test_an_outage_within_the_catch_up_window_is_made_up_for_and_one_beyond_it_is_not(zone_name: str) -> None:
    zone = ZoneInfo(zone_name)
    due_at = datetime(2018, 6, 15, 2, tzinfo=zone).astimezone(UTC)
    for late, outcome in [(CATCH_UP, "planned"), (CATCH_UP + timedelta(seconds=1), "missed")]:
        [found] = [
            day
            for day in due_days(zone, due_at + late, local_time=time(2), catch_up=CATCH_UP)
            if day.local_date == date(2018, 6, 15)
        ]
        assert (found.due_at, found.outcome) == (due_at, outcome)


def test_days_are_recorded_as_missed_for_a_week_back_and_no_further() -> None:
    now = datetime(2018, 6, 15, 12, tzinfo=UTC)
    days = due_days(ZoneInfo("UTC"), now, local_time=time(2), catch_up=CATCH_UP)
    assert [day.outcome for day in days] == ["planned"] + ["missed"] * LOOK_BACK_DAYS
    assert days[-1].local_date == date(2018, 6, 15) - timedelta(days=LOOK_BACK_DAYS)


def test_samoa_had_no_30_december_2011_and_none_is_planned() -> None:
    start, end = datetime(2011, 12, 28, tzinfo=UTC), datetime(2012, 1, 3, tzinfo=UTC)
    for local_time in LOCAL_TIMES:
        planned = simulate(ZoneInfo("Pacific/Apia"), local_time, ticks(start, end), start)
        assert sorted(day.isoformat() for day in planned) == [
            "2011-12-28",
            "2011-12-29",
            "2011-12-31",
            "2012-01-01",
            "2012-01-02",
            "2012-01-03",
        ]
        assert {outcome for _, outcome in planned.values()} == {"planned"}


@pytest.mark.parametrize(
    ("zone_name", "local_time", "day", "shown"),
    [
        ("America/New_York", time(2), date(2018, 3, 11), time(3)),
        ("Australia/Lord_Howe", time(2), date(2018, 10, 7), time(2, 30)),
        ("America/Sao_Paulo", time(0, 30), date(2018, 11, 4), time(1, 30)),
        ("Africa/Casablanca", time(2), date(2018, 3, 25), time(3)),
    ],
)
def test_a_run_in_a_spring_gap_comes_late_but_comes(zone_name: str, local_time: time, day: date, shown: time) -> None:
    zone = ZoneInfo(zone_name)
    noon = datetime.combine(day, time(12), tzinfo=zone)
    [found] = [
        item for item in due_days(zone, noon, local_time=local_time, catch_up=CATCH_UP) if item.local_date == day
    ]
    local = found.due_at.astimezone(zone)
    assert (local.date(), local.time()) == (day, shown)


@pytest.mark.parametrize(
    ("zone_name", "local_time", "day", "first_at"),
    [
        ("America/New_York", time(1, 30), date(2018, 11, 4), "2018-11-04T05:30:00+00:00"),
        ("Australia/Lord_Howe", time(1, 45), date(2018, 4, 1), "2018-03-31T14:45:00+00:00"),
        ("America/Sao_Paulo", time(23, 30), date(2018, 2, 17), "2018-02-18T01:30:00+00:00"),
        ("Europe/London", time(1), date(2018, 10, 28), "2018-10-28T00:00:00+00:00"),
    ],
)
def test_a_run_in_an_autumn_fold_happens_once_the_first_time(
    zone_name: str, local_time: time, day: date, first_at: str
) -> None:
    start = datetime.combine(day, time(0), tzinfo=UTC) - timedelta(days=1)
    runs = simulate(ZoneInfo(zone_name), local_time, ticks(start, start + timedelta(days=3)), start)
    assert runs[day] == (datetime.fromisoformat(first_at), "planned")
