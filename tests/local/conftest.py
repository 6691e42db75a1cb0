"""Fixtures of the tests that start the local stack."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from duecourse.local import stack
from duecourse.local.state import Home
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
