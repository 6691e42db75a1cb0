"""The cron handler end to end: from a scheduled event to scores, through ledger, relay, queue and worker."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Engine, text

from functions.compliance.refresh import handler
from functions.core.errors import BadEvent
from functions.pipeline.conservation import conservation
from tests.harness import Queues, new_tenant, states, work

QUEUE = "compliance-refresh"


def tick(time: str, **detail: Any) -> dict[str, Any]:
    """The event of a cron rule, as EventBridge sends it."""
    return {
        "version": "0",
        "id": "53dc4d37-cffa-4f76-80c9-8b7d4a4d2eaa",
        "detail-type": "Scheduled Event",
        "source": "aws.events",
        "account": "123456789012",
        "time": time,
        "region": "us-east-1",
        "resources": ["arn:aws:events:us-east-1:123456789012:rule/tick"],
        "detail": detail,
    }


@pytest.fixture
def firms(database: Engine, queues: Queues) -> Engine:
    """Three tenants with a client each, in zones whose 02:00 falls on 12:00, 20:15 and 06:00 UTC."""
    with database.begin() as tx:
        tx.execute(text("UPDATE schedules SET enabled_since = '2020-01-01T00:00:00Z'"))
        for zone in ("Pacific/Kiritimati", "Asia/Kathmandu", "America/Guyana"):
            tenant = new_tenant(tx, zone=zone, created_at="2026-11-23T10:00:00Z")
            tx.execute(text("INSERT INTO clients (tenant_id, name) VALUES (:tenant, 'Client')"), {"tenant": tenant})
    return database


def _scores(engine: Engine) -> dict[str, str]:
    with engine.begin() as tx:
        rows = tx.execute(
            text("""
                SELECT t.time_zone, s.as_of FROM compliance_scores s JOIN tenants t ON t.id = s.tenant_id
                ORDER BY s.updated_at
            """)
        )
        return {row.time_zone: row.as_of.isoformat() for row in rows}


def test_a_day_of_ticks_refreshes_every_tenant_once_as_of_its_own_date(firms: Engine, queues: Queues) -> None:
    now = datetime(2026, 11, 23, 10, tzinfo=UTC)
    planned: dict[str, int] = {}
    for _ in range(96):
        done = handler(tick(now.isoformat(), jitter=False), None)
        assert done["planned"] == done["sent"]
        assert done["missed"] == 0
        if done["planned"]:
            planned[f"{now:%d %H:%M}"] = done["planned"]
            work(queues, QUEUE)
        now += timedelta(minutes=15)
    assert planned == {"23 12:00": 1, "23 20:15": 1, "24 06:00": 1}
    assert _scores(firms) == {
        "Pacific/Kiritimati": "2026-11-24",
        "Asia/Kathmandu": "2026-11-24",
        "America/Guyana": "2026-11-24",
    }
    with firms.begin() as tx:
        assert states(tx) == {"completed": 3}
        assert {row.result["clients"] for row in tx.execute(text("SELECT result FROM jobs"))} == {1}
        assert conservation(tx).holds


def test_the_same_event_twice_plans_and_sends_once(firms: Engine, queues: Queues) -> None:
    event = tick("2026-11-24T06:15:00Z", jitter=False)
    assert handler(event, None) == {"planned": 3, "missed": 0, "sent": 3}
    assert handler(event, None) == {"planned": 0, "missed": 0, "sent": 0}
    bodies = [json.loads(body) for body in queues.bodies(QUEUE)]
    assert len(bodies) == 3
    assert all(set(body) == {"v", "id", "delivery", "type", "tenant_id", "correlation_id"} for body in bodies)


def test_with_jitter_the_jobs_wait_in_the_ledger(firms: Engine, queues: Queues) -> None:
    done = handler(tick("2026-11-24T06:15:00Z"), None)
    assert done["planned"] == 3
    with firms.begin() as tx:
        rows = tx.execute(text("SELECT run_at <= now() + interval '900 s' AS soon, outbox_at FROM jobs")).all()
        assert all(row.soon for row in rows)
        assert sum(row.outbox_at is not None for row in rows) == 3 - done["sent"]
    assert len(queues.bodies(QUEUE)) == done["sent"]


def test_a_tenant_deleted_after_planning_is_skipped_and_says_so(firms: Engine, queues: Queues) -> None:
    handler(tick("2026-11-24T06:15:00Z", jitter=False), None)
    with firms.begin() as tx:
        tx.execute(text("DELETE FROM tenants WHERE time_zone = 'Asia/Kathmandu'"))
    work(queues, QUEUE)
    with firms.begin() as tx:
        assert states(tx) == {"completed": 3}
        results = [row.result for row in tx.execute(text("SELECT result FROM jobs"))]
    assert results.count({"skipped": "the tenant was deleted"}) == 1
    assert "Asia/Kathmandu" not in _scores(firms)


@pytest.mark.parametrize(
    "event", [{}, {"Records": []}, tick("2026-11-24T06:15:00"), tick("soon")], ids=["empty", "sqs", "naive", "no time"]
)
def test_an_event_that_is_no_tick_plans_nothing_and_says_what_it_should_be(firms: Engine, event: Any) -> None:
    with pytest.raises(BadEvent, match="Scheduled Event"):
        handler(event, None)
    with firms.begin() as tx:
        assert states(tx) == {}
