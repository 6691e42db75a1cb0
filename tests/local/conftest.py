"""Fixtures of the tests that start the local stack."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from duecourse.local import functions, stack
from duecourse.local.state import Home
from functions.pipeline.heartbeat import beat
from tests.local.world import World


@pytest.fixture
def world(place: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """The template, deployed on a stack of this test's own."""
    monkeypatch.delenv("DATABASE_URL", raising=False)
    home = Home(place / "home")
    running = stack.up(home)
    made = World(home, running, running.engine())
    yield made
    made.engine.dispose()
    stack.down(home, purge=True)


@pytest.fixture(scope="module")
def deployed() -> Iterator[World]:
    """One stack for all tests of a module, after the first round of relay and sweep; `duecourse` finds it."""
    with (
        tempfile.TemporaryDirectory(prefix="duecourse-", ignore_cleanup_errors=True) as directory,
        pytest.MonkeyPatch.context() as patch,
    ):
        home = Home(Path(directory) / "home")
        patch.delenv("DATABASE_URL", raising=False)
        patch.setenv("DUECOURSE_HOME", str(home.directory))
        running = stack.up(home)
        made = World(home, running, running.engine())
        try:
            functions.invoke(running, "sweep", {})
            with made.engine.begin() as tx:
                beat(tx, "relay", {})  # its own first one comes up to two minutes later
            yield made
        finally:
            made.engine.dispose()
            stack.down(home, purge=True)
