"""The injector brings every fault about, mends it, and does not hide what failed beside the run."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from time import monotonic
from typing import Any

import psutil
import pytest

from duecourse.chaos import inject, slow_sqs
from duecourse.chaos.inject import Injector
from duecourse.chaos.plan import Fault
from duecourse.local import postgres

STOPPED = psutil.STATUS_STOPPED


@pytest.fixture
def injector(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Injector:
    monkeypatch.setattr(inject, "MOOD_SECONDS", 0.2)
    nothing: Any = None
    home: Any = type("Home", (), {"postgres": tmp_path / "postgres"})
    return Injector(home, nothing, nothing, {}, nothing, random.Random(1), 0, tmp_path, nothing)


@pytest.fixture
def server() -> Iterator[psutil.Process]:
    """A process with a child, as PostgreSQL is."""
    child = "import time; print('up', flush=True); time.sleep(60)"
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield psutil.Process(process.pid)
        for child_process in psutil.Process(process.pid).children():
            child_process.kill()
        process.kill()


def comes_to(server: psutil.Process, state: Callable[[str], bool], *, seconds: float = 10) -> bool:
    """Whether the server and its child both come to the state: one that runs on another core takes a signal later."""
    [child] = server.children()
    until = monotonic() + seconds
    while monotonic() < until:
        if state(server.status()) and state(child.status()):
            return True
    return False


def test_a_fault_that_lasts_a_while_passes_by_itself(injector: Injector) -> None:
    injector.bring_about(Fault.SQS_SLOW)
    assert (injector.switches / slow_sqs.SWITCH).exists()
    injector.wait()
    assert not (injector.switches / slow_sqs.SWITCH).exists()
    assert injector.faults == {Fault.SQS_SLOW.value: 1}


def test_what_fails_beside_the_run_fails_the_run(injector: Injector, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: object) -> None:
        raise LookupError("no such queue")

    monkeypatch.setattr(Injector, "_roll_out", fail)
    injector.bring_about(Fault.ROLLOUT)
    with pytest.raises(LookupError, match="no such queue"):
        injector.wait()


def test_a_frozen_server_is_thawed_with_its_children(
    injector: Injector, server: psutil.Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    frozen: list[bool] = []
    monkeypatch.setattr(postgres, "running", lambda _: server)
    monkeypatch.setattr("time.sleep", lambda _: frozen.append(comes_to(server, lambda status: status == STOPPED)))
    injector.bring_about(Fault.POSTGRES_FROZEN)
    assert frozen == [True]
    assert comes_to(server, lambda status: status != STOPPED)
