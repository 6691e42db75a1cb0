"""The stack itself, the clock, and the secrets."""

from __future__ import annotations

from collections.abc import Iterator
from email.utils import parsedate_to_datetime

from duecourse.doctor.facts import Facts
from duecourse.doctor.finding import Fault, warning

MOST_SKEW_SECONDS = 30
"""AWS refuses signatures from 300 s on. Its answers tell the time in whole seconds."""


def stack(facts: Facts) -> Iterator[Fault]:
    """Whether the last deployment went through."""
    status = facts.deployment.description["StackStatus"]
    name = facts.deployment.name
    if status.endswith("_IN_PROGRESS"):
        yield warning(f"{name} is being changed: {status}", "wait, and look again")
    elif status not in {"CREATE_COMPLETE", "UPDATE_COMPLETE"}:
        yield Fault(
            f"the last deployment of {name} failed: {status}",
            f"aws cloudformation describe-stack-events --stack-name {name}, then docs/runbooks/migration-failed.md",
        )


def clock(facts: Facts) -> Iterator[Fault]:
    """Whether this machine's clock is AWS's. The ledger's own clock is the database's; AWS sets that of both."""
    before = facts.now()
    headers = facts.client("sts").get_caller_identity()["ResponseMetadata"]["HTTPHeaders"]
    skew = (before + facts.now()) / 2 - parsedate_to_datetime(headers["date"]).timestamp()
    if abs(skew) > MOST_SKEW_SECONDS:
        ahead = "ahead of" if skew > 0 else "behind"
        yield Fault(
            f"this machine's clock is {abs(skew):.0f} s {ahead} AWS's: from 300 s on, AWS refuses its signatures",
            "set the clock by NTP: timedatectl set-ntp true",
        )


def secrets(facts: Facts) -> Iterator[Fault]:
    """Whether the secrets that the functions read exist and are not about to be deleted."""
    manager = facts.client("secretsmanager")
    named = {
        value
        for function in facts.functions.values()
        for key, value in function.get("Environment", {}).get("Variables", {}).items()
        if key.endswith(("SECRET_ARN", "KEY_ARN")) and ":secretsmanager:" in value
    }
    if not named:
        yield Fault("no function knows a secret with the database's address", "deploy the current template again")
    for arn in sorted(named):
        name = arn.rsplit(":secret:", 1)[-1]
        try:
            found = manager.describe_secret(SecretId=arn)
        except manager.exceptions.ResourceNotFoundException:
            yield Fault(
                f"the secret {name} does not exist: functions cannot start",
                "create it as docs/deploy.md says, then deploy with its ARN",
            )
            continue
        if found.get("DeletedDate"):
            yield Fault(
                f"the secret {name} is marked for deletion: functions cannot read it",
                f"aws secretsmanager restore-secret --secret-id {arn}",
            )


def alarms(facts: Facts) -> Iterator[Fault]:
    """Whether an alarm of the stack is on. Each tells its runbook in its description."""
    pages = facts.client("cloudwatch").get_paginator("describe_alarms")
    for page in pages.paginate(AlarmNamePrefix=f"{facts.deployment.name}-", StateValue="ALARM"):
        for alarm in (*page.get("MetricAlarms", ()), *page.get("CompositeAlarms", ())):
            told = alarm.get("AlarmDescription", "")
            what, _, runbook = told.partition("Runbook: ")
            yield warning(f"the alarm {alarm['AlarmName']} is on: {' '.join(what.split())}", runbook.strip() or told)
