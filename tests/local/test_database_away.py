"""The database away for minutes, on the deployed template. A file of its own, since nearly all of it is waiting."""

from __future__ import annotations

import time

import pytest
from sqlalchemy.exc import DBAPIError

from duecourse.local import postgres
from functions.core.errors import DatabaseAway
from tests.local.world import LEASE_AND_A_LITTLE, World, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

JOBS = 20


def test_the_database_away_for_two_minutes_in_mid_run(world: World) -> None:
    world.set_visibility("upkeep", LEASE_AND_A_LITTLE)
    world.order(JOBS, sleep_seconds=0.5)
    world.relay()
    wait_for("a batch at work", lambda: world.states().get("active"), seconds=20)
    world.engine.dispose()
    postgres.stop(world.home.postgres)
    time.sleep(120)
    postgres.start(world.home.postgres)

    def done() -> bool:
        try:
            return world.states() == {"completed": JOBS}
        except (DBAPIError, DatabaseAway):
            return False

    # What was handed back while the database was away waits 15, 30, 60, then 120 s.
    wait_for("all to complete", done, seconds=300)
    assert world.effects() == [1] * JOBS
    assert world.is_refunded()
    assert world.conservation().holds
