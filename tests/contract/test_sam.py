"""The SAM CLI itself: it validates the template, builds for Lambda on any machine, and deploys to a local endpoint."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import text

from duecourse.lint_template import REPOSITORY, parse
from duecourse.local import aws, deploy
from functions.db.engine import make_engine
from functions.db.settings import DatabaseSettings
from tests.contract.test_template import HANDLERS, logical_id

pytestmark = [pytest.mark.stack, pytest.mark.slow]

ELF_MACHINE = slice(18, 20)
AARCH64 = (183).to_bytes(2, "little")
"""Field e_machine of an ELF header and its value EM_AARCH64, see elf(5)."""
UNPACKED_LIMIT_BYTES = 250 * 1024 * 1024
"""https://docs.aws.amazon.com/lambda/latest/dg/gettingstarted-limits.html"""


def make(*arguments: str) -> str:
    """Run make on the repository; an outer `make test` must not lend it its flags."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    done = subprocess.run(
        ["make", "--silent", *arguments], cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="session")
def sam() -> list[str]:
    """The command that runs the SAM CLI of the Makefile's version, fetched from PyPI on the first call."""
    version = re.search(r"^SAM_VERSION := (\S+)$", (REPOSITORY / "Makefile").read_text(), re.MULTILINE)
    assert version is not None
    uv = os.environ.get("UV") or shutil.which("uv") or str(REPOSITORY / ".duecourse" / "uv" / "bin" / "uv")
    command = [uv, "tool", "run", "--from", f"aws-sam-cli=={version[1]}", "sam"]
    tried = subprocess.run([*command, "--version"], capture_output=True, text=True, check=False)
    if tried.returncode and "CI" not in os.environ:
        pytest.skip(f"the SAM CLI cannot be installed: {tried.stderr.strip().splitlines()[-1]}")
    return command


@pytest.fixture(scope="module")
def built(sam: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("sam") / "build"
    make("build", f"BUILD_DIR={directory}")
    return directory


@pytest.fixture
def empty_database(postgres: DatabaseSettings) -> Iterator[DatabaseSettings]:
    server = make_engine(postgres).execution_options(isolation_level="AUTOCOMMIT")
    name = f"sam_{os.getpid()}"
    with server.connect() as admin:
        admin.execute(text(f"CREATE DATABASE {name}"))
    yield replace(postgres, database=name)
    with server.connect() as admin:
        admin.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
    server.dispose()


def test_sam_finds_the_template_valid(sam: list[str]) -> None:
    assert "is a valid SAM Template" in make("validate")


@pytest.mark.parametrize("suffix", HANDLERS)
def test_a_function_s_package_holds_our_code_alone(built: Path, suffix: str) -> None:
    package = built / f"{logical_id(suffix)}Function"
    assert {path.name for path in package.iterdir()} == {"functions", "infra"}
    assert {path.name for path in (package / "infra").iterdir()} == {"migrations"}
    assert (package / "infra" / "migrations" / "env.py").exists()
    assert (package / HANDLERS[suffix].rsplit(".", 1)[0].replace(".", "/")).with_suffix(".py").exists()
    assert not list(package.rglob("__pycache__"))


def test_the_layer_holds_wheels_for_arm64_and_python_3_13(built: Path) -> None:
    site = built / "DependencyLayer" / "python" / "lib" / "python3.13" / "site-packages"
    binaries = list(site.rglob("*.so"))
    assert {path.relative_to(site).parts[0] for path in binaries} >= {"pydantic_core", "sqlalchemy"}
    for path in binaries:
        assert re.search(r"\.(cpython-313-aarch64-linux-gnu|abi3)\.so$", path.name)
        assert path.read_bytes()[ELF_MACHINE] == AARCH64
    assert sum(path.stat().st_size for path in site.rglob("*") if path.is_file()) < UNPACKED_LIMIT_BYTES


def test_the_layer_holds_no_development_package(built: Path) -> None:
    site = built / "DependencyLayer" / "python" / "lib" / "python3.13" / "site-packages"
    found = {path.name.split("-")[0] for path in site.glob("*.dist-info")}
    assert {"alembic", "boto3", "pg8000", "pydantic", "sqlalchemy"} <= found
    assert found.isdisjoint({"pytest", "moto", "ministack", "typer", "rich", "hypothesis", "mypy"})


def test_sam_deploys_what_it_built(
    built: Path, sam: list[str], emulator: str, empty_database: DatabaseSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", emulator)
    monkeypatch.setenv("SAM_CLI_TELEMETRY", "0")
    name = f"sam-{int(time.time())}"
    _, secret = deploy.put_secret(emulator, empty_database)
    overrides = [f"DatabaseSecretArn={secret}", "Tracing=PassThrough"]
    command = [*sam, "deploy", "--template-file", str(built / "template.yaml"), "--stack-name", name]
    command += ["--resolve-s3", "--no-progressbar", "--capabilities", "CAPABILITY_IAM"]
    command += ["--parameter-overrides", *overrides]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=built)
    assert done.returncode == 0, done.stdout + done.stderr
    stack = aws.client(emulator, "cloudformation").describe_stacks(StackName=name)["Stacks"][0]
    assert stack["StackStatus"] == "CREATE_COMPLETE"
    engine = make_engine(empty_database)
    with engine.begin() as tx:
        assert tx.scalar(text("SELECT to_regclass('jobs') IS NOT NULL"))  # the deployment ran the migrations
    engine.dispose()
    aws.client(emulator, "cloudformation").delete_stack(StackName=name)


def test_every_environment_of_samconfig_can_be_deployed_to() -> None:
    import tomllib

    config = tomllib.loads((REPOSITORY / "samconfig.toml").read_text())
    declared = parse(REPOSITORY / "template.yaml")["Parameters"]
    assert config.keys() - {"version"} == {"dev", "staging", "prod", "local"}
    for environment in ("dev", "staging", "prod"):
        values = config[environment]["deploy"]["parameters"]
        given = dict(entry.split("=", 1) for entry in values["parameter_overrides"])
        assert given["Environment"] == environment
        assert given.keys() <= declared.keys()
        assert len(values["stack_name"]) + len("-compliance-refresh-worker") <= 64
