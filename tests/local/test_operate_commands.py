"""The commands of operators, from the command line through the deployed API to the ledger and back."""

from __future__ import annotations

import json
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from duecourse.cli import app
from tests.local.planted import a_mapping_switched_off
from tests.local.world import World, wait_for

pytestmark = pytest.mark.slow

ORDER = """
    SELECT enqueue_job('upkeep.probe', CAST(:payload AS jsonb), run_at => now() + CAST(:delay AS interval)) AS id
    FROM generate_series(1, :count)
"""
SECONDS = 60


def run(*arguments: str, code: int = 0) -> Result:
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == code, result.output
    return result


def asked(*arguments: str) -> Any:
    return json.loads(run(*arguments, "--json").stdout)


def order(world: World, count: int, delay: str = "0 s", **payload: Any) -> list[str]:
    statement = (
        "SELECT enqueue_job('upkeep.probe', CAST(:payload AS jsonb), run_at => now() + CAST(:delay AS interval)) AS id"
    )
    rows = world.rows(
        f"{statement} FROM generate_series(1, :count)", payload=json.dumps(payload), delay=delay, count=count
    )
    world.relay()
    return [str(row.id) for row in rows]


def states(world: World, ids: list[str]) -> set[str]:
    rows = world.rows("SELECT DISTINCT state FROM jobs WHERE id = ANY(CAST(:ids AS uuid[]))", ids=ids)
    return {row.state for row in rows}


def dead(world: World, ids: list[str]) -> None:
    wait_for("the jobs to die", lambda: states(world, ids) == {"dead"} and world.is_empty("upkeep"), seconds=SECONDS)


def test_dead_jobs_are_found_looked_at_and_redriven(deployed: World) -> None:
    gave_up, failed = order(deployed, 12, give_up=True, note="one"), order(deployed, 3, fail_runs=3)
    dead(deployed, gave_up + failed)

    found = asked("jobs", "list", "upkeep", "--state", "dead", "--error-class", "GiveUp", "--limit", "100")
    assert [job["id"] for job in found] == sorted(gave_up, reverse=True)
    assert gave_up[0] in run("jobs", "list", "upkeep", "--state", "dead").stdout
    shown = run("jobs", "show", "upkeep", failed[0]).stdout
    assert "ProbeFailed" in shown
    assert "raise ProbeFailed(" in shown

    groups = {group["error_class"]: group for group in asked("errors", "upkeep")["items"]}
    assert {name: (group["jobs"], group["dead_jobs"]) for name, group in groups.items()} == {
        "GiveUp": (12, 12),
        "ProbeFailed": (3, 3),
    }
    assert groups["ProbeFailed"]["example_job_id"] in run("errors").stdout

    counted = asked("redrive", "upkeep", "--error-class", "ProbeFailed", "--dry-run")
    assert (counted["matched"], counted["dead_letters"]) == (3, 15)
    result = run("redrive", "upkeep", "--error-class", "ProbeFailed", "--per-second", "10", "--yes")
    assert result.stdout == "3 revived, 3 stale copies deleted\n"
    assert "revived 3, drained 3 (completed)" in result.stderr
    wait_for("the redriven jobs", lambda: states(deployed, failed) == {"completed"}, seconds=SECONDS)
    assert states(deployed, gave_up) == {"dead"}

    counted = asked("jobs", "remove", "upkeep", "--state", "dead", "--dry-run")
    assert (counted["matched"], counted["changed"]) == (12, 0)
    removed = run("jobs", "remove", "upkeep", "--state", "dead", "--yes")
    assert removed.stderr.splitlines()[-1] == "12 removed"
    assert states(deployed, gave_up) == {"cancelled"}
    assert deployed.conservation().holds


def test_a_job_is_paused_resumed_retried_and_removed(deployed: World) -> None:
    first, second = order(deployed, 2, delay="1 hour")
    assert run("jobs", "pause", "upkeep", first, second).stdout.count("delayed → paused") == 2
    twice = run("jobs", "pause", "upkeep", first, code=1)
    assert twice.stderr == f"{first}: cannot pause this job: it is paused: resume it first\n"
    assert run("jobs", "resume", "upkeep", first).stdout == f"{first}: paused → delayed\n"
    assert run("jobs", "retry", "upkeep", first).stdout == f"{first}: delayed → waiting\n"
    wait_for("the job to run", lambda: states(deployed, [first]) == {"completed"}, seconds=SECONDS)
    assert asked("jobs", "remove", "upkeep", second)[0]["after"] == "cancelled"
    result = run("jobs", "remove", "upkeep", first, second, "--json", code=1)
    assert ["refused" in row for row in json.loads(result.stdout)] == [True, True]
    nowhere = run("jobs", "show", "upkeep", "01900000-0000-7000-8000-000000000000", code=1)
    assert nowhere.stderr.startswith("Error: ")
    assert nowhere.stdout == ""


def test_a_queue_is_paused_and_resumed(deployed: World) -> None:
    paused = run("queues", "pause", "upkeep", "--reason", "a bad deployment")
    assert paused.stdout.startswith("upkeep is paused; its mapping is ")
    assert run("queues", "pause", "upkeep", code=1).stderr == "Error: this queue is paused already\n"
    held = order(deployed, 1)
    told = asked("queues")
    [queue] = [row for row in told["queues"] if row["name"] == "upkeep"]
    assert (queue["paused"], queue["paused_by"], queue["pause_reason"]) == (True, "local", "a bad deployment")
    assert "paused by local" in run("queues").stdout
    mappings = [row for row in asked("doctor") if row["check"] == "mappings"]
    assert [(row["level"], row["what"]) for row in mappings] == [("warning", "upkeep is paused by an operator")]
    assert states(deployed, held) == {"waiting"}
    with a_mapping_switched_off(deployed):
        bad = run("queues", code=1).stdout
    assert "bad the mapping of email is Disabl" in bad
    assert run("queues", "resume", "upkeep").stdout.startswith("upkeep goes on; its mapping is ")
    wait_for("the job to run", lambda: states(deployed, held) == {"completed"}, seconds=SECONDS)


def test_a_schedule_is_run_by_hand(deployed: World) -> None:
    names = [row["name"] for row in asked("schedules", "list")]
    assert "daily-digest" in names
    assert all(name in run("schedules", "list").stdout for name in names)
    [tenant] = [
        str(row.id)
        for row in deployed.rows("INSERT INTO tenants (name, time_zone) VALUES ('Firm', 'Europe/Vienna') RETURNING id")
    ]
    arguments = ("schedules", "run", "daily-compliance-refresh", "--tenant", tenant, "--date", "2026-11-20")
    assert asked(*arguments, "--dry-run")["planned"] == 1
    assert run(*arguments, "--yes").stdout == "1 jobs ordered\n"
    again = run(*arguments, "--dry-run")
    assert again.stderr == "daily-compliance-refresh would be ordered for 0 of 1 tenants; 1 have it already\n"
    assert run("schedules", "run", "nonsense", "--yes", code=1).stderr.startswith("Error: there is nothing")


def test_metrics_and_audit(deployed: World) -> None:
    families = {row["name"]: row for row in asked("metrics")}
    assert families
    name = next(iter(families))
    assert set(asked("metrics", name)[0]) == {"name", "type", "help", "samples"}
    assert f"# TYPE {name}" in run("metrics", "--raw").stdout
    assert name in run("metrics", name).stdout
    run("queues", "pause", "notifications", "--reason", "for the audit")
    run("queues", "resume", "notifications")
    told = asked("audit", "--on", "/queues/notifications")
    assert [(row["actor"], row["action"]) for row in told] == [("local", "queue.resume"), ("local", "queue.pause")]
    assert "paused: False → True" in run("audit", "--on", "/queues/notifications").stdout


def test_a_viewer_looks_and_does_not_touch(deployed: World, monkeypatch: pytest.MonkeyPatch) -> None:
    token = run("token", "create", "watcher", "--role", "viewer").stdout.strip()
    monkeypatch.setenv("DUECOURSE_TOKEN", token)
    there = ("--target", deployed.stack.api_url or "")
    assert run("queues", *there).stdout.startswith("queue")
    refused = run("queues", "pause", "upkeep", *there, code=1)
    assert refused.stderr == "Error: this needs the role operator; the token is of a viewer\n"
    run("token", "revoke", "watcher")
    assert "the token is not valid" in run("queues", *there, code=1).stderr
    assert "name it, as `--target local`" in run("doctor", *there, code=1).stderr
