"""The AWS emulator (ministack) as a detached process on a loopback port. Everything about it is behind this module.

It keeps its state in memory: one that was stopped comes back empty, and the next `up` deploys again.
"""

from __future__ import annotations

import http.client
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import psutil

from duecourse.local import processes
from duecourse.local.errors import LocalError
from duecourse.local.processes import ProcessRecord
from duecourse.local.state import EmulatorRecord, Home, load_emulator, save_emulator

if TYPE_CHECKING:
    from collections.abc import Mapping

START_TIMEOUT_SECONDS = 30
HEALTH_TIMEOUT_SECONDS = 5
STOP_GRACE_SECONDS = 2
POLL_SECONDS = 0.02
PORT_ATTEMPTS = 3
"""Another program may take a free port between our choosing it and the emulator's binding it."""

KEPT_VARIABLES = ("PATH", "HOME", "LANG", "LC_ALL", "LC_CTYPE", "LD_LIBRARY_PATH")
"""All that functions may see of the caller's environment: a DATABASE_URL or an AWS profile must not leak into them."""


def start(home: Home, *, port: int | None = None, variables: Mapping[str, str] | None = None) -> EmulatorRecord:
    """Start the emulator, unless the one that `home` remembers runs, on `port` or on a free one.

    `variables` are added to its environment. Raises `LocalError` naming the cause and the fix.
    """
    last = load_emulator(home)
    if last and port in {None, last.port} and _becomes_ready(home, last):
        return last
    stop(home)
    for attempt in range(PORT_ATTEMPTS):
        chosen = _choose_port(asked=port, preferred=last.port if last and attempt == 0 else None)
        record = _launch(home, chosen, variables or {})
        if _becomes_ready(home, record):
            return record
        if not is_port_taken(chosen):
            break
    raise LocalError(f"the AWS emulator ended at once ({_last_line(home.emulator_log)}): see {home.emulator_log}")


def stop(home: Home) -> bool:
    """End the emulator and its function processes, also those that an earlier `kill -9` orphaned.

    Returns whether the emulator was running.
    """
    record = load_emulator(home)
    emulator = record.process.process() if record else None
    processes.end([*([emulator] if emulator else []), *_function_processes(home)], grace_seconds=STOP_GRACE_SECONDS)
    shutil.rmtree(home.temporary, ignore_errors=True)
    return emulator is not None


def end_functions(home: Home) -> None:
    """End every warm function process; the next invocation starts a fresh one."""
    processes.end(_function_processes(home), grace_seconds=STOP_GRACE_SECONDS)


def is_port_taken(port: int) -> bool:
    """Whether something on this machine holds the loopback port."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return True
    return False


def is_healthy(endpoint: str) -> bool:
    """Whether a ministack answers at this URL; another emulator, or the real AWS, does not count."""
    status, body = _get(endpoint, "/_ministack/ready")
    return status == http.HTTPStatus.OK and b"iot_mtls" in body


def answers(endpoint: str) -> bool:
    """Whether anything that speaks HTTP is there, such as LocalStack."""
    return _get(endpoint, "/_localstack/health")[0] != 0


def _get(endpoint: str, path: str) -> tuple[int, bytes]:
    """Status and body, or (0, b"") when there is no answer."""
    parts = urlsplit(endpoint)
    make = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = make(parts.hostname or "", parts.port, timeout=HEALTH_TIMEOUT_SECONDS)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read()
    except (OSError, http.client.HTTPException, ValueError):
        return 0, b""
    finally:
        connection.close()


def _launch(home: Home, port: int, variables: Mapping[str, str]) -> EmulatorRecord:
    home.temporary.mkdir(parents=True, exist_ok=True)
    environment = {name: os.environ[name] for name in KEPT_VARIABLES if name in os.environ} | {
        "GATEWAY_PORT": str(port),
        "BIND_HOST": "127.0.0.1",
        "MINISTACK_HOST": "127.0.0.1",
        "IOT_MTLS_ENABLED": "0",
        "SFTP_ENABLED": "0",
        "LAMBDA_EXECUTOR": "local",
        "TMPDIR": str(home.temporary),
        "TZ": "UTC",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        **variables,
    }
    with home.emulator_log.open("w") as log:
        # A session of its own, so that Ctrl-C at the terminal does not reach it; its working directory holds no
        # package that could be imported by mistake.
        process = subprocess.Popen(
            [sys.executable, "-m", "ministack"],
            cwd=home.temporary,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    record = EmulatorRecord(ProcessRecord.of(process.pid), port)
    save_emulator(home, record)
    process.returncode = 0  # it is meant to outlive us: no ResourceWarning when this object goes
    return record


def _becomes_ready(home: Home, record: EmulatorRecord) -> bool:
    """Wait until it answers; False when it has ended instead."""
    deadline = time.monotonic() + START_TIMEOUT_SECONDS
    while record.process.process():
        if is_healthy(record.endpoint):
            return True
        if time.monotonic() > deadline:
            raise LocalError(
                f"the AWS emulator does not answer at {record.endpoint} after {START_TIMEOUT_SECONDS} s:"
                f" see {home.emulator_log}, then try `duecourse down` and `duecourse up`"
            )
        time.sleep(POLL_SECONDS)
    return False


def _choose_port(*, asked: int | None, preferred: int | None) -> int:
    """The port asked for; else the last one, so that an exported AWS_ENDPOINT_URL stays right; else a free one."""
    if asked is not None:
        if is_port_taken(asked):
            raise LocalError(f"port {asked} is in use: stop what listens there, or leave --port out to get a free one")
        return asked
    if preferred is not None and not is_port_taken(preferred):
        return preferred
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _function_processes(home: Home) -> list[psutil.Process]:
    """Function processes of this home's emulators: their script lies in its temporary directory."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        command = process.info["cmdline"] or []
        if any(argument.startswith(f"{home.temporary}{os.sep}") for argument in command[1:2]):
            found.append(process)
    return found


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    return next((line.strip() for line in reversed(lines) if line.strip()), "it wrote nothing")
