"""What every section of the benchmark gets: the servers, the peers, and whether this is the small run."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from duecourse.bench.peers import PeerMissing, Peers
from duecourse.bench.servers import Postgres

RIVAL_SECONDS = 180
LAST_LINES = 3


@dataclass(frozen=True, slots=True)
class Bench:
    """One run of the benchmark."""

    small: bool
    home: Path
    peers: Peers
    postgres: Postgres

    def rival(self, command: Sequence[str]) -> float:
        """Jobs per second of a rival's program. Raises `PeerMissing` when it fails: that is no figure of ours."""
        try:
            done = subprocess.run(
                command,
                env=self.peers.environment(),
                capture_output=True,
                text=True,
                check=False,
                timeout=RIVAL_SECONDS,
                stdin=subprocess.DEVNULL,
            )
        except subprocess.TimeoutExpired:
            raise PeerMissing(f"{command[1]} did not end within {RIVAL_SECONDS} s") from None
        if done.returncode != 0:
            said = " ".join(done.stderr.strip().splitlines()[-LAST_LINES:])
            raise PeerMissing(f"{command[1]} failed: {said}")
        report = json.loads(done.stdout.splitlines()[-1])
        return float(report["jobs"]) / float(report["seconds"])
