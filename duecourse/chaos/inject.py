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
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import psutil
from sqlalchemy import TextClause, text

from duecourse.chaos import misbehave, rollout, slow_sqs
from duecourse.chaos.applications import Applications, pick
from duecourse.chaos.plan import Fault
from duecourse.chaos.provider import Mood, Provider
from duecourse.local import emulator, postgres, processes
from duecourse.local.errors import LocalError
from duecourse.local.stack import Stack
from duecourse.local.state import Home, load_emulator
from functions.core.catalog import CATALOG
from functions.db.engine import is_conflict, is_outage

DOWN_SECONDS = 5.0
FULL_SECONDS = 5.0
FROZEN_SECONDS = 8.0
READ_ONLY_SECONDS = 5.0
MOOD_SECONDS = 6.0
RELEASE_SECONDS = 4.0
"""From one release to the next."""
RETRY_SECONDS = 0.3
SAVE_SECONDS = 60.0
"""How long the emulator may take to write its state when it ends."""
DISK_SIZE = "4g"
"""Of the memory file system that PostgreSQL gets; nothing of it is used before it is filled."""
SPARE_BYTES = 256 * 1024
READ_ONLY = (text("ALTER SYSTEM SET default_transaction_read_only = on"), text("SELECT pg_reload_conf()"))
WRITABLE = (text("ALTER SYSTEM RESET default_transaction_read_only"), text("SELECT pg_reload_conf()"))
MOVE = (text("UPDATE job_types SET queue = :queue WHERE name = :type"),)
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
    switches: Path
    """Directory of the faults that last a while (saboteur.Spec.switches)."""
    applications: Applications
    faults: Counter[str] = field(default_factory=Counter)
    skipped: dict[str, str] = field(default_factory=dict)
    """Faults that this machine does not allow, with the reason."""
    poisoned: int = 0
    _passing: list[threading.Thread] = field(default_factory=list)
    _broken: list[Exception] = field(default_factory=list)

    def bring_about(self, fault: Fault) -> None:
        """Do it, and return when what was broken is mended, unless that passes by itself."""
        action: Mapping[Fault, Callable[[], None]] = {
            Fault.POSTGRES_KILLED: self._kill_postgres,
            Fault.POSTGRES_STOPPED: lambda: self._stop_postgres(DOWN_SECONDS),
            Fault.POSTGRES_RESTARTED: lambda: self._stop_postgres(0),
            Fault.POSTGRES_BACKEND_KILLED: self._kill_backend,
            Fault.POSTGRES_FROZEN: self._freeze_postgres,
            Fault.POSTGRES_READ_ONLY: self._demote_postgres,
            Fault.DISK_FULL: self._fill_disk,
            Fault.EMULATOR_RESTARTED: lambda: restart_emulator(self.home, self.variables),
            Fault.QUEUES_LOST: self._lose_queues,
            Fault.FUNCTIONS_KILLED: self._kill_functions,
            Fault.SQS_SLOW: lambda: self._switch(slow_sqs.SWITCH),
            Fault.MAIL_THROTTLED: lambda: self._mood(Mood.THROTTLING),
            Fault.MAIL_BREAKS: lambda: self._mood(Mood.BREAKING),
            Fault.POISON: self._send_poison,
            Fault.WORKER_STALLED: lambda: self.crew.send_signal(signal.SIGUSR1),
            Fault.ORDERS_HELD_OPEN: self._hold_orders_open,
            Fault.ROWS_LOCKED: lambda: self._meanwhile(self.applications.locks),
            Fault.IDLE_IN_TRANSACTION: lambda: self._meanwhile(self.applications.idle),
            Fault.HANDLERS_DEADLOCK: lambda: self._switch(misbehave.DEADLOCKS),
            Fault.ROLLOUT: lambda: self._meanwhile(self._roll_out),
        }
        action[fault]()
        if fault.value not in self.skipped:
            self.faults[fault.value] += 1

    def wait(self) -> None:
        """Until all that passes by itself has passed."""
        for thread in self._passing:
            thread.join()
        if self._broken:
            raise self._broken[0]

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

    def _freeze_postgres(self) -> None:
        """The kernel goes on accepting connections and taking what is written to them."""
        server = postgres.running(self.home.postgres)
        frozen = [server, *server.children(recursive=True)] if server else []
        for process in frozen:
            with suppress(psutil.NoSuchProcess):
                process.suspend()
        time.sleep(FROZEN_SECONDS)
        for process in reversed(frozen):
            with suppress(psutil.NoSuchProcess):
                process.resume()

    def _demote_postgres(self) -> None:
        """As a writer is that another one has taken over from; then it is the writer again."""
        self._insist(READ_ONLY)

        def pass_by() -> None:
            time.sleep(READ_ONLY_SECONDS)
            self._insist(WRITABLE)

        self._meanwhile(pass_by)

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
            time.sleep(MOOD_SECONDS)
            self.provider.mood = Mood.WELL

        self._meanwhile(pass_by)

    def _switch(self, name: str) -> None:
        """Switch a fault of the processes on for a while."""
        switch = self.switches / name
        switch.touch()

        def pass_by() -> None:
            time.sleep(MOOD_SECONDS)
            switch.unlink(missing_ok=True)

        self._meanwhile(pass_by)

    def _hold_orders_open(self) -> None:
        """Two programs want the same keys, in opposite orders; one of them commits."""
        wanted, held = pick(self.applications.load)
        commits = self.rng.random() < 0.5
        for some, commit in ((wanted, commits), (wanted[::-1], not commits)):
            self._meanwhile(partial(self.applications.orders, some, held, commit=commit))

    def _roll_out(self) -> None:
        """First half of the processes know a job type; then for half of them, and the ledger, its queue is another."""
        for switch, queue in ((rollout.ADDED, None), (rollout.MOVED, rollout.OTHER_QUEUE)):
            (self.switches / switch).touch()
            if queue:
                self._insist(MOVE, {"type": rollout.JOB_TYPE, "queue": queue})
            time.sleep(RELEASE_SECONDS)
            (self.switches / switch).unlink()
        self._insist(MOVE, {"type": rollout.JOB_TYPE, "queue": CATALOG.job_type(rollout.JOB_TYPE).queue})

    def _meanwhile(self, work: Callable[[], None]) -> None:
        """Do it beside whatever comes next. What it raises ends the run."""

        def guarded() -> None:
            try:
                work()
            except Exception as error:  # noqa: BLE001 - told by wait(), in the thread that the run belongs to
                self._broken.append(error)

        thread = threading.Thread(target=guarded, daemon=True)
        thread.start()
        self._passing.append(thread)

    def _insist(self, statements: Sequence[TextClause], values: Mapping[str, str] | None = None) -> None:
        """Execute statements that belong to no transaction, through every other fault."""
        engine = self.stack.engine()
        while True:
            try:
                with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
                    for statement in statements:
                        connection.execute(statement, values or {})
                break
            except Exception as error:
                if not (is_outage(error) or is_conflict(error)):
                    raise
                time.sleep(RETRY_SECONDS)
        engine.dispose()

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
