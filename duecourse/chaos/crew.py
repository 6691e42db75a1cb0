"""The processes of a run: forked from one that has imported everything, killed, and forked again at once.

`python -m duecourse.chaos.crew WORKERS RANDOM_KILL_SECONDS`, with the saboteur's spec in the environment; it ends with
its parent, or on SIGTERM, and takes its children along. SIGUSR1 has it stop one worker beyond its lease.
"""

from __future__ import annotations

import ctypes
import os
import random
import signal
import sys
import time
from collections import deque
from collections.abc import Mapping
from contextlib import suppress

from duecourse.chaos import saboteur as sabotage
from duecourse.chaos.roles import LEASE_SECONDS, ROLES, STALL_MARGIN_SECONDS

POLL_SECONDS = 0.05
STALL_SECONDS = LEASE_SECONDS + STALL_MARGIN_SECONDS
PR_SET_PDEATHSIG = 1


def main(workers: int, random_kill_seconds: float) -> None:
    """Keep `workers` workers, a relay and a sweep alive."""
    armed = sabotage.install()
    _import_all()
    roles = {f"worker-{index}": "worker" for index in range(workers)}
    Crew(armed, roles | {"relay": "relay", "sweep": "sweep"}).run(random_kill_seconds)


class Crew:
    """Children by name; each is forked again when it ends."""

    def __init__(self, armed: sabotage.Saboteur, roles: Mapping[str, str]) -> None:
        self.armed = armed
        self.roles = roles
        self.pids: dict[str, int] = {}
        self.lives = dict.fromkeys(self.roles, 0)
        self.stalled: dict[int, float] = {}
        self.rng = random.Random(f"{armed.spec.seed}/crew")
        self.fates = {role: self._shuffled(role) for role in sorted(set(self.roles.values()))}
        self.fated: dict[str, sabotage.Fate] = {}
        self.ending = False
        self.stall_wanted = 0

    def run(self, random_kill_seconds: float) -> None:
        parent = os.getppid()
        signal.signal(signal.SIGTERM, self._end)
        signal.signal(signal.SIGUSR1, self._stall)
        self.armed.begin("crew")
        next_kill = time.monotonic() + self.rng.expovariate(1 / random_kill_seconds)
        while not self.ending and os.getppid() == parent:
            self._collect()
            for name in self.roles:
                if name not in self.pids:
                    self._fork(name)
            if time.monotonic() > next_kill:
                next_kill = time.monotonic() + self.rng.expovariate(1 / random_kill_seconds)
                # One that is to be held up must live to go on.
                victims = [name for name in sorted(self.pids) if not self.fated[name].stalls]
                if victims and self.armed.strikes(1.0):
                    self._kill(self.rng.choice(victims))
            self._stall_and_wake()
            time.sleep(POLL_SECONDS)
        for pid in self.pids.values():
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)

    def _shuffled(self, role: str) -> deque[sabotage.Fate]:
        fates = sabotage.fates_of(role)
        return deque(self.rng.sample(fates, len(fates)))

    def _fork(self, name: str) -> None:
        """Each life gets the next of the fates of its role, so that all of them come up."""
        fates = self.fates[self.roles[name]]
        fate = self.fated[name] = fates.popleft()
        fates.append(fate)
        pid = os.fork()
        if pid:
            self.pids[name] = pid
            self.lives[name] += 1
            return
        status = 1
        try:
            with suppress(AttributeError):  # Linux only; elsewhere a killed crew leaves its children behind
                ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            for number in (signal.SIGTERM, signal.SIGUSR1):
                signal.signal(number, signal.SIG_DFL)
            self.armed.begin(self.roles[name], name, self.lives[name], fate=fate)
            ROLES[self.roles[name]](self.armed)
            status = 0
        finally:
            os._exit(status)

    def _collect(self) -> None:
        for name, pid in list(self.pids.items()):
            if os.waitpid(pid, os.WNOHANG)[0]:
                del self.pids[name]
                self.stalled.pop(pid, None)

    def _kill(self, name: str) -> None:
        self.armed.note("killed at random")
        fates = self.fates[self.roles[name]]
        fates.remove(self.fated[name])
        fates.appendleft(self.fated[name])  # its turn comes again
        os.kill(self.pids[name], signal.SIGKILL)

    def _stall_and_wake(self) -> None:
        now = time.monotonic()
        for pid, until in list(self.stalled.items()):
            if now > until:
                del self.stalled[pid]
                os.kill(pid, signal.SIGCONT)
        while self.stall_wanted:
            self.stall_wanted -= 1
            workers = [
                pid for name, pid in self.pids.items() if self.roles[name] == "worker" and pid not in self.stalled
            ]
            if workers:
                pid = self.rng.choice(workers)
                self.stalled[pid] = now + STALL_SECONDS
                os.kill(pid, signal.SIGSTOP)

    def _end(self, *_: object) -> None:
        self.ending = True

    def _stall(self, *_: object) -> None:
        self.stall_wanted += 1


def _import_all() -> None:
    """What every child needs, imported once: a life begins with a fork, not with a second of imports."""
    import boto3  # noqa: F401
    import pg8000.dbapi  # noqa: F401

    import functions.compliance.refresh
    import functions.email.events
    import functions.email.render
    import functions.email.send
    import functions.pipeline.relay
    import functions.pipeline.sweep
    import functions.pipeline.worker
    import functions.upkeep.probe  # noqa: F401


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]))
