"""The management API through its own door: API Gateway, the deployed function, a token that `duecourse up` made."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from duecourse.cli import app
from duecourse.local import api_token, aws, stack
from duecourse.local.state import Home
from tests.contract.documents import read
from tests.local.world import World, wait_for

pytestmark = pytest.mark.slow

PATIENCE_SECONDS = 60
LATER = (datetime.now(UTC) + timedelta(days=365)).isoformat()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """One stack for all tests of this file."""
    import shutil
    import tempfile

    saved = os.environ.pop("DATABASE_URL", None)
    place = tempfile.mkdtemp(prefix="duecourse-")
    home = Home(Path(place) / "home")
    running = stack.up(home)
    made = World(home, running, running.engine())
    yield made
    made.engine.dispose()
    stack.down(home, purge=True)
    shutil.rmtree(place)
    if saved is not None:
        os.environ["DATABASE_URL"] = saved


@pytest.fixture
def api(world: World) -> Iterator[httpx.Client]:
    """A client with the local token."""
    assert world.stack.api_url is not None
    headers = {"Authorization": f"Bearer {api_token.read(world.home)}"}
    with httpx.Client(base_url=world.stack.api_url, headers=headers, timeout=30) as client:
        yield client


def sent(api: httpx.Client, method: str, path: str, status: int = 200, **options: Any) -> Any:
    answer = api.request(method, path, **options)
    assert answer.status_code == status, answer.text
    return answer.json()


def job_in(world: World, api: httpx.Client, state: str, **payload: Any) -> str:
    """A probe that has come to this state by itself, after it was ordered through the API."""
    made = sent(api, "POST", "/jobs", 201, json={"type": "upkeep.probe", "payload": payload})
    world.relay()
    wait_for(state, lambda: _state(api, made["id"]) == state, seconds=PATIENCE_SECONDS)
    return str(made["id"])


def _state(api: httpx.Client, job_id: str) -> str:
    return str(sent(api, "GET", f"/jobs/upkeep/{job_id}")["state"])


def test_health_of_the_queues(api: httpx.Client) -> None:
    answer = api.get("/health/queues")
    assert answer.status_code in {200, 503}
    assert "upkeep" in {queue["name"] for queue in answer.json()["queues"]}


def test_a_queue_s_jobs_are_listed_and_one_is_inspected(world: World, api: httpx.Client) -> None:
    job_id = job_in(world, api, "completed", note="seen")
    listed = sent(api, "GET", "/jobs/upkeep", params={"state": "completed"})["items"]
    assert job_id in {job["id"] for job in listed}
    assert sent(api, "GET", f"/jobs/upkeep/{job_id}")["state"] == "completed"


def test_a_job_is_paused_resumed_and_runs(world: World, api: httpx.Client) -> None:
    made = sent(api, "POST", "/jobs", 201, json={"type": "upkeep.probe", "payload": {}, "run_at": LATER})
    path = f"/jobs/upkeep/{made['id']}"
    assert sent(api, "POST", f"{path}/pause")["after"] == "paused"
    assert sent(api, "POST", f"{path}/pause", 409)["state"] == "paused"
    assert sent(api, "POST", f"{path}/resume")["after"] == "delayed"
    assert sent(api, "POST", f"{path}/retry")["after"] in {"waiting", "delayed"}
    world.relay()
    wait_for("the job's run", lambda: _state(api, made["id"]) == "completed", seconds=PATIENCE_SECONDS)
    assert sent(api, "POST", f"{path}/retry", 409)["state"] == "completed"


def test_a_dead_job_is_retried(world: World, api: httpx.Client) -> None:
    job_id = job_in(world, api, "dead", fail_runs=3)
    assert sent(api, "POST", f"/jobs/upkeep/{job_id}/retry")["after"] == "waiting"
    world.relay()
    wait_for("its fourth run", lambda: _state(api, job_id) == "completed", seconds=PATIENCE_SECONDS)


def test_a_job_is_removed_once(api: httpx.Client) -> None:
    made = sent(api, "POST", "/jobs", 201, json={"type": "upkeep.probe", "payload": {}, "run_at": LATER})
    assert sent(api, "POST", f"/jobs/upkeep/{made['id']}/remove")["after"] == "cancelled"
    assert sent(api, "POST", f"/jobs/upkeep/{made['id']}/remove", 409)["state"] == "cancelled"


def test_metrics_are_prometheus_text(api: httpx.Client) -> None:
    answer = api.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert "# TYPE" in answer.text


def test_what_was_done_is_on_record(world: World, api: httpx.Client) -> None:
    made = sent(api, "POST", "/jobs", 201, json={"type": "upkeep.probe", "payload": {}, "run_at": LATER})
    sent(api, "POST", f"/jobs/upkeep/{made['id']}/remove")
    found = sent(api, "GET", "/audit", params={"action": "job.remove"})["items"][0]
    assert (found["actor"], made["id"] in found["target"]) == (api_token.NAME, True)


def test_the_readme_s_curl_lines_work_as_they_stand(world: World) -> None:
    section = read(Path("README.md")).split("\n## Operate\n", 1)[1].split("\n## ", 1)[0]
    script = "\n".join(line.strip() for line in section.splitlines() if line.startswith("    "))
    curl = "curl() { command curl -sS -o /dev/null -w '%{http_code}\\n' \"$@\"; }"
    exports = aws.shell_exports(
        world.stack.endpoint, world.stack.database_url, world.stack.api_url, api_token.read(world.home)
    )
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "DUECOURSE_HOME": str(world.home.directory)}
    done = subprocess.run(
        ["sh", "-ec", f"{exports}\n{curl}\n{script}"], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    health, *others = done.stdout.split()
    assert health in {"200", "503"}
    assert others == ["200"] * 7


def test_a_stranger_learns_nothing(world: World) -> None:
    assert world.stack.api_url is not None
    with httpx.Client(base_url=world.stack.api_url) as stranger:
        assert stranger.get("/health").status_code == 200
        answers = [stranger.get(path) for path in ("/jobs/email", "/nothing", "/openapi.json", "/metrics")]
    assert {answer.status_code for answer in answers} == {401}
    assert {answer.headers["content-type"] for answer in answers} == {"application/problem+json"}


def test_the_document_served_is_the_one_committed(api: httpx.Client) -> None:
    from duecourse.openapi import PATH

    assert sent(api, "GET", "/openapi.json") == json.loads(PATH.read_text())


def test_the_local_token_is_its_owner_s_alone_and_survives_a_second_up(world: World) -> None:
    token = api_token.read(world.home)
    assert stat.S_IMODE(world.home.api_token.stat().st_mode) == 0o600
    stack.up(world.home)
    assert api_token.read(world.home) == token


def test_a_lost_token_is_made_anew_and_the_old_one_ends(world: World) -> None:
    lost = api_token.read(world.home)
    world.home.api_token.unlink()
    stack.up(world.home)
    fresh = api_token.read(world.home)
    statuses = []
    for token in (lost, fresh):
        with httpx.Client(base_url=world.stack.api_url or "", headers={"Authorization": f"Bearer {token}"}) as client:
            statuses.append(client.get("/audit").status_code)
    assert statuses == [401, 200]


def test_tokens_are_given_out_by_the_command_line(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DUECOURSE_HOME", str(world.home.directory))
    runner = CliRunner()
    made = runner.invoke(app, ["token", "create", "ana", "--role", "viewer", "--days", "1"])
    assert made.exit_code == 0, made.output
    headers = {"Authorization": f"Bearer {made.stdout.strip()}"}
    with httpx.Client(base_url=world.stack.api_url or "", headers=headers) as viewer:
        assert [viewer.get(path).status_code for path in ("/jobs/email", "/audit")] == [200, 403]
        assert "ana" in runner.invoke(app, ["token", "list"]).stdout
        assert runner.invoke(app, ["token", "revoke", "ana"]).exit_code == 0
        assert viewer.get("/jobs/email").status_code == 401
    again = runner.invoke(app, ["token", "revoke", "ana"])
    assert (again.exit_code, "no token named ana" in again.stderr) == (1, True)
