"""The faults that come from outside the processes: PostgreSQL, the emulator, its functions, SES, poison."""

from __future__ import annotations

import json
import random
import shutil
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from duecourse.chaos.plan import Fault
from duecourse.chaos.provider import Mood, Provider
from duecourse.local import emulator, postgres, processes
from duecourse.local.errors import LocalError
from duecourse.local.stack import Stack
from duecourse.local.state import Home, load_emulator

DOWN_SECONDS = 5.0
FULL_SECONDS = 5.0
MOOD_SECONDS = 6.0
SAVE_SECONDS = 60.0
"""How long the emulator may take to write its state when it ends."""
DISK_SIZE = "4g"
"""Of the memory file system that PostgreSQL gets; nothing of it is used before it is filled."""
SPARE_BYTES = 256 * 1024
POISON = (
    "neither JSON nor anything else",
    "[1, 2, 3]",
    json.dumps({"v": 1, "type": "no.such.job", "id": "019ab3f2-7a10-7c44-9d2b-5f0e8d1c2b3a"}),
    json.dumps({"v": 1, "type": "email.custom", "id": "019ab3f2-7a10-7c44-9d2b-5f0e8d1c2b3a"}),
)


@dataclass
class Injector:
    """Brings faults about, one at a time, and mends what it broke."""

    home: Home
    stack: Stack
    provider: Provider
    variables: Mapping[str, str]
    """Of the emulator's environment."""
    crew: subprocess.Popen[bytes]
    rng: random.Random
    poison: int
    faults: Counter[str] = field(default_factory=Counter)
    skipped: dict[str, str] = field(default_factory=dict)
    """Faults that this machine does not allow, with the reason."""
    poisoned: int = 0
    _timers: list[threading.Timer] = field(default_factory=list)

    def bring_about(self, fault: Fault) -> None:
        """Do it, and return when what was broken is mended; a mood of SES passes by itself."""
        action: Mapping[Fault, Callable[[], None]] = {
            Fault.POSTGRES_KILLED: self._kill_postgres,
            Fault.POSTGRES_STOPPED: lambda: self._stop_postgres(DOWN_SECONDS),
            Fault.POSTGRES_RESTARTED: lambda: self._stop_postgres(0),
            Fault.POSTGRES_BACKEND_KILLED: self._kill_backend,
            Fault.DISK_FULL: self._fill_disk,
            Fault.EMULATOR_RESTARTED: lambda: restart_emulator(self.home, self.variables),
            Fault.QUEUES_LOST: self._lose_queues,
            Fault.FUNCTIONS_KILLED: self._kill_functions,
            Fault.MAIL_THROTTLED: lambda: self._mood(Mood.THROTTLING),
            Fault.MAIL_BREAKS: lambda: self._mood(Mood.BREAKING),
            Fault.POISON: self._send_poison,
            Fault.WORKER_STALLED: lambda: self.crew.send_signal(signal.SIGUSR1),
        }
        action[fault]()
        if fault.value not in self.skipped:
            self.faults[fault.value] += 1

    def wait(self) -> None:
        """Until the moods have passed."""
        for timer in self._timers:
            timer.join()

    def _kill_postgres(self) -> None:
        if server := postgres.running(self.home.postgres):
            server.kill()
        postgres.start(self.home.postgres)

    def _stop_postgres(self, seconds: float) -> None:
        postgres.stop(self.home.postgres)
        time.sleep(seconds)
        postgres.start(self.home.postgres)

    def _kill_backend(self) -> None:
        """PostgreSQL itself then ends every other connection and recovers."""
        server = postgres.running(self.home.postgres)
        backends = (
            [child for child in server.children() if _title(child).endswith("idle in transaction")] if server else []
        )
        others = [child for child in server.children() if " duecourse " in _title(child)] if server else []
        if victims := backends or others:
            self.rng.choice(victims).kill()

    def _fill_disk(self) -> None:
        if not self.home.postgres.is_mount():
            self.skipped[Fault.DISK_FULL.value] = "PostgreSQL is on no disk of its own: mounting one needs root"
            return
        used = shutil.disk_usage(self.home.postgres).used
        _resize(self.home.postgres, str(used + SPARE_BYTES))
        time.sleep(FULL_SECONDS)
        _resize(self.home.postgres, DISK_SIZE)
        postgres.start(self.home.postgres)  # without room for its log PostgreSQL may have ended

    def _lose_queues(self) -> None:
        """The ledger sends its own again; what only a message knew, the provider's events, has to be replayed."""
        restart_emulator(self.home, self.variables, losing=True)
        self.provider.replay()

    def _kill_functions(self) -> None:
        record = load_emulator(self.home)
        process = record.process.process() if record else None
        for child in process.children(recursive=True) if process else []:
            with suppress(psutil.NoSuchProcess):
                child.kill()

    def _mood(self, mood: Mood) -> None:
        self.provider.mood = mood

        def pass_by() -> None:
            self.provider.mood = Mood.WELL

        timer = threading.Timer(MOOD_SECONDS, pass_by)
        timer.start()
        self._timers.append(timer)

    def _send_poison(self) -> None:
        """Unreadable messages, all in one tenant's group."""
        sqs = self.stack.client("sqs")
        url = self.stack.queue_url("upkeep")
        for _ in range(self.poison):
            sqs.send_message(QueueUrl=url, MessageBody=self.rng.choice(POISON), MessageGroupId="poisonous-tenant")
        self.poisoned += self.poison


def restart_emulator(home: Home, variables: Mapping[str, str], *, losing: bool = False) -> None:
    """End the emulator and start it again with the state it wrote; with an older one if it is killed, `losing`."""
    record = load_emulator(home)
    process = record.process.process() if record else None
    if process:
        functions = process.children(recursive=True)
        process.kill() if losing else process.terminate()
        for slow in processes.wait([process], seconds=SAVE_SECONDS):
            slow.kill()
        processes.wait([process], seconds=SAVE_SECONDS)
        processes.end(functions, grace_seconds=0)
    again = emulator.start(home, variables=variables)
    if record and again.endpoint != record.endpoint:
        raise LocalError(f"port {record.port} was taken while the emulator was down: run it again")


def mount_disk(directory: Path) -> str | None:
    """Give a directory a file system of its own, in memory, so that it can run full. Returns why not, if not."""
    directory.mkdir(parents=True, exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_SIZE},mode=0755", "tmpfs", str(directory)]
    try:
        made = subprocess.run(command, check=False, capture_output=True, text=True)
    except OSError as error:
        return str(error)
    return made.stderr.strip() or "mount failed" if made.returncode else None


def unmount_disk(directory: Path) -> None:
    if directory.is_mount():
        subprocess.run(["umount", "--lazy", directory], check=True)


def _resize(directory: Path, size: str) -> None:
    subprocess.run(["mount", "-o", f"remount,size={size}", directory], check=True)


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return ""
