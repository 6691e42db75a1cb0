"""Fixtures of the tests that start the local stack."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def place() -> Iterator[Path]:
    """A short directory for state, outside of pytest's own.

    As root, PostgreSQL runs as another user, who must get in; and every pytest that starts shuts others out of
    /tmp/pytest-of-root, whoever is at work there.
    """
    with tempfile.TemporaryDirectory(prefix="duecourse-", ignore_cleanup_errors=True) as directory:
        yield Path(directory)
