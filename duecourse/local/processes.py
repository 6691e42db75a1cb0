"""Processes we started: remembering, recognising and ending them, never a later process that got the same id."""

from __future__ import annotations

import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass

import psutil

CREATE_TIME_TOLERANCE_SECONDS = 1.0
"""psutil derives a process's start from the boot time, which a clock correction moves a little."""
POLL_SECONDS = 0.02


@dataclass(frozen=True, slots=True)
class ProcessRecord:
    """A process we started, in a form that a file can hold."""

    pid: int
    created: float
    """Seconds since the epoch."""

    @classmethod
    def of(cls, pid: int) -> ProcessRecord:
        """Raises `psutil.NoSuchProcess` when it has already ended."""
        return cls(pid, psutil.Process(pid).create_time())

    def process(self) -> psutil.Process | None:
        """The process while it lives, else None."""
        try:
            process = psutil.Process(self.pid)
            same = abs(process.create_time() - self.created) <= CREATE_TIME_TOLERANCE_SECONDS
        except psutil.NoSuchProcess:
            return None
        return process if same and is_alive(process) else None


def is_alive(process: psutil.Process) -> bool:
    """Whether it still runs. A zombie does not: in a container nobody may ever collect it."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def wait(processes: Iterable[psutil.Process], *, seconds: float) -> list[psutil.Process]:
    """Wait until all have ended, at most so long; returns those that have not.

    (psutil's own wait_procs waits for zombies, too.)
    """
    deadline = time.monotonic() + seconds
    alive = [process for process in processes if is_alive(process)]
    while alive and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
        alive = [process for process in alive if is_alive(process)]
    return alive


def end(processes: Iterable[psutil.Process], *, grace_seconds: float) -> None:
    """Ask them to end, and after the grace make them."""
    processes = list(processes)
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.terminate()
    for process in wait(processes, seconds=grace_seconds):
        with suppress(psutil.NoSuchProcess):
            process.kill()
    wait(processes, seconds=grace_seconds)
