"""Days, milestones and outages in any zone against an obvious reference: one person, who remembers what was said."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, date, datetime, time, timedelta
from uuid import UUID
from zoneinfo import ZoneInfo

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, Engine, text

from functions.core.catalog import CATALOG
from functions.pipeline.schedule import plan_tick
from tests.notices import Firm, run

SCHEDULES = [CATALOG.schedules[name] for name in ("daily-document-expiry", "daily-filing-reminders")]
ZONES = [
    "Pacific/Kiritimati",
    "Asia/Kathmandu",
    "Europe/London",
    "America/New_York",
    "America/St_Johns",
    "Australia/Lord_Howe",
    "Pacific/Pago_Pago",
]
CLOCKS_CHANGE = [date(2026, 3, 8), date(2026, 3, 29), date(2026, 4, 5), date(2026, 10, 25), date(2026, 11, 1)]
DOCUMENT_DAYS, FILING_DAYS = (30, 14, 7, 3, 1), (14, 7, 3, 0)

starts = st.one_of(st.sampled_from(CLOCKS_CHANGE), st.dates(date(2026, 1, 1), date(2027, 12, 31)))
# The hours from one tick to the next: mostly a day, sometimes an hour, sometimes an outage.
gaps = st.lists(st.sampled_from([1, 24, 24, 24, 24, 72, 200]), min_size=1, max_size=12)


class Colleague:
    """Tells of what is due by looking at the calendar day after day, and never of the same milestone twice."""

    def __init__(self) -> None:
        self.told: dict[UUID, list[int]] = {}

    def on(self, day: date, documents: dict[UUID, date], filings: dict[UUID, date]) -> None:
        for document, expiry in documents.items():
            left = (expiry - day).days
            if left >= -7:
                self._tell(document, [m for m in DOCUMENT_DAYS if left <= m])
        for filing, due in filings.items():
            left = (due - day).days
            if left < 0:
                self._tell(filing, [left] if left >= -7 else [])
            else:
                self._tell(filing, [m for m in FILING_DAYS if left <= m])

    def _tell(self, subject: UUID, reached: list[int]) -> None:
        if reached and min(reached) not in self.told.get(subject, []):
            self.told.setdefault(subject, []).append(min(reached))


def local_days(zone: str, ticks: Iterable[datetime], at: time) -> list[date]:
    """The days planned by these ticks: each whose run time has passed, not by more than six hours, once."""
    days: list[date] = []
    for tick in ticks:
        today = tick.astimezone(ZoneInfo(zone)).date()
        for day in (today - timedelta(1), today):
            due = datetime.combine(day, at, tzinfo=ZoneInfo(zone)).astimezone(UTC)
            if timedelta(0) <= tick - due <= timedelta(hours=6) and day not in days:
                days.append(day)
    return days


def planned_days(tx: Connection, tenant: UUID, schedule: str) -> list[date]:
    rows = tx.execute(
        text("SELECT local_date FROM schedule_runs WHERE tenant_id = :id AND schedule = :name AND outcome = 'planned'"),
        {"id": tenant, "name": schedule},
    )
    return [row.local_date for row in rows]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    zone=st.sampled_from(ZONES),
    start=starts,
    hour=st.integers(0, 23),
    gaps=gaps,
    offsets=st.lists(st.integers(-10, 45), min_size=1, max_size=6),
)
def test_each_obligation_is_told_once_a_milestone_whatever_the_clocks_and_outages(
    database: Engine, *, zone: str, start: date, hour: int, gaps: list[int], offsets: list[int]
) -> None:
    ticks = [datetime.combine(start, time(hour), tzinfo=UTC)]
    for gap in gaps:
        ticks.append(ticks[-1] + timedelta(hours=gap))
    with database.connect() as tx, tx.begin() as transaction:
        tx.execute(text("UPDATE schedules SET enabled_since = '2000-01-01Z'"))
        firm = Firm.create(tx, zone=zone)
        client = firm.client(firm.person())
        due = [start + timedelta(offset) for offset in offsets]
        documents = {firm.document(client, day): day for day in due}
        filings = {firm.filing(client, day): day for day in due}
        colleague = Colleague()
        for schedule, own in zip(SCHEDULES, ((documents, {}), ({}, filings)), strict=True):
            done: list[date] = []
            for tick in ticks:
                plan_tick(tx, schedule, tick, jitter=False)
                new = sorted(set(planned_days(tx, firm.id, schedule.name)) - set(done))
                for day in new:
                    run(tx, schedule.job_type, firm.id, day)
                done += new
            assert done == local_days(zone, ticks, schedule.local_time)
            for day in done:
                colleague.on(day, *own)
        told: dict[UUID, list[int]] = {}
        for row in firm.notices():
            told.setdefault(row.subject_id, []).append(row.milestone)
        assert told == colleague.told
        transaction.rollback()
