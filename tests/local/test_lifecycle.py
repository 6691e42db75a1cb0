"""`duecourse up`, `down` and `status` with the repository's own template, and recovery from `kill -9`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from sqlalchemy import text

from duecourse.local import deploy, emulator, functions, postgres, stack
from duecourse.local.errors import LocalError
from duecourse.local.stack import Stack
from duecourse.local.state import Home, exclusive, load_emulator
from functions.core.catalog import CATALOG

pytestmark = pytest.mark.slow


@pytest.fixture
def home(place: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Home]:
    """An empty home, whose processes are ended afterwards."""
    monkeypatch.setenv("DUECOURSE_HOME", str(place / "home"))
    monkeypatch.delenv("DATABASE_URL", raising=False)
    made = Home(place / "home")
    yield made
    stack.down(made, purge=True)


def duecourse(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command line as a person would."""
    return subprocess.run(
        [sys.executable, "-W", "error", "-m", "duecourse.cli", *arguments], capture_output=True, text=True, check=False
    )


def count(running: Stack, table: str) -> int:
    engine = running.engine()
    with engine.connect() as connection:
        found = connection.scalar(text(f"SELECT count(*) FROM {table}"))
    engine.dispose()
    return found or 0


def everything(home: Home) -> list[psutil.Process]:
    """Every process that `up` started, with their children."""
    record = load_emulator(home)
    roots = [record.process.process() if record else None, postgres.running(home.postgres)]
    alive = [process for process in roots if process]
    return alive + [child for process in alive for child in process.children(recursive=True)]


def test_a_day_in_the_life_of_the_stack(home: Home) -> None:
    started = time.monotonic()
    up = duecourse("up")
    assert (up.returncode, up.stdout) == (0, ""), up.stderr
    assert "deployed" in up.stderr
    assert time.monotonic() - started < 20

    status = json.loads(duecourse("status", "--json").stdout)
    assert status["running"]
    assert status["stack_status"] == "UPDATE_COMPLETE", "created, then told where the links of mails lead"
    assert {queue["name"].removesuffix(".fifo") for queue in status["queues"]} == set(CATALOG.queues)
    assert "migrate" in status["functions"]

    again = duecourse("up")
    assert again.returncode == 0
    assert "is up to date" in again.stderr

    invoked = duecourse("invoke", "migrate", "--json")
    assert invoked.returncode == 0, invoked.stderr
    assert json.loads(invoked.stdout)["response"]["revision"] >= "0003"
    assert "migrated" in duecourse("logs", "migrate").stdout

    assert duecourse("db", "seed", "--tenants", "2", "--clients", "5").returncode == 0
    shell = duecourse("db", "shell", "-tAc", "SELECT count(*) FROM clients")
    assert (shell.returncode, shell.stdout) == (0, "5\n")

    assert duecourse("down").returncode == 0
    assert everything(home) == []
    assert duecourse("status").returncode == 1
    assert duecourse("down").returncode == 0

    assert duecourse("up").returncode == 0
    assert duecourse("db", "shell", "-tAc", "SELECT count(*) FROM clients").stdout == "5\n"


def test_up_works_after_kill_9_of_everything(home: Home) -> None:
    running = stack.up(home)
    functions.invoke(running, "migrate", {})
    before = running.endpoint
    victims = everything(home)
    assert len(victims) > 3  # the emulator, a function, PostgreSQL and its processes
    for process in victims:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    running = stack.up(home)
    assert running.endpoint == before
    assert not functions.invoke(running, "migrate", {}).failed
    assert count(running, "job_types") > 0


def test_up_works_after_kill_9_of_the_emulator_alone_and_ends_its_orphans(home: Home) -> None:
    running = stack.up(home)
    functions.invoke(running, "migrate", {})
    record = load_emulator(home)
    assert record is not None
    process = record.process.process()
    assert process is not None
    for orphan in process.children():
        orphan.suspend()  # a function in mid-work: it does not notice that the emulator is gone
    orphans = process.children()
    process.kill()
    running = stack.up(home)
    assert not functions.invoke(running, "migrate", {}).failed
    assert orphans
    assert not [orphan for orphan in orphans if orphan.is_running() and orphan.status() != psutil.STATUS_ZOMBIE]


def test_a_new_database_is_migrated_though_the_code_is_the_same(home: Home) -> None:
    stack.up(home)
    postgres.stop(home.postgres)
    running = stack.up(home)
    engine = running.engine()
    with engine.begin() as connection:
        connection.execute(text("DROP SCHEMA public CASCADE; CREATE SCHEMA public"))
    engine.dispose()
    running = stack.up(home)
    assert count(running, "job_types") > 0


def test_a_database_and_an_emulator_of_ones_own_are_used_and_left_alone(
    home: Home, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = Home(place / "own")
    url = postgres.start(own.postgres)
    record = emulator.start(own)
    monkeypatch.setenv("DATABASE_URL", url)
    monkeypatch.setenv("AWS_ENDPOINT_URL", record.endpoint)
    try:
        running = stack.up(home)
        assert (running.endpoint, running.database_url) == (record.endpoint, url)
        assert everything(home) == []
        stack.down(home)
        assert record.process.process()
        assert postgres.running(own.postgres)
        assert count(stack.current(home), "job_types") > 0
    finally:
        emulator.stop(own)
        postgres.stop(own.postgres)


def test_another_database_reaches_functions_that_are_already_warm(
    home: Home, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    functions.invoke(stack.up(home), "migrate", {})
    other = place / "other"
    url = postgres.start(other)
    monkeypatch.setenv("DATABASE_URL", url)
    try:
        running = stack.up(home)
        assert count(running, "job_types") > 0
        postgres.stop(home.postgres)
        assert not functions.invoke(running, "migrate", {}).failed
    finally:
        postgres.stop(other)


def test_a_second_up_at_the_same_time_is_told_so(home: Home) -> None:
    with exclusive(home):
        second = duecourse("up")
    assert second.returncode == 1
    assert second.stderr.startswith("Error: another `duecourse up` or `duecourse down` is at work")


def test_a_template_that_cloudformation_refuses_is_one_sentence(
    home: Home, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = place / "broken"
    (broken / "infra").mkdir(parents=True)
    monkeypatch.setattr(stack, "REPOSITORY", broken)
    (broken / "template.yaml").write_text(
        "Resources: {Queues: {Type: 'AWS::CloudFormation::Stack', Properties: {TemplateURL: infra/queues.yaml}}}"
    )
    (broken / "infra/queues.yaml").write_text(
        "Resources: {Inner: {Type: 'Custom::Thing', Properties: {ServiceToken: nobody}}}"
    )
    with pytest.raises(
        LocalError, match=r"^CloudFormation could not make (Queues|Inner) \(.+\): correct the template"
    ) as caught:
        stack.up(home)
    assert "\n" not in str(caught.value)
    (broken / "infra/queues.yaml").write_text("Resources: {Inner: {Type: 'AWS::SQS::Queue'}}")
    stack.up(home)
    found = deploy.describe(stack.current_endpoint(home))
    assert found is not None
    assert found["StackStatus"] == "CREATE_COMPLETE"


# A shell has what it starts in the background ignore Ctrl-C, and these tests with it: their child shall hear it.
AS_IN_A_TERMINAL = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
from duecourse.cli import main
main()
"""


def test_ctrl_c_during_up_leaves_nothing_that_up_cannot_finish(home: Home) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", AS_IN_A_TERMINAL, "up"], stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    with process:
        deadline = time.monotonic() + 20
        while not home.state_file.exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        os.killpg(process.pid, 2)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Interrupted" in said
    assert "Traceback" not in said
    assert count(stack.up(home), "job_types") > 0
