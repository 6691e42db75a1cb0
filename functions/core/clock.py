"""Instants and days. `now` is always an argument; these helpers only convert."""

from __future__ import annotations

from datetime import UTC, date, datetime, time
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

NO_PLACES = frozenset({"localtime", "posixrules", "Factory"})
"""Files of the time zone database that name a machine's setting and no zone; PostgreSQL does not know them."""


def parse_instant(text: str) -> datetime:
    """Read an ISO 8601 instant with its offset (`2026-11-24T02:00:00Z`) into an aware datetime in UTC.

    Raises `ValueError` for text that is no instant, or has no offset.
    """
    instant = datetime.fromisoformat(text)
    if instant.tzinfo is None:
        raise ValueError(f"{text!r} has no UTC offset")
    return instant.astimezone(UTC)


def local_instant(day: date, at: time, zone: ZoneInfo) -> datetime:
    """The instant, in UTC, at which the clocks of `zone` show `at` on `day`.

    A time that a spring gap skips is taken with the offset before the gap, so it falls after the gap: it comes
    late, but comes. A time that an autumn fold repeats means its first occurrence (PEP 495, fold=0).
    """
    return datetime.combine(day, at, tzinfo=zone).astimezone(UTC)


def find_zone(name: str) -> ZoneInfo | None:
    """The time zone of this name; None where this runtime's time zone database does not have it (any more)."""
    try:
        return ZoneInfo(name) if is_zone(name) else None
    except (ZoneInfoNotFoundError, ValueError, OSError):  # OSError: the name of a directory, or one too long for a file
        return None


def is_zone(name: str) -> bool:
    """Whether a name of the time zone database is a zone's, and not a machine's setting or a copy of all zones."""
    return name not in NO_PLACES and not name.startswith(("posix/", "right/"))
