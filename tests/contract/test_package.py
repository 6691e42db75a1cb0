"""What is shipped to Lambda, and the sample events that call it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tomllib
from datetime import UTC, datetime
from typing import Any

import pytest

from duecourse.lint_template import REPOSITORY, parse
from functions.core.catalog import CATALOG
from functions.core.resolve import resolve
from functions.pipeline.envelope import parse as parse_envelope
from functions.pipeline.schedule import read_event
from tests.contract.test_template import HANDLERS, SCHEDULES

LOCK = REPOSITORY / "functions" / "requirements.txt"
WORKERS = [suffix for suffix in HANDLERS if suffix.endswith("-worker")]


def normalised(requirement: str) -> str:
    """A requirement's name as PyPI compares it."""
    name = re.split(r"[\[<>=!~; ]", requirement, maxsplit=1)[0]
    return re.sub(r"[-_.]+", "-", name).lower()


def locked() -> set[str]:
    return {normalised(line) for line in LOCK.read_text().splitlines() if re.match(r"\w", line)}


def project() -> dict[str, Any]:
    return tomllib.loads((REPOSITORY / "pyproject.toml").read_text())


def sample(name: str) -> Any:
    return json.loads((REPOSITORY / "events" / f"{name}.json").read_text())


def test_the_runtime_lock_is_what_uv_lock_says() -> None:
    uv = os.environ.get("UV") or shutil.which("uv") or str(REPOSITORY / ".duecourse" / "uv" / "bin" / "uv")
    command = [uv, "export", "--frozen", "--quiet", "--offline"]
    options = ["--no-default-groups", "--no-emit-project", "--no-header"]
    exported = subprocess.run([*command, *options], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert LOCK.read_text() == exported.stdout, "run `make lock`"


def test_the_runtime_lock_has_every_runtime_library_and_no_development_one() -> None:
    assert {normalised(name) for name in project()["project"]["dependencies"]} <= locked()
    groups = project()["dependency-groups"]
    assert locked().isdisjoint({normalised(name) for group in groups.values() for name in group})


def test_every_package_of_the_lock_is_pinned_by_hash() -> None:
    entries = re.split(r"\n(?=\w)", LOCK.read_text())
    assert len(entries) == len(locked())
    for entry in entries:
        assert "==" in entry.splitlines()[0]
        assert "--hash=sha256:" in entry


def test_the_makefile_builds_every_function_and_the_layer() -> None:
    built = {
        name
        for name, resource in parse(REPOSITORY / "template.yaml")["Resources"].items()
        if resource.get("Metadata", {}).get("BuildMethod") == "makefile"
    }
    makefile = (REPOSITORY / "Makefile").read_text().replace("\\\n", " ")
    listed = re.search(r"^FUNCTIONS := (.+)$", makefile, re.MULTILINE)
    assert listed is not None
    assert built == {*listed[1].split(), "DependencyLayer"}


@pytest.mark.parametrize("suffix", HANDLERS)
def test_every_function_has_a_sample_event(suffix: str) -> None:
    assert isinstance(sample(suffix), dict)


@pytest.mark.parametrize("suffix", SCHEDULES)
def test_a_scheduled_function_s_sample_is_a_scheduled_event(suffix: str) -> None:
    assert read_event(sample(suffix)).time.tzinfo is not None


@pytest.mark.parametrize("suffix", WORKERS)
def test_a_worker_s_sample_holds_a_job_of_its_queue_that_never_goes_stale(suffix: str) -> None:
    queue = suffix.removesuffix("-worker")
    [record] = sample(suffix)["Records"]
    assert record["eventSource"] == "aws:sqs"
    assert record["eventSourceARN"].removesuffix(".fifo").endswith(f"-{queue}")
    envelope = parse_envelope(record["body"], queue=queue, catalog=CATALOG, now=datetime(2040, 1, 1, tzinfo=UTC))
    assert envelope.external
    assert envelope.dedup_key is not None
    resolve(CATALOG.job_type(envelope.type).payload).model_validate(envelope.payload)


def test_the_environment_for_sam_local_names_variables_of_the_template() -> None:
    """SAM passes only variables that the template declares."""
    declared = parse(REPOSITORY / "template.yaml")["Globals"]["Function"]["Environment"]["Variables"]
    assert sample("env")["Parameters"].keys() <= declared.keys()
