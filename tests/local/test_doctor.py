"""`duecourse doctor` on the deployed template: all is well, then each fault planted alone is found, with what to do."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from typer.testing import CliRunner

from duecourse import target
from duecourse.cli import app
from duecourse.doctor.examine import CHECKS, examine
from duecourse.doctor.facts import Facts
from duecourse.doctor.finding import Finding, Level
from tests.local.planted import FAULTS, Fault, a_rule_switched_off
from tests.local.world import World

pytestmark = pytest.mark.slow


def findings(now: Callable[[], float] = time.time) -> list[Finding]:
    return examine(Facts(target.deployment("local"), now=now))


def wrong(found: list[Finding]) -> list[Finding]:
    """What is not well; what could not be looked at has its cause among it. A busy machine answers late: no fault."""
    ill = [finding for finding in found if finding.level in {Level.WARNING, Level.PROBLEM}]
    return [finding for finding in ill if not re.fullmatch(r"it took \d+ ms to answer", finding.what)]


def test_a_fresh_deployment_is_healthy(deployed: World) -> None:
    assert wrong(findings()) == []


@pytest.mark.parametrize(("fault", "check", "what", "fix"), FAULTS, ids=[row[0].__name__ for row in FAULTS])
def test_a_planted_fault_is_found_and_no_other(deployed: World, fault: Fault, check: str, what: str, fix: str) -> None:
    with fault(deployed):
        found = wrong(findings())
    assert {finding.check for finding in found} == {check}
    assert what in found[0].what
    assert fix in found[0].fix


def test_a_clock_that_is_wrong(deployed: World) -> None:
    [found] = wrong(findings(now=lambda: time.time() + 600))
    assert (found.check, found.level) == ("clock", Level.PROBLEM)
    assert re.match(r"this machine's clock is 60\d s ahead of AWS's", found.what)


def test_a_sender_that_the_provider_does_not_know(deployed: World) -> None:
    found = target.deployment("local")
    given = [{"ParameterKey": "MailSender", "ParameterValue": "hello@elsewhere.example"}]
    [finding] = wrong(examine(Facts(replace(found, description={**found.description, "Parameters": given}))))
    assert finding.what == "neither hello@elsewhere.example nor elsewhere.example is an identity of SES"
    assert finding.fix == "deploy with MailDomain=elsewhere.example"


@pytest.mark.parametrize(
    ("call", "answer", "what"),
    [
        (
            "get_email_identity",
            {"VerifiedForSendingStatus": True},
            "@duecourse.example is not signed by DKIM (off)",
        ),
        ("get_email_identity", {"DkimAttributes": {"SigningEnabled": True}}, "@duecourse.example is not verified"),
        ("get_account", {"EnforcementStatus": "SHUTDOWN"}, "SES has put this account under review: SHUTDOWN"),
        ("get_account", {"SendingEnabled": False}, "SES sends nothing: sending is switched off"),
        (
            "get_account",
            {"SendQuota": {"Max24HourSend": 200, "SentLast24Hours": 180}},
            "180 of 200 mails of the last 24",
        ),
    ],
)
def test_what_only_the_real_provider_answers(deployed: World, call: str, answer: dict[str, Any], what: str) -> None:
    """The emulator's provider is never ill in these ways: its one answer is put in place of what it says."""
    found = target.deployment("local")
    ses = found.client("sesv2")
    setattr(ses, call, lambda **_: answer)
    [finding] = wrong(examine(Facts(found)))
    assert what in finding.what


def test_a_stack_by_its_name_as_on_aws(deployed: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through boto3's own session, as with a profile; without a token only the API's part cannot be looked at."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", deployed.stack.endpoint)
    monkeypatch.delenv("DUECOURSE_TOKEN", raising=False)
    found = examine(Facts(target.deployment("duecourse-local")))
    [problem] = wrong(found)
    assert (problem.check, problem.what) == ("api", "no token")
    assert problem.fix.startswith("`duecourse token create NAME --target duecourse-local` makes one")
    unknown = [finding.check for finding in found if finding.level is Level.UNKNOWN]
    assert unknown == ["migrations", "partitions", "database", "heartbeats", "schedules", "conservation"]


def test_the_command_shows_all_and_fails_on_a_problem(deployed: World) -> None:
    healthy = CliRunner().invoke(app, ["doctor"])
    assert (healthy.exit_code, healthy.stdout.count("✗")) == (0, 0), healthy.output
    assert all(check.healthy in healthy.stdout for check in CHECKS if check.name != "database")
    with a_rule_switched_off(deployed):
        ill = CliRunner().invoke(app, ["doctor", "--json"])
    assert ill.exit_code == 1
    told: list[dict[str, Any]] = json.loads(ill.stdout)
    assert [row["check"] for row in told if row["level"] == "problem"] == ["rules"]
