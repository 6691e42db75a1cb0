"""The state file and the processes it names."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from duecourse.local import processes
from duecourse.local.errors import LocalError
from duecourse.local.processes import ProcessRecord
from duecourse.local.state import EmulatorRecord, Home, default_home, exclusive, load_emulator, save_emulator


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "state")


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    """A process that lives until it is ended, and is then left a zombie, as nobody waits for it."""
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    yield process
    process.kill()
    process.wait()


def test_what_is_saved_is_loaded(home: Home) -> None:
    record = EmulatorRecord(ProcessRecord(1, 2.5), 4566)
    save_emulator(home, record)
    assert load_emulator(home) == record
    assert record.endpoint == "http://127.0.0.1:4566"
    assert [path.name for path in home.directory.iterdir()] == ["state.json"]


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"emulator": 1}', '{"emulator": {"process": {"pid": 1}, "port": 1}}']
)
def test_a_broken_state_file_counts_as_none(home: Home, content: str) -> None:
    home.directory.mkdir()
    home.state_file.write_text(content)
    assert load_emulator(home) is None


def test_no_state_file_counts_as_none(home: Home) -> None:
    assert load_emulator(home) is None


def test_the_state_directory_can_be_put_elsewhere(tmp_path: Path) -> None:
    assert default_home({"DUECOURSE_HOME": str(tmp_path)}).directory == tmp_path
    assert default_home({}).directory.name == ".duecourse"


def test_clearing_leaves_what_others_keep_there(home: Home) -> None:
    (home.directory / "uv").mkdir(parents=True)
    home.postgres.mkdir()
    home.demo_result.write_text("{}")
    home.clear()
    assert [path.name for path in home.directory.iterdir()] == ["uv"]


def test_only_one_up_or_down_at_a_time(home: Home) -> None:
    with exclusive(home), pytest.raises(LocalError, match="another `duecourse up`"), exclusive(home):
        pass
    with exclusive(home):
        pass


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_directory_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(LocalError, match="cannot be written"), exclusive(Home(tmp_path / "state")):
        pass


def test_a_process_is_recognised_until_it_ends(sleeper: subprocess.Popen[bytes]) -> None:
    record = ProcessRecord.of(sleeper.pid)
    assert record.process() is not None
    sleeper.kill()
    assert processes.wait([psutil.Process(sleeper.pid)], seconds=5) == []
    assert record.process() is None


def test_a_later_process_with_the_same_id_is_not_taken_for_ours(sleeper: subprocess.Popen[bytes]) -> None:
    created = psutil.Process(sleeper.pid).create_time()
    assert ProcessRecord(sleeper.pid, created - 3600).process() is None


def test_ending_a_process_that_ignores_the_request_takes_the_grace(sleeper: subprocess.Popen[bytes]) -> None:
    stubborn = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import signal, time; signal.signal(15, signal.SIG_IGN); print(flush=True); time.sleep(60)",
        ],
        stdout=subprocess.PIPE,
    )
    with stubborn:
        assert stubborn.stdout is not None
        stubborn.stdout.readline()
        processes.end([psutil.Process(stubborn.pid), psutil.Process(sleeper.pid)], grace_seconds=0.3)
        assert stubborn.wait(5) == -9
    assert sleeper.wait(5) == -15
