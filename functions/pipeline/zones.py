"""The time zones that tenants chose, some of which a later time zone database may no longer have."""

from __future__ import annotations

from zoneinfo import ZoneInfo

from functions.core.clock import find_zone
from functions.pipeline import observe


def zone_of_tenants(name: str) -> ZoneInfo | None:
    """The zone; None where this runtime does not know it, which is logged: a message worth an alarm."""
    zone = find_zone(name)
    if zone is None:
        observe.logger().error(
            "unknown_time_zone",
            time_zone=name,
            fix="its tenants are not planned: set tenants.time_zone to the zone's successor in the IANA database",
        )
    return zone
