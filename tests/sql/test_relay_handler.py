"""The function `relay` goes on through what may be over at its next look, and says at its end that it is alive."""

from __future__ import annotations

import json

import pytest

from duecourse.local.delivery import Context
from functions.db import engine as db
from functions.pipeline import relay
from functions.pipeline.settings import settings
from tests.lanes import Due, Lanes

SHORT = 0.2
"""Seconds left to an invocation that shall look once."""


def metrics(printed: str) -> dict[str, float]:
    """The values of the metrics among printed lines."""
    found: dict[str, float] = {}
    for line in printed.splitlines():
        blob = json.loads(line)
        for kind in blob.get("_aws", {}).get("CloudWatchMetrics", []):
            found |= {item["Name"]: blob[item["Name"]][0] for item in kind["Metrics"]}
    return found


def test_a_missing_setting_ends_no_invocation(
    lanes: Lanes, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lanes.add(Due("upkeep"))
    monkeypatch.delenv("QUEUE_URL_PREFIX")
    settings.cache_clear()
    assert relay.handler({}, Context(seconds=SHORT)) == {"sent": 0}
    assert metrics(capsys.readouterr().out) == {"Heartbeat": 1, "MessagesSent": 0}
    assert lanes.rows("SELECT name FROM heartbeats WHERE name = 'relay'")
    assert len(lanes.left()) == 1


def test_a_lock_that_is_not_had_ends_no_invocation(lanes: Lanes, capsys: pytest.CaptureFixture[str]) -> None:
    lanes.add(Due("upkeep"))
    [name] = lanes.rows("SELECT current_database() AS name")
    lanes.rows(f"ALTER DATABASE {name.name} SET lock_timeout = '20ms'")
    db.engine().dispose()  # its next connection has the limit
    with lanes.observer.begin() as session:
        session.exec_driver_sql("LOCK TABLE jobs IN ACCESS EXCLUSIVE MODE")
        assert relay.handler({}, Context(seconds=SHORT)) == {"sent": 0}
    assert metrics(capsys.readouterr().out)["Heartbeat"] == 1
    assert lanes.rows("SELECT name FROM heartbeats WHERE name = 'relay'")
    assert relay.handler({}, Context(seconds=SHORT)) == {"sent": 1}


def test_a_schema_that_is_not_there_yet_ends_no_invocation(lanes: Lanes, capsys: pytest.CaptureFixture[str]) -> None:
    lanes.add(Due("upkeep"))
    lanes.rows("ALTER FUNCTION take_due RENAME TO take_due_later")
    assert relay.handler({}, Context(seconds=SHORT)) == {"sent": 0}
    assert metrics(capsys.readouterr().out)["Heartbeat"] == 1


def test_what_was_sent_before_an_error_is_counted(lanes: Lanes, capsys: pytest.CaptureFixture[str]) -> None:
    lanes.add(*[Due("upkeep")] * 7)
    assert relay.handler({}, Context(seconds=2.0)) == {"sent": 7}
    assert metrics(capsys.readouterr().out) == {"Heartbeat": 1, "MessagesSent": 7}
