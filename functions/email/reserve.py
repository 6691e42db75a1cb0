"""Reserves what a mail uses up: a slot of the provider's rate and quota, and a place in the day's counts.

The lanes' rows are locked until the commit, so that any number of Lambdas reserve one after the other; the arithmetic
is limits.py's. Slots lie within seconds: what would have to wait longer is told when to come back, and holds nothing.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date, datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, text

from functions.email.limits import Lane, Limits, reserve

HORIZON = timedelta(seconds=1)
CRITICAL_HORIZON = timedelta(seconds=2.5)
"""Beyond what routine mail can have taken and one slot more, also at SES's least rate of one a second: a password reset
gets that slot, and need not come back."""
LIMITS_VALID_FOR = timedelta(minutes=10)
KEEP_SLOTS = timedelta(hours=25)

LIMITS_AGE = text("""
    SELECT min(limits_read_at) > clock_timestamp() - CAST(:valid_for AS interval) FROM send_lanes
""")
WRITE_LIMITS = text("""
    INSERT INTO send_lanes AS l (name, per_second, per_day, limits_read_at)
    SELECT name, per_second, per_day, clock_timestamp()
    FROM jsonb_to_recordset(CAST(:lanes AS jsonb)) AS o(name text, per_second float8, per_day integer)
    ORDER BY name
    ON CONFLICT (name) DO UPDATE SET
        per_second = excluded.per_second, per_day = excluded.per_day, limits_read_at = excluded.limits_read_at
""")

# Two statements and not one: the second's snapshot is taken with the lock held, and sees what the last holder wrote.
LOCK = text("""
    SELECT name, per_second, per_day, next_slot, waiting_until, clock_timestamp() AS now FROM send_lanes
    WHERE name = ANY(CAST(:names AS text[])) ORDER BY name FOR UPDATE
""")
READ = text("""
    SELECT 'slot' AS what, s.lane AS scope, s.number::text AS key, s.at, NULL::date AS local_date, 0 AS used
    FROM jsonb_to_recordset(CAST(:slots AS jsonb)) AS w(lane text, number bigint)
    JOIN send_slots s ON s.lane = w.lane AND s.number = w.number
    UNION ALL
    SELECT 'count', c.scope, c.key, NULL, c.local_date, c.count
    FROM jsonb_to_recordset(CAST(:places AS jsonb)) AS p(scope text, key text, local_date date)
    JOIN send_counts c ON c.scope = p.scope AND c.key = p.key AND c.local_date = p.local_date
    UNION ALL
    SELECT 'now', '', '', clock_timestamp(), NULL, 0
""")

# The intents are committed together with what they reserve. An intent that a run before this left is one send more.
WRITE = text("""
    WITH slot AS (
        INSERT INTO send_slots (lane, number, at)
        SELECT lane, number, at FROM jsonb_to_recordset(CAST(:slots AS jsonb)) AS s(
            lane text, number bigint, at timestamptz)
    ), lane AS (
        UPDATE send_lanes AS l SET next_slot = o.next_slot, waiting_until = coalesce(o.waiting_until, l.waiting_until)
        FROM jsonb_to_recordset(CAST(:lanes AS jsonb)) AS o(name text, next_slot bigint, waiting_until timestamptz)
        WHERE l.name = o.name
        RETURNING l.name, l.next_slot, l.per_day
    ), old AS (
        DELETE FROM send_slots USING lane
        WHERE send_slots.lane = lane.name AND send_slots.number < lane.next_slot - lane.per_day - 1
          AND send_slots.at < clock_timestamp() - CAST(:keep AS interval)
    ), place AS (
        INSERT INTO send_counts AS c (scope, key, local_date, count)
        SELECT scope, key, local_date, count FROM jsonb_to_recordset(CAST(:places AS jsonb)) AS p(
            scope text, key text, local_date date, count integer)
        ORDER BY scope, key, local_date
        ON CONFLICT (scope, key, local_date) DO UPDATE SET count = c.count + excluded.count
    )
    INSERT INTO email_messages AS m (job_id, tenant_id, type, critical, recipient_kind, recipient_id, address, subject,
                                     state)
    SELECT job_id, tenant_id, type, critical, recipient_kind, recipient_id, address, subject, 'intended'
    FROM jsonb_to_recordset(CAST(:intents AS jsonb)) AS i(
        job_id uuid, tenant_id uuid, type text, critical boolean, recipient_kind text, recipient_id uuid, address text,
        subject text)
    ON CONFLICT (job_id) DO UPDATE SET
        state = 'intended', sends = m.sends + 1, intended_at = clock_timestamp(), error = NULL, settled_at = NULL,
        address = excluded.address, subject = excluded.subject
""")

OLD_COUNTS = text("DELETE FROM send_counts WHERE local_date < current_date - 3")


@dataclass(frozen=True, slots=True)
class Place:
    """A counter of a day, and how high it may go. `opens_at` is when the next day begins."""

    scope: str
    key: str
    local_date: date
    most: int
    opens_at: datetime


@dataclass(frozen=True, slots=True)
class Wish:
    """A mail that asks for a slot and for places. `row` is its row of email_messages."""

    job_id: UUID
    places: Sequence[Place]
    row: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Head:
    """Where a lane stands after a reservation that began with `first_slot`."""

    first_slot: int
    next_slot: int
    waiting_until: datetime | None


@dataclass(frozen=True, slots=True)
class Granted:
    """The mail goes out, `start` on this process's monotonic clock."""

    start: float


@dataclass(frozen=True, slots=True)
class Denied:
    """Not now: when to ask again, and why."""

    until: datetime
    reason: str


def limits_are_fresh(tx: Connection) -> bool:
    """Whether the provider's limits were read lately."""
    return bool(tx.execute(LIMITS_AGE, {"valid_for": LIMITS_VALID_FOR}).scalar_one())


def write_limits(tx: Connection, limits: Limits) -> None:
    """Take over the provider's limits: all of it, and what routine mail may use."""
    lanes = {"all": limits, "routine": limits.without_reserve()}
    rows = [{"name": n, "per_second": lane.per_second, "per_day": lane.per_day} for n, lane in lanes.items()]
    tx.execute(WRITE_LIMITS, {"lanes": json.dumps(rows)})
    tx.execute(OLD_COUNTS)


def grant(tx: Connection, wishes: Sequence[Wish], *, critical: bool) -> dict[UUID, Granted | Denied]:
    """Decide these wishes and write the intents of those granted: three statements, and the lanes stay locked."""
    names = ["all"] if critical else ["all", "routine"]
    rows = tx.execute(LOCK, {"names": names}).all()
    lanes = {row.name: Lane(Limits(row.per_second, row.per_day), row.next_slot, {}) for row in rows}
    taken, counts, now = _read(tx, lanes, wishes)
    received = time.monotonic()
    answers: dict[UUID, Granted | Denied] = {}
    wanting = _within_the_day(wishes, counts, answers)
    full = [Lane(lane.limits, lane.next_slot, taken.get(name, {})) for name, lane in lanes.items()]
    slots = reserve(full, len(wanting), now=now, horizon=CRITICAL_HORIZON if critical else HORIZON)
    for wish, at in zip(wanting, slots.times, strict=False):
        answers[wish.job_id] = Granted(received + (at - now).total_seconds())
    own = names[-1]
    spacing = full[-1].limits.spacing
    waiting_until = None
    last_told = rows[-1].waiting_until or slots.next_free - spacing
    for wish in wanting[len(slots.times) :]:
        # Each is told a time of its own, or all that wait would come back at once, again and again.
        waiting_until = last_told = max(slots.next_free, last_told + spacing)
        answers[wish.job_id] = Denied(waiting_until, f"provider limit: {_rate(full[-1].limits)}")
    granted = wanting[: len(slots.times)]
    if granted or waiting_until is not None:
        heads = {
            name: Head(lane.next_slot, lane.next_slot + len(granted), waiting_until if name == own else None)
            for name, lane in zip(names, full, strict=True)
        }
        _write(tx, granted, slots.times, heads)
    return answers


def _read(
    tx: Connection, lanes: Mapping[str, Lane], wishes: Sequence[Wish]
) -> tuple[dict[str, dict[int, datetime]], dict[tuple[str, str, date], int], datetime]:
    slots = [{"lane": name, "number": n} for name, lane in lanes.items() for n in lane.matters(len(wishes))]
    places = {(place.scope, place.key, place.local_date) for wish in wishes for place in wish.places}
    asked = [{"scope": scope, "key": key, "local_date": str(day)} for scope, key, day in sorted(places)]
    taken: dict[str, dict[int, datetime]] = {}
    counts: dict[tuple[str, str, date], int] = {}
    now: datetime | None = None
    for row in tx.execute(READ, {"slots": json.dumps(slots), "places": json.dumps(asked)}):
        if row.what == "slot":
            taken.setdefault(row.scope, {})[int(row.key)] = row.at
        elif row.what == "count":
            counts[row.scope, row.key, row.local_date] = row.used
        else:
            now = row.at
    assert now is not None  # noqa: S101 - the statement's own last row
    return taken, counts, now


def _within_the_day(
    wishes: Sequence[Wish], counts: dict[tuple[str, str, date], int], answers: dict[UUID, Granted | Denied]
) -> list[Wish]:
    """Those whose places are free, each counted at once; the others are denied until the day that opens next."""
    wanting = []
    for wish in wishes:
        full = [p for p in wish.places if counts.get((p.scope, p.key, p.local_date), 0) >= p.most]
        if full:
            last = max(full, key=lambda place: place.opens_at)
            answers[wish.job_id] = Denied(last.opens_at, f"the {last.scope}'s limit of {last.most} mails a day")
            continue
        for place in wish.places:
            key = (place.scope, place.key, place.local_date)
            counts[key] = counts.get(key, 0) + 1
        wanting.append(wish)
    return wanting


def _write(tx: Connection, granted: Sequence[Wish], times: Sequence[datetime], heads: Mapping[str, Head]) -> None:
    slots = [
        {"lane": name, "number": head.first_slot + index, "at": at.isoformat()}
        for name, head in heads.items()
        for index, at in enumerate(times)
    ]
    counted: dict[tuple[str, str, date], int] = {}
    for wish in granted:
        for place in wish.places:
            key = (place.scope, place.key, place.local_date)
            counted[key] = counted.get(key, 0) + 1
    places = [
        {"scope": scope, "key": key, "local_date": str(day), "count": count}
        for (scope, key, day), count in counted.items()
    ]
    tx.execute(
        WRITE,
        {
            "slots": json.dumps(slots),
            "lanes": json.dumps([{"name": name, **asdict(head)} for name, head in heads.items()], default=str),
            "places": json.dumps(places),
            "intents": json.dumps([dict(wish.row) for wish in granted], default=str),
            "keep": KEEP_SLOTS,
        },
    )


def _rate(limits: Limits) -> str:
    day = "" if limits.per_day < 0 else f" and {limits.per_day} a day"
    return f"{limits.per_second:g} a second{day}"
