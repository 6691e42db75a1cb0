"""Rivals that cannot be installed are named with the reason, and asking for one says so."""

from __future__ import annotations

from pathlib import Path

import pytest

from duecourse.bench import peers
from duecourse.bench.peers import PeerMissing
from duecourse.bench.servers import running_redis
from duecourse.local.state import Home


@pytest.fixture
def bare_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """A machine with no npm, no apt and no uv."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("UV", raising=False)
    monkeypatch.setattr(peers, "REPOSITORY", tmp_path)
    return Home(tmp_path / "home")


def test_what_is_missing_is_named_with_the_reason(bare_machine: Home) -> None:
    found = peers.install(bare_machine)
    assert set(found.missing) == {"redis", "node", "python"}
    assert "apt-get" in found.missing["redis"]
    assert "node and npm" in found.missing["node"]
    assert "uv" in found.missing["python"]
    assert found.versions == {}


def test_asking_for_what_is_missing_says_why(bare_machine: Home) -> None:
    found = peers.install(bare_machine)
    with pytest.raises(PeerMissing, match="node and npm"):
        found.node("bullmq.mjs")
    with pytest.raises(PeerMissing, match="uv"):
        found.python_program("celery_peer.py")
    with pytest.raises(PeerMissing, match="apt-get"), running_redis(found):
        pass


def test_the_peers_see_nothing_of_our_environment(bare_machine: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://elsewhere")
    assert "DATABASE_URL" not in peers.install(bare_machine).environment()
