"""The doctor against what AWS answers and the local emulator never does; and docs/cli.md lists every check."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError, NoCredentialsError

from duecourse.doctor import functions, platform
from duecourse.doctor.examine import CHECKS, Check, examine
from duecourse.doctor.facts import Facts
from duecourse.doctor.finding import Fault, Level
from duecourse.target import Deployment
from functions.core.catalog import Catalog, JobType, Queue
from tests.contract.documents import table

QUEUE = Queue("email", timeout_seconds=30, max_concurrency=5)
CATALOG = Catalog((QUEUE,), (JobType("email.x", "email", "m:P", "m:p"),), ())
WORKER = "stack-email-worker"


class Aws:
    """One answer for each call, whatever the service."""

    def __init__(self, **answers: Any) -> None:
        self.answers = answers

    def __getattr__(self, call: str) -> Any:
        return lambda **_: self.answers[call]

    def get_paginator(self, call: str) -> Aws:
        return Aws(paginate=[self.answers[call]])


def facts(status: str = "UPDATE_COMPLETE", parameters: Mapping[str, str] | None = None, **answers: Any) -> Facts:
    description = {
        "StackStatus": status,
        "Outputs": [{"OutputKey": "EmailWorkerFunctionName", "OutputValue": WORKER}],
        "Parameters": [{"ParameterKey": key, "ParameterValue": value} for key, value in (parameters or {}).items()],
    }
    aws = Aws(**answers)
    return Facts(Deployment("stack", description, lambda _: aws), catalog=CATALOG)


def function(**changes: Any) -> dict[str, Any]:
    return {"Functions": [{"FunctionName": WORKER, "State": "Active", "LastUpdateStatus": "Successful", **changes}]}


def mapping(**changes: Any) -> dict[str, Any]:
    made = {
        "UUID": "u-1",
        "EventSourceArn": "arn:aws:sqs:eu-west-1:123456789012:stack-email",
        "FunctionArn": f"arn:aws:lambda:eu-west-1:123456789012:function:{WORKER}:live",
        "State": "Enabled",
        "FunctionResponseTypes": ["ReportBatchItemFailures"],
        "ScalingConfig": {"MaximumConcurrency": 5},
    }
    return {"EventSourceMappings": [made | changes]}


@pytest.mark.parametrize(
    ("answer", "what", "level"),
    [
        ({"Functions": []}, "the function stack-email-worker does not exist", Level.PROBLEM),
        (function(State="Failed", StateReason="no subnet"), "has failed: no subnet", Level.PROBLEM),
        (function(State="Pending"), "is being updated", Level.WARNING),
        (function(LastUpdateStatus="Failed"), "the last update of stack-email-worker failed", Level.PROBLEM),
    ],
)
def test_a_function_that_cannot_be_called(answer: Any, what: str, level: Level) -> None:
    [fault] = functions.active(facts(list_functions=answer))
    assert what in fault.what
    assert fault.level is level


def test_functions_that_can() -> None:
    for answer in (function(), function(State="Inactive")):  # Lambda wakes an inactive one
        assert list(functions.active(facts(list_functions=answer))) == []
    assert list(functions.mappings(facts(list_event_source_mappings=mapping()))) == []


@pytest.mark.parametrize(
    ("answer", "what", "fix"),
    [
        ({"EventSourceMappings": []}, "its event source mapping is gone", "deploy the current template again"),
        (mapping(FunctionArn="arn:aws:lambda:x:1:function:other"), "its event source mapping is gone", "deploy"),
        (mapping(State="Disabling"), "its mapping is Disabling", "--uuid u-1 --enabled"),
        (mapping(FunctionResponseTypes=[]), "would send its whole batch again", "ReportBatchItemFailures"),
        (mapping(ScalingConfig={}), "email runs any number of workers at once, the catalogue says 5", "Concurrency=5"),
    ],
)
def test_a_mapping_that_is_not_as_it_should_be(answer: Any, what: str, fix: str) -> None:
    [fault] = functions.mappings(facts(list_event_source_mappings=answer))
    assert what in fault.what
    assert fix in fault.fix


def test_schedules_that_were_switched_off_on_purpose_are_one_warning() -> None:
    names = ("TickA", "TickB", "RelayTick")
    resources = [
        {"ResourceType": "AWS::Events::Rule", "LogicalResourceId": name, "PhysicalResourceId": name} for name in names
    ]
    off = {"Name": "rule", "State": "DISABLED", "ScheduleExpression": "cron(0/15 * * * ? *)"}
    found = facts(
        parameters={"ScheduleState": "DISABLED"},
        list_stack_resources={"StackResourceSummaries": resources},
        describe_rule=off,
    )
    [fault] = functions.rules(found)
    assert (fault.level, fault.fix) == (Level.WARNING, "deploy with ScheduleState=ENABLED")


@pytest.mark.parametrize(
    ("status", "level"),
    [("UPDATE_ROLLBACK_COMPLETE", Level.PROBLEM), ("UPDATE_IN_PROGRESS", Level.WARNING)],
)
def test_a_stack_whose_last_change_was_not_made(status: str, level: Level) -> None:
    [fault] = platform.stack(facts(status))
    assert fault.level is level
    assert status in fault.what


def raising(error: Exception) -> Check:
    def look(_: Facts) -> Iterator[Fault]:
        raise error

    return Check("x", "all is well", look)


@pytest.mark.parametrize(
    ("error", "fix"),
    [
        (
            ClientError({"Error": {"Code": "AccessDenied", "Message": "no"}}, "GetAccount"),
            "a profile that may read this",
        ),
        (ClientError({"Error": {"Code": "Throttling"}}, "GetAccount"), "the AWS console"),
        (NoCredentialsError(), "check the network and the profile"),
    ],
)
def test_what_cannot_be_looked_at_is_unknown_and_stops_nothing_else(error: Exception, fix: str) -> None:
    well = Check("y", "all is well", lambda _: ())
    unknown, fine = examine(facts(), [raising(error), well])
    assert (unknown.level, fine.level) == (Level.UNKNOWN, Level.OK)
    assert fix in unknown.fix


def test_the_documents_list_every_check() -> None:
    rows = table(Path("docs/cli.md"), "What the doctor looks at")
    assert [(row[0].strip("`"), row[1]) for row in rows] == [(check.name, check.healthy) for check in CHECKS]
