"""The time zones that people chose, some of which a later time zone database may no longer have."""

from __future__ import annotations

from functools import cache
from typing import Any
from zoneinfo import ZoneInfo

from functions.core.clock import find_zone

LAST_RESORT = "UTC"


def zone_of_tenants(name: str) -> ZoneInfo | None:
    """The zone; None where this runtime does not know it, which is logged: a message worth an alarm."""
    zone = find_zone(name)
    if zone is None:
        _logger().error(
            "unknown_time_zone",
            time_zone=name,
            fix="its tenants are not planned: set tenants.time_zone to the zone's successor in the IANA database",
        )
    return zone


@cache
def known_zone(*names: str | None) -> str:
    """The first of these names that this runtime knows, a reader's own before their firm's; at last UTC.

    A mail at an hour that is a little off is better than none. Logged once per process.
    """
    for name in names:
        if name is not None and find_zone(name) is not None:
            return name
        if name is not None:
            _logger().warning(
                "unknown_time_zone",
                time_zone=name,
                fix="its readers get mail by the firm's clock, or UTC: set their time_zone to the zone's successor",
            )
    return LAST_RESORT


def _logger() -> Any:
    from functions.pipeline import observe  # 100 ms that the unsubscribe function, which never gets here, need not pay

    return observe.logger()
