"""Every command of docs/runbooks runs on the local stack, page by page, with something of each kind to be found."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from duecourse.lint_template import REPOSITORY
from tests.contract.documents import FENCED, read
from tests.harness import new_tenant
from tests.local.world import World, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

RUNBOOKS = Path("docs/runbooks")
INDEX = RUNBOOKS / "README.md"
PAGES = sorted(path.relative_to(REPOSITORY) for path in (REPOSITORY / RUNBOOKS).glob("*.md"))
AWS_CLI = "awscli==1.45.11"
PAGE_SECONDS = 300
ON_AWS_ONLY = "# on AWS only"
NOT_HERE = re.compile(
    r"aws (sqs (start|list)-message-move-tasks?|rds .*|cloudformation continue-update-rollback .*)|sam deploy .*"
)
"""What may be marked so: the emulator has no move tasks, no Aurora and no rollback to go on with."""
OF_A_REAL_STACK = re.compile(r"STACK=duecourse-prod|export DUECOURSE_TARGET=.*")
"""Where the index says what else to set on the local stack."""

PAUSED = {"restore": ["compliance-refresh", "email-bulk"], "stuck-queue": ["upkeep"]}
"""Queues that a page has resumed."""
PAUSED_TENANT, SUPPRESSED = "9b70d277-de20-41a1-b8c6-2930df0d3cad", "someone@example.com"
"""As docs/runbooks/mail.md names them."""


def commands(page: Path) -> list[str]:
    """The shell commands of a page in their order, those with a continuation as one."""
    indented = re.findall(r"^ {4,}\S.*$", FENCED.sub("", read(page)), re.MULTILINE)
    return re.sub(r"\\\n *", "", "\n".join(line.strip() for line in indented)).splitlines()


def runnable(page: Path) -> list[str]:
    return [line for line in commands(page) if ON_AWS_ONLY not in line and not OF_A_REAL_STACK.fullmatch(line)]


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_only_what_the_emulator_lacks_is_marked_as_not_run(page: Path) -> None:
    for line in commands(page):
        if ON_AWS_ONLY in line:
            assert NOT_HERE.match(line), line


def test_every_command_runs(world: World, tmp_path: Path) -> None:
    environment = _environment(world, tmp_path)
    failed = {}
    for page in PAGES:
        lines = runnable(page)
        if not lines:
            continue
        if page != INDEX:
            lines = [*runnable(INDEX)[:2], *lines]  # PREFIX and SINCE
        script = "\n".join(['eval "$(duecourse status --env)"', "set -eux -o pipefail", *lines])
        done = subprocess.run(
            ["bash", "-c", script],
            cwd=tmp_path,
            env=environment | _something_of_each(world, PAUSED.get(page.stem, [])),
            capture_output=True,
            text=True,
            timeout=PAGE_SECONDS,
            check=False,
        )
        if done.returncode:
            failed[page.stem] = f"{done.stderr[-1500:]}\n{done.stdout[-500:]}"
    assert not failed, "\n".join(f"{page}: {why}" for page, why in failed.items())
    assert world.conservation().holds


def _environment(world: World, directory: Path) -> dict[str, str]:
    """Where the pages are followed: the repository's events, `aws` and `duecourse` on the PATH, a tick of now."""
    (directory / "events").symlink_to(REPOSITORY / "events")
    tick = json.loads((REPOSITORY / "events/daily-compliance-refresh.json").read_text())
    (directory / "tick.json").write_text(json.dumps(tick | {"time": datetime.now(UTC).isoformat()}))
    uv = shutil.which("uv") or str(REPOSITORY / ".duecourse/uv/bin/uv")
    aws = directory / "aws"  # version 1 does not see AWS_ENDPOINT_URL for SQS; the index says so
    call = f'"{uv}" tool run --quiet --from {AWS_CLI} aws --endpoint-url "$AWS_ENDPOINT_URL" "$@"'
    aws.write_text(f"#!/bin/sh\nexec {call}\n")
    aws.chmod(0o755)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "DUECOURSE_"))}
    return kept | {
        "PATH": f"{directory}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "DUECOURSE_HOME": str(world.home.directory),
        "STACK": world.stack.name,
    }


def _something_of_each(world: World, paused: list[str]) -> dict[str, str]:
    """A job that just died, waiting mails, a paused tenant, a suppressed address, paused queues; the ids asked for."""
    with world.engine.begin() as tx:
        tenant = new_tenant(tx)
    world.rows(
        "INSERT INTO tenants (id, name, time_zone, mail_paused_at, mail_paused_reason) VALUES"
        " (:id, 'Firm', 'UTC', now(), 'bounces') ON CONFLICT (id) DO UPDATE"
        " SET mail_paused_at = now(), mail_paused_reason = 'bounces' RETURNING id",
        id=PAUSED_TENANT,
    )
    world.rows(
        "INSERT INTO email_suppressions (address, reason) VALUES (:address, 'operator')"
        " ON CONFLICT DO NOTHING RETURNING address",
        address=SUPPRESSED,
    )
    world.rows(
        "SELECT enqueue_job('email.digest', '{}', CAST(:tenant AS uuid), run_at => now() + interval '1 day')"
        " FROM generate_series(1, 3)",
        tenant=str(tenant),
    )
    [(job,)] = world.rows("""SELECT enqueue_job('upkeep.probe', '{"give_up": true}')""")
    world.relay()
    died = "SELECT 1 FROM jobs WHERE id = :id AND state = 'dead'"
    wait_for("the job to die", lambda: world.rows(died, id=job), seconds=90)
    world.rows(
        "UPDATE queues SET paused_at = now(), paused_by = 'tests'"
        " WHERE name = ANY(CAST(:names AS text[])) RETURNING name",
        names=paused,
    )
    return {"TENANT": str(tenant), "JOB": str(job)}
