"""`make demo`, as a newcomer runs it: once, again, and after `kill -9` of everything it started."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from duecourse.local import postgres, stack
from duecourse.local.state import Home, load_emulator

pytestmark = pytest.mark.slow

MOST_SECONDS = 150
"""Alone on two cores it takes about 40; here other tests are at work beside it."""


def _demo(home: Home) -> dict[str, Any]:
    environment = {
        name: value for name, value in os.environ.items() if name not in {"DATABASE_URL", "AWS_ENDPOINT_URL"}
    }
    done = subprocess.run(
        [sys.executable, "-m", "duecourse.cli", "demo"],
        env=environment | {"DUECOURSE_HOME": str(home.directory)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads((home.directory / "demo.json").read_text())
    return found


def _check(found: dict[str, Any]) -> None:
    assert (found["tenants"], found["clients"], found["planned"], found["completed"]) == (24, 5000, 24, 24)
    assert (found["dead"], found["rejected"], found["redriven"]) == (1, 1, 1)
    assert sum(found["scores"].values()) == found["clients"]
    assert min(found["scores"].values()) > 0
    assert found["statements_per_batch"] <= 5
    assert found["seconds"] < MOST_SECONDS
    assert len(found["runs"]) == 6
    assert set(found["runs"].values()) == {24}
    assert 0 < found["mails"] <= 158  # one a person at most
    assert found["naive_mails"] > 100 * found["mails"]
    assert found["notices"] > found["obligations"] > 0
    held = found["conservation"]
    assert held.pop("holds")
    assert held.pop("enqueued") == sum(held.values()) == held["completed"] > 6 * 24
    assert found["problems"] == []


def test_the_demo_runs_once_again_and_after_kill_9(place: Path) -> None:
    home = Home(place / "home")
    try:
        _check(_demo(home))
        _check(_demo(home))
        record = load_emulator(home)
        roots = [record.process.process() if record else None, postgres.running(home.postgres)]
        for root in filter(None, roots):
            for process in [*root.children(recursive=True), root]:
                try:
                    process.kill()
                except psutil.NoSuchProcess:
                    continue
        _check(_demo(home))
    finally:
        stack.down(home, purge=True)
