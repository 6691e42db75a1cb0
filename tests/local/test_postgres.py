"""The embedded PostgreSQL comes up again whatever was done to it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from sqlalchemy import text

from duecourse.local import postgres
from duecourse.local.errors import LocalError
from functions.db.engine import make_engine
from functions.db.settings import from_url


@pytest.fixture
def data(place: Path) -> Iterator[Path]:
    """A data directory whose server is stopped afterwards."""
    directory = place / "postgres"
    yield directory
    postgres.stop(directory)


def query(data: Path, statement: str) -> Any:
    engine = make_engine(from_url(postgres.url(data)))
    try:
        with engine.begin() as connection:
            result = connection.execute(text(statement))
            return result.scalar() if result.returns_rows else None
    finally:
        engine.dispose()


def kill(data: Path) -> None:
    server = postgres.running(data)
    assert server is not None
    server.kill()


def test_it_outlives_the_command_that_started_it_and_is_not_started_twice(data: Path) -> None:
    program = (
        "import sys, pathlib; from duecourse.local import postgres; print(postgres.start(pathlib.Path(sys.argv[1])))"
    )
    url = subprocess.run(
        [sys.executable, "-W", "error", "-c", program, data], check=True, capture_output=True, text=True
    )
    assert url.stderr == ""
    server = postgres.running(data)
    assert server is not None
    assert postgres.start(data) == url.stdout.strip() == postgres.url(data)
    assert postgres.running(data) == server


def test_it_is_durable(data: Path) -> None:
    postgres.start(data)
    assert (
        query(data, "SHOW fsync")
        == query(data, "SHOW synchronous_commit")
        == query(data, "SHOW full_page_writes")
        == "on"
    )


def test_what_was_committed_is_there_after_kill_9(data: Path) -> None:
    postgres.start(data)
    query(data, "CREATE TABLE kept AS SELECT 42 AS answer")
    kill(data)
    postgres.start(data)
    assert query(data, "SELECT answer FROM kept") == 42


def test_a_pid_file_that_names_another_program_is_not_taken_for_a_server(data: Path) -> None:
    postgres.start(data)
    postgres.stop(data)
    lines = [os.getpid(), data, 1700000000, 5432, data, "", "  1 1", "ready"]
    for name in ("postmaster.pid", ".s.PGSQL.5432.lock"):
        (data / name).write_text("\n".join(map(str, lines)) + "\n")
    assert postgres.running(data) is None
    postgres.start(data)
    assert query(data, "SELECT 1") == 1


def test_an_interrupted_first_start_is_begun_again(data: Path) -> None:
    data.mkdir()
    (data / "PG_VERSION").write_text("18\n")
    postgres.start(data)
    assert query(data, "SELECT current_database()") == "duecourse"


def test_a_directory_that_was_removed_is_made_anew_in_the_same_process(data: Path) -> None:
    postgres.start(data)
    postgres.stop(data)
    shutil.rmtree(data)
    postgres.start(data)
    assert query(data, "SELECT 1") == 1


def test_a_data_directory_of_another_version_is_one_sentence(data: Path) -> None:
    data.mkdir()
    (data / "PG_VERSION").write_text("9\n")
    (data / postgres.INITIALISED).touch()
    with pytest.raises(LocalError, match=r"is of another PostgreSQL .*: remove it with `duecourse down --purge`$"):
        postgres.start(data)


def test_a_broken_data_directory_is_one_sentence_with_the_servers_own_words(data: Path) -> None:
    postgres.start(data)
    postgres.stop(data)
    (data / "global" / "pg_control").unlink()
    with pytest.raises(LocalError, match=r"^PostgreSQL did not start \(.*pg_control.*\): see .*, or start afresh"):
        postgres.start(data)


def test_a_path_too_long_for_a_socket_works(place: Path) -> None:
    data = place / ("x" * 60) / ("y" * 60)
    try:
        postgres.start(data)
        assert query(data, "SELECT 1") == 1
    finally:
        postgres.stop(data)


def test_signs_that_urls_treat_specially_work_in_the_path(place: Path) -> None:
    data = place / "a+b%20c"
    try:
        postgres.start(data)
        assert query(data, "SELECT 1") == 1
    finally:
        postgres.stop(data)


def test_a_path_that_shells_would_split_is_one_sentence(place: Path) -> None:
    with pytest.raises(LocalError, match=r"^PostgreSQL cannot run in .*/my work, because of ' ' in that path: put the"):
        postgres.start(place / "my work")


def test_stopping_what_does_not_run_is_no_error(data: Path) -> None:
    assert postgres.stop(data) is False


def test_a_server_of_the_name_postgres_elsewhere_is_left_alone(data: Path, place: Path) -> None:
    other = place / "other"
    postgres.start(other)
    try:
        postgres.start(data)
        kill(data)
        postgres.start(data)
        assert psutil.Process(int((other / "postmaster.pid").read_text().splitlines()[0])).is_running()
        assert query(other, "SELECT 1") == 1
    finally:
        postgres.stop(other)
