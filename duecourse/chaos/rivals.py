"""The peers under `kill -9` of their workers alone, with the settings that their documentation calls safe.

Nothing else is done to them: Redis is never killed. What they lose or do twice stands beside our own figures.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

from duecourse.bench.peers import PeerMissing, Peers, install
from duecourse.bench.servers import running_redis

NAMED = ("redis", "node", "bullmq", "celery")
JOBS = 5_000
WORKERS = 2
KILL_SECONDS = 0.7
"""Mean time between two kills."""
STARTED_SECONDS = 2.0
"""A worker is not killed before: one that never gets to work proves nothing."""
POLL_SECONDS = 0.1
COUNT_SECONDS = 1.0
PATIENCE_SECONDS = 30.0
"""Without any progress: what is open then is stuck."""


@dataclass(frozen=True, slots=True)
class Survived:
    """What a peer did."""

    jobs: int
    kills: int
    lost: int
    """Jobs without their effect."""
    failed: int
    """Jobs given up because of the kills; their effects may be there."""
    doubled_effects: int
    stuck: int
    seconds: float


def run(seed: int, jobs: int = JOBS) -> dict[str, Any]:
    """Both peers; one that is missing is named with the reason."""
    peers = install()
    found: dict[str, Any] = {"versions": {name: peers.versions[name] for name in NAMED if name in peers.versions}}
    scripts = {"BullMQ": (peers.node, "bullmq_kill.mjs"), "Celery": (peers.python_program, "celery_kill.py")}
    for name, (command, script) in scripts.items():
        try:
            found[name] = asdict(_survive(peers, command(script), jobs, random.Random(f"{seed}/{name}")))
        except PeerMissing as error:
            found[name] = {"missing": str(error)}
    return found


def _survive(peers: Peers, command: Sequence[str], jobs: int, rng: random.Random) -> Survived:
    with running_redis(peers) as socket:
        _call(peers, [*command, "enqueue", str(socket), str(jobs)])
        started = moved = time.monotonic()
        workers: list[tuple[float, subprocess.Popen[bytes]]] = []
        last, counted, kills, next_kill = -1, 0.0, 0, started + STARTED_SECONDS
        found: dict[str, int] = {}
        try:
            while True:
                workers = [(at, worker) for at, worker in workers if worker.poll() is None]
                while len(workers) < WORKERS:
                    workers.append((time.monotonic(), _start(peers, [*command, "work", str(socket)])))
                now = time.monotonic()
                ready = [worker for at, worker in workers if now - at > STARTED_SECONDS]
                if now > next_kill and ready:
                    _kill(rng.choice(ready))
                    kills, next_kill = kills + 1, now + rng.expovariate(1 / KILL_SECONDS)
                if now - counted > COUNT_SECONDS:
                    counted, found = now, _call(peers, [*command, "count", str(socket), str(jobs)])
                    if found["open"] == last == 0 or now - moved > PATIENCE_SECONDS:
                        break
                    if found["open"] != last:
                        last, moved = found["open"], now
                time.sleep(POLL_SECONDS)
        finally:
            for _, worker in workers:
                _kill(worker)
    return Survived(
        jobs,
        kills,
        max(0, found["without_effect"] - found["open"]),
        found["failed"],
        found["doubled"],
        found["open"],
        round(time.monotonic() - started, 1),
    )


def _start(peers: Peers, command: Sequence[str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command,
        env=peers.environment() | {"C_FORCE_ROOT": "1"},
        cwd=Path(command[-3]).parent,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def _kill(worker: subprocess.Popen[bytes]) -> None:
    """The whole worker, with the processes it forked: as an out-of-memory kill of its container."""
    with suppress(psutil.NoSuchProcess, ProcessLookupError):
        os.killpg(worker.pid, signal.SIGKILL)
    worker.wait()


def _call(peers: Peers, command: Sequence[str]) -> dict[str, int]:
    done = subprocess.run(command, env=peers.environment(), capture_output=True, text=True, check=False, timeout=300)
    if done.returncode:
        raise PeerMissing(f"{command[-3]} failed: {done.stderr.strip()[-300:]}")
    found: dict[str, int] = json.loads(done.stdout.splitlines()[-1])
    return found
