"""What is in the way on a machine: one sentence with the cause and the fix, and exit code 1."""

from __future__ import annotations

import shutil
import socket
import subprocess
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from duecourse.cli import app
from duecourse.local import aws, emulator, functions, postgres, stack
from duecourse.local.errors import LocalError, NotRunning
from duecourse.local.processes import ProcessRecord
from duecourse.local.state import EmulatorRecord, Home, save_emulator
from functions.db.settings import from_url

Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    monkeypatch.setenv("DUECOURSE_HOME", str(tmp_path))
    monkeypatch.delenv("DATABASE_URL", raising=False)
    return Home(tmp_path)


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


def test_a_full_disk(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**9, 10**9 - 10**8, 10**8))
    with pytest.raises(
        LocalError, match=r"^only 100 MB are free on the disk of .* PostgreSQL needs 500: free some space"
    ):
        postgres.start(home.postgres)


def test_a_port_in_use(home: Home, taken_port: int) -> None:
    with pytest.raises(LocalError, match=f"^port {taken_port} is in use: stop what listens there, or leave --port out"):
        emulator.start(home, port=taken_port)


def test_a_last_port_that_is_taken_by_now_is_not_insisted_on(taken_port: int) -> None:
    assert emulator._choose_port(asked=None, preferred=taken_port) != taken_port


def test_nothing_runs(home: Home) -> None:
    with pytest.raises(NotRunning, match=r"^the AWS emulator is not running: start it with `duecourse up`$"):
        stack.current(home)
    with pytest.raises(NotRunning, match=r"^PostgreSQL is not running: start it with `duecourse up`"):
        stack.current_database_url(home)


def test_a_database_that_cannot_be_reached() -> None:
    with pytest.raises(LocalError, match=r"^the database 'db' cannot be used \(.*\): correct DATABASE_URL"):
        stack.is_migrated(from_url("postgresql://me@127.0.0.1:1/db"))


def test_an_endpoint_that_is_no_emulator_of_the_right_kind(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1/")
    with pytest.raises(LocalError, match=r"^no ministack answers at AWS_ENDPOINT_URL http://127\.0\.0\.1:1: start it"):
        stack.start_emulator(home, None)
    with pytest.raises(NotRunning, match=r"^nothing answers at http://127\.0\.0\.1:1"):
        stack.current_endpoint(home)


def test_an_endpoint_that_is_no_url() -> None:
    with pytest.raises(LocalError, match=r"^AWS_ENDPOINT_URL must be a URL such as"):
        aws.client("localhost:4566", "sqs")


def test_exported_addresses_of_our_own_stack_do_not_count_as_somebody_elses(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_emulator(home, EmulatorRecord(ProcessRecord(1, 0.0), 4999))
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:4999")
    monkeypatch.setenv("DATABASE_URL", f"postgresql://postgres@/duecourse?host={home.postgres}")
    assert not stack.is_own_database(home)
    with pytest.raises(NotRunning, match="the AWS emulator is not running"):
        stack.current_endpoint(home)
    monkeypatch.setenv("DATABASE_URL", f"postgresql://postgres@/another?host={home.postgres}")
    assert stack.is_own_database(home)


@pytest.mark.parametrize(
    ("source", "message"),
    [("missing.json", "cannot be read (No such file or directory)"), ("broken.json", "is not JSON")],
)
def test_an_event_that_cannot_be_used(tmp_path: Path, source: str, message: str) -> None:
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(LocalError) as caught:
        functions.read_event("relay", str(tmp_path / source))
    assert message in str(caught.value)


def test_the_sample_event_is_the_default() -> None:
    assert functions.read_event("relay", None)["source"] == "aws.events"
    assert functions.read_event("duecourse-local-relay", None)["source"] == "aws.events"
    assert functions.read_event("of-no-sample", None) == {}


def test_the_command_line_says_it_in_one_line_and_exits_with_1(home: Home) -> None:
    result = CliRunner().invoke(app, ["invoke", "relay"])
    assert result.exit_code == 1
    assert result.stderr == "Error: the AWS emulator is not running: start it with `duecourse up`\n"
    assert result.stdout == ""


def test_an_unforeseen_error_is_one_line_too(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stack, "current", lambda: 1 / 0)
    result = CliRunner().invoke(app, ["invoke", "relay"])
    assert result.exit_code == 1
    assert result.stderr == "Error: ZeroDivisionError: division by zero: `duecourse --debug …` shows where\n"


def test_debug_shows_the_traceback(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DUECOURSE_DEBUG", "")
    monkeypatch.setattr(stack, "current", lambda: 1 / 0)
    result = CliRunner().invoke(app, ["--debug", "invoke", "relay"])
    assert isinstance(result.exception, ZeroDivisionError)


def test_ctrl_c_says_what_keeps_running(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(stack, "current", interrupted)
    result = CliRunner().invoke(app, ["invoke", "relay"])
    assert result.exit_code == 130
    assert "`duecourse down` stops it" in result.stderr


def test_usage_errors_exit_with_2() -> None:
    assert CliRunner().invoke(app, ["invoke"]).exit_code == 2
    assert CliRunner().invoke(app, ["up", "--port", "99999"]).exit_code == 2
    assert CliRunner().invoke(app, ["nonsense"]).exit_code == 2


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["up"],
        ["down"],
        ["status"],
        ["demo"],
        ["invoke"],
        ["logs"],
        ["db"],
        ["db", "migrate"],
        ["db", "seed"],
        ["db", "shell"],
    ],
)
def test_every_command_has_help_with_an_example(arguments: list[str]) -> None:
    result = CliRunner().invoke(app, [*arguments, "--help"])
    assert result.exit_code == 0
    assert f"duecourse {' '.join(arguments)}".strip() in " ".join(result.stdout.split())


def test_status_of_nothing_is_json_and_exit_code_1(home: Home) -> None:
    result = CliRunner().invoke(app, ["status", "--json"])
    assert result.exit_code == 1
    assert '"running": false' in result.stdout
    assert "start it with `duecourse up`" in result.stderr


def test_exports_can_be_evaluated_by_a_shell() -> None:
    api = "http://127.0.0.1:1/_aws/execute-api/1/$default"
    lines = aws.shell_exports("http://127.0.0.1:1", "postgresql://x@/d?host=/o'brien/a b", api, "dc_x")
    script = f'{lines}\necho "$AWS_ENDPOINT_URL $DATABASE_URL $DUECOURSE_API $DUECOURSE_TOKEN"'
    shown = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True)
    assert shown.stdout == f"http://127.0.0.1:1 postgresql://x@/d?host=/o'brien/a b {api} dc_x\n"


def test_what_is_not_there_is_not_exported() -> None:
    assert "DUECOURSE" not in aws.shell_exports("http://127.0.0.1:1", "postgresql://x@/d")


def test_passwords_are_not_shown() -> None:
    assert stack.without_password("postgresql://me:p:w@db:5432/d") == "postgresql://me:***@db:5432/d"
    assert stack.without_password("postgresql://me@db/d") == "postgresql://me@db/d"
    embedded = "postgresql://postgres@/duecourse?host=/home/me/.duecourse/postgres"
    assert stack.without_password(embedded) == embedded
