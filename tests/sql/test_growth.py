"""Nothing that the flow does reads more as its history grows: the plans of its statements beside years of rows."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import text

from functions.core.catalog import CATALOG
from functions.db import engine as db
from functions.db.engine import transaction
from functions.pipeline import conservation, gauges, overdue, relay, schedule, silent, sweep, vitals
from tests.growth import executed, grow, growing_reads
from tests.harness import probe
from tests.mail import Post

ROWS = 40_000
NOW = datetime.now(UTC)


@pytest.fixture
def grown(post: Post) -> Post:
    """Mail, planners and the rest of the flow beside what two years have left."""
    grow(post.observer, ROWS)
    # The check counts all once, and from then on only what is young.
    with transaction() as tx:
        assert conservation.check(tx).holds
    return post


def test_the_flow_reads_no_history(grown: Post) -> None:
    with executed(db.engine()) as seen:
        _flow(grown)
        _sweep()
    assert len(seen) > 40
    found = growing_reads(grown.observer, seen)
    # But for the recount, which is bounded.
    assert [line for line in found if "stop AS MATERIALIZED" not in line] == []


def _flow(post: Post) -> None:
    """Order, claim, triage and settle; plan, refresh, mail and digest."""
    post.order(*[probe() for _ in range(20)])
    messages = post.take("upkeep")
    post.deliver("upkeep", messages)
    post.deliver("upkeep", messages)  # copies: triage
    with transaction() as tx:
        for row in CATALOG.schedules.values():
            schedule.plan_tick(tx, row, datetime.combine(NOW, row.local_time, UTC), jitter=False)
        overdue.overdue(tx, NOW)
    for queue in ("compliance-refresh", "scheduled-email", "notifications", "filing-reminders"):
        post.deliver(queue, post.take(queue, 100))
    post.order(post.custom(), post.reset())
    for queue in ("email", "email-critical"):
        post.deliver(queue, post.take(queue))
    detail: dict[str, Any] = {"eventType": "Send", "mail": {"messageId": "m", "timestamp": NOW.isoformat(), "tags": {}}}
    post.events({**detail, "send": {}})


def _sweep() -> None:
    sweep.fold()
    assert sweep.check_conservation()
    vitals.measure(NOW, conservation=True)
    sweep.forget_auth_failures()
    relay.drain()
    with transaction() as tx:
        tx.execute(silent.SENT).all()
        gauges.heads(tx)
        gauges.outbox_age_seconds(tx)
        for row in tx.execute(text("SELECT name, fifo FROM queues")).all():
            silent.expiring(tx, row.name, near_expiry=timedelta(days=13), most=5000)
            silent.in_empty_queue(tx, row.name, first=timedelta(minutes=5), most=5000)
            silent.passed(tx, row.name, fifo=row.fifo, most=5000)
