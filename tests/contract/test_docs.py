"""The documents say what is so: links lead somewhere, commands exist, snippets run, tables are those of the code."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
import typer.main
from sqlalchemy import Engine
from typer.core import TyperGroup

from duecourse.cli import app
from duecourse.lint_template import REPOSITORY, parse
from functions.core.catalog import CATALOG
from functions.core.job import TRANSITIONS
from functions.db.settings import DatabaseSettings, connection_url
from tests.contract.documents import anchors, blocks, commands, documents, inline, links, read, table
from tests.contract.test_template import HANDLERS
from tests.harness import Queues

README, CONTRIBUTING = Path("README.md"), Path("CONTRIBUTING.md")
ARCHITECTURE, DEPLOY = Path("docs/architecture.md"), Path("docs/deploy.md")
RUNBOOKS, DECISIONS = Path("docs/runbooks"), Path("docs/decisions")
EXPECTED_RUNBOOKS = {
    "bad-deploy",
    "conservation",
    "database-away",
    "dead-letter-queue",
    "function-errors",
    "heartbeat",
    "mail",
    "migration-failed",
    "outbox",
    "poison-message",
    "redrive",
    "restore",
    "schedule-did-not-run",
    "stuck-queue",
    "tenant-floods",
}
OF_THE_EXAMPLE = {"functions/upkeep/forget_rejected.py", "tests/sql/test_forget_rejected.py"}
NO_CACHE = ["-p", "no:cacheprovider"]
PLACEHOLDER = re.compile(r"/(?!README)[A-Z]{2,}\b")
PATH = re.compile(r"(?:\.ci|docs|duecourse|events|functions|infra|tests)/[\w./-]*")
EACH = pytest.mark.parametrize("document", documents(), ids=str)
DECIDED = sorted(path for path in documents() if path.parent == DECISIONS and path.stem != "README")
EACH_DECISION = pytest.mark.parametrize("document", DECIDED, ids=str)


def snippets(language: str) -> list[Any]:
    """The blocks to be run as they stand; those of CONTRIBUTING.md are files, and have their own test."""
    return [
        pytest.param(code, id=f"{document}-{number}")
        for document in documents()
        if document != CONTRIBUTING
        for number, code in enumerate(blocks(document, language), start=1)
    ]


@EACH
def test_every_link_leads_somewhere(document: Path) -> None:
    for target in links(document):
        path, _, anchor = target.partition("#")
        there = (REPOSITORY / document.parent / path).resolve() if path else REPOSITORY / document
        assert there.exists(), target
        if anchor:
            assert anchor in anchors(there.relative_to(REPOSITORY)), target


@EACH
def test_who_asks_sqs_by_the_aws_cli_is_told_the_version_or_the_endpoint(document: Path) -> None:
    """Version 1 ignores AWS_ENDPOINT_URL for SQS: what was meant for the local stack would reach a real account."""
    calls = [call for call in commands(document, "aws") if call[:1] == ["sqs"]]
    says = read(RUNBOOKS / "README.md" if document.parent == RUNBOOKS else document)
    if not re.search(r"AWS\s+CLI\b[^.]{0,40}\bversion 2", says):
        assert [call for call in calls if "--endpoint-url" not in call] == []


@EACH
def test_every_file_that_is_named_exists(document: Path) -> None:
    named = {code for code in inline(document) if PATH.fullmatch(code) and not PLACEHOLDER.search(code)}
    assert [path for path in sorted(named - OF_THE_EXAMPLE) if not (REPOSITORY / path).exists()] == []


@EACH
def test_every_make_target_exists(document: Path) -> None:
    told = subprocess.run(["make", "help"], cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
    targets = set(re.findall(r"^  make (\S+)", told, re.MULTILINE))
    assert {"demo", "test", "check", "build"} <= targets
    assert {words[0] for words in commands(document, "make") if words} <= targets


@EACH
def test_every_command_exists_with_its_options(document: Path) -> None:
    for words in commands(document, "duecourse"):
        called: Any = typer.main.get_command(app)
        options = {"--help"}
        rest = [word for word in words if word != "…"]
        while True:
            options |= {name for parameter in called.params for name in parameter.opts}
            if not isinstance(called, TyperGroup) or not rest:
                break
            if not rest[0].startswith("-"):
                assert rest[0] in called.commands, words
                called = called.commands[rest[0]]
            rest = rest[1:]
        if called.name == "shell":  # the rest is psql's
            continue
        assert {word for word in rest if re.match(r"--?[a-z]", word)} <= options, words
        if called.name in {"invoke", "logs"}:
            function = next(word for word in rest if not word.startswith("-"))
            assert function in HANDLERS or function.isupper(), words


def test_every_runbook_exists_and_is_listed() -> None:
    found = {path.stem for path in (REPOSITORY / RUNBOOKS).glob("*.md")} - {"README"}
    assert found == EXPECTED_RUNBOOKS
    assert {f"{name}.md" for name in found} <= set(links(RUNBOOKS / "README.md"))


def test_every_decision_is_numbered_and_listed() -> None:
    assert [int(path.name[:4]) for path in DECIDED] == list(range(1, len(DECIDED) + 1))
    assert links(DECISIONS / "README.md") == [path.name for path in DECIDED]


@EACH_DECISION
def test_a_decision_is_short_and_complete(document: Path) -> None:
    text = read(document)
    assert re.findall(r"^## (.+)$", text, re.MULTILINE) == ["Context", "Decision", "Measurement", "Consequences"]
    assert text.startswith(f"# {int(document.name[:4])}. ")
    assert text.count("\n") <= 40


def test_the_readme_is_short() -> None:
    assert read(README).count("\n") <= 150


def test_the_moves_of_a_job_are_those_of_the_code() -> None:
    told = {row[0].strip("`"): set(re.findall(r"`(\w+)`", row[1])) for row in table(ARCHITECTURE, "Life of a job")}
    assert told == {str(state): {str(target) for target in targets} for state, targets in TRANSITIONS.items()}


def test_the_queues_and_schedules_are_those_of_the_catalogue() -> None:
    queues, schedules = table(ARCHITECTURE, "Queues and schedules"), table(ARCHITECTURE, "Queues and schedules", 1)
    told = {re.findall(r"`(\S+)`", row[0])[0]: set(re.findall(r"`(\S+)`", row[1])) for row in queues}
    types = CATALOG.job_types.values()
    assert told == {queue: {row.name for row in types if row.queue == queue} for queue in CATALOG.queues}
    assert {row[0].strip("`"): row[1:] for row in schedules} == {
        row.name: [f"{row.local_time:%H:%M}", f"`{row.job_type}`", f"{row.catch_up.total_seconds() / 3600:g} h"]
        for row in CATALOG.schedules.values()
    }


def test_every_metric_is_told() -> None:
    code = "".join(path.read_text() for path in (REPOSITORY / "functions").rglob("*.py"))
    metrics = set(re.findall(r"tally\.add\(\s*\"(\w+)\"", code))
    assert metrics
    assert metrics <= set(inline(ARCHITECTURE))


def test_the_parameters_are_those_of_the_template() -> None:
    told = {name for row in table(DEPLOY, "Parameters") for name in re.findall(r"`(\w+)`", row[0])}
    assert told == set(parse(REPOSITORY / "template.yaml")["Parameters"])


@pytest.mark.sql
@pytest.mark.parametrize("code", snippets("python"))
def test_a_python_snippet_runs(code: str, database: Engine, queues: Queues) -> None:
    exec(compile(code, "snippet", "exec"), {"__name__": "__main__"})


@pytest.mark.sql
@pytest.mark.parametrize("code", snippets("sql"))
def test_an_sql_snippet_runs(code: str, database: Engine) -> None:
    with database.connect() as connection:
        connection.exec_driver_sql(code)
        connection.rollback()


@pytest.mark.sql
def test_the_worked_example_passes_its_own_test(tmp_path: Path, postgres: DatabaseSettings) -> None:
    for folder in ("duecourse", "functions", "infra", "tests"):
        shutil.copytree(REPOSITORY / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(REPOSITORY / "pyproject.toml", tmp_path)
    contract, job, row, test, _migration = blocks(CONTRIBUTING, "python")
    payloads, catalog = tmp_path / "functions/upkeep/payloads.py", tmp_path / "functions/core/catalog.py"
    payloads.write_text(f"{payloads.read_text()}\n\n{contract}")
    indented = textwrap.indent(row.rstrip() + ",\n", " " * 8)
    catalog.write_text(catalog.read_text().replace("    job_types=(\n", f"    job_types=(\n{indented}"))
    for path, text in zip(sorted(OF_THE_EXAMPLE), (job, test), strict=True):
        (tmp_path / path).write_text(text)
    environment = os.environ | {"DATABASE_URL": connection_url(postgres), "PYTHONPATH": str(tmp_path)}
    for tool in (["ruff", "check", "functions", *OF_THE_EXAMPLE], ["pytest", *NO_CACHE, max(OF_THE_EXAMPLE)]):
        command = [sys.executable, "-m", *tool]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout
