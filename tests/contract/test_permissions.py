"""infra/roles.yaml: what each function may do, and that it may do nothing else."""

from __future__ import annotations

from typing import Any

import pytest

from functions.core.catalog import CATALOG
from tests.contract.templates import PREFIX, QUEUE_ARN, mail, roles, root
from tests.contract.test_template import HANDLERS, logical_id

QUEUE_ARNS = [f"{QUEUE_ARN}{PREFIX}-{q.name}{'.fifo' if q.fifo else ''}" for q in CATALOG.queues.values()]
DEAD_LETTER_ARNS = [f"{QUEUE_ARN}{PREFIX}-{q.name}-dlq{'.fifo' if q.fifo else ''}" for q in CATALOG.queues.values()]
BATCH_CALLS = {"sqs:SendMessage*", "sqs:DeleteMessage*", "sqs:ChangeMessageVisibility*"}
"""The batch calls: AWS has no actions of their own for these, emulators do. Nothing else matches the pattern."""
CONSUME = {"sqs:ReceiveMessage", "sqs:DeleteMessage*", "sqs:ChangeMessageVisibility*", "sqs:GetQueueAttributes"}
SEND = {"sqs:SendMessage*"}

QUEUES_OF: dict[str, tuple[set[str], list[str]]] = {
    **{
        schedule.name: (SEND, [f"{QUEUE_ARN}{PREFIX}-{CATALOG.job_type(schedule.job_type).queue}"])
        for schedule in CATALOG.schedules.values()
    },
    "compliance-refresh-worker": (CONSUME, [f"{QUEUE_ARN}{PREFIX}-compliance-refresh"]),
    "notifications-worker": (CONSUME, [f"{QUEUE_ARN}{PREFIX}-notifications"]),
    "filing-reminders-worker": (CONSUME, [f"{QUEUE_ARN}{PREFIX}-filing-reminders"]),
    "scheduled-email-worker": (CONSUME, [f"{QUEUE_ARN}{PREFIX}-scheduled-email"]),
    "email-critical-worker": (CONSUME, [f"{QUEUE_ARN}{PREFIX}-email-critical.fifo"]),
    "email-worker": (CONSUME, [f"{QUEUE_ARN}{PREFIX}-email.fifo"]),
    "email-bulk-worker": (CONSUME, [f"{QUEUE_ARN}{PREFIX}-email-bulk"]),
    "ses-events-worker": (CONSUME, [f"{QUEUE_ARN}{PREFIX}-ses-events"]),
    "unsubscribe": (set(), []),
    "api": ({"sqs:GetQueueAttributes"}, [*QUEUE_ARNS, *DEAD_LETTER_ARNS]),
    "tokens": (set(), []),
    "upkeep-worker": (CONSUME, [f"{QUEUE_ARN}{PREFIX}-upkeep", *DEAD_LETTER_ARNS]),
    "relay": (SEND, QUEUE_ARNS),
    "sweep": (SEND | {"sqs:GetQueueAttributes"}, QUEUE_ARNS),
    "migrate": (set(), []),
}
SENDERS = {"email-critical-worker", "email-worker", "email-bulk-worker"}
OPERATING = {"FindWorkers", "LookAtFunctions", "SwitchWorkers"}
EACH = pytest.mark.parametrize("suffix", HANDLERS)


def listed(value: Any) -> list[str]:
    return value if isinstance(value, list) else [value]


def own_statements(suffix: str, **given: str) -> list[dict[str, Any]]:
    role = roles(**given).resources("AWS::IAM::Role")[f"{logical_id(suffix)}Role"]
    return [statement for policy in role["Policies"] for statement in policy["PolicyDocument"]["Statement"]]


def shared_statements(**given: str) -> dict[str, dict[str, Any]]:
    [policy] = roles(**given).resources("AWS::IAM::Policy").values()
    return {statement["Sid"]: statement for statement in policy["PolicyDocument"]["Statement"]}


@EACH
def test_a_function_has_its_own_queue_rights_and_its_own_log_alone(suffix: str) -> None:
    actions, queues = QUEUES_OF[suffix]
    *others, log = own_statements(suffix)
    on_queues: dict[frozenset[str], list[str]] = {}
    for found in others:
        if any(action.startswith("sqs:") for action in listed(found["Action"])):
            on_queues.setdefault(frozenset(listed(found["Action"])), []).extend(listed(found["Resource"]))
    assert on_queues == ({frozenset(actions): queues} if actions else {})
    assert set(log["Action"]) == {"logs:CreateLogStream", "logs:PutLogEvents"}
    assert log["Resource"].endswith(f":log-group:/aws/lambda/{PREFIX}-{suffix}:*")


@EACH
def test_who_sends_mail_may_send_as_its_sender_and_sign_its_links(suffix: str) -> None:
    extra = {found["Sid"]: found for found in own_statements(suffix) if found["Sid"] != "WriteItsLog"}
    extra = {sid: found for sid, found in extra.items() if "sqs:" not in str(found["Action"]) and sid not in OPERATING}
    if suffix not in SENDERS | {"unsubscribe"}:
        assert extra == {}
        return
    assert set(extra) - {"SendMail", "ReadTheSendingLimits"} == {"ReadTheUnsubscribeKey"}
    assert extra["ReadTheUnsubscribeKey"]["Action"] == "secretsmanager:GetSecretValue"
    assert extra["ReadTheUnsubscribeKey"]["Resource"] == "UnsubscribeKey.Id"
    if suffix in SENDERS:
        assert extra["SendMail"]["Action"] == "ses:SendEmail"
        sender, _, configuration_set = extra["SendMail"]["Resource"]
        assert sender.endswith(":identity/no-reply@mail.invalid")
        assert configuration_set.endswith(f":configuration-set/{mail().outputs()['ConfigurationSetName']}")


def test_one_function_alone_reads_files_and_only_of_the_bucket_named() -> None:
    readers = [
        suffix
        for suffix in HANDLERS
        for found in own_statements(suffix, AttachmentBucket="files")
        if found["Action"] == "s3:GetObject" and found["Resource"] == "arn:aws:s3:::files/*"
    ]
    assert readers == ["email-worker"]


def test_the_api_switches_workers_of_this_stack_alone() -> None:
    found = {statement["Sid"]: statement for statement in own_statements("api")}
    assert set(found["FindWorkers"]["Action"]) == {"lambda:ListEventSourceMappings", "cloudwatch:GetMetricData"}
    assert found["LookAtFunctions"]["Action"] == "lambda:GetFunctionConfiguration"
    assert found["LookAtFunctions"]["Resource"].endswith(f":function:{PREFIX}-*")
    switch = found["SwitchWorkers"]
    assert set(switch["Action"]) == {"lambda:GetEventSourceMapping", "lambda:UpdateEventSourceMapping"}
    [function] = switch["Condition"]["ArnLike"].values()
    assert function.endswith(f":function:{PREFIX}-*-worker")


def test_every_function_has_a_role_and_there_is_no_other() -> None:
    assert set(roles().resources("AWS::IAM::Role")) == {f"{logical_id(suffix)}Role" for suffix in HANDLERS}
    assert roles().outputs().keys() == {f"{logical_id(suffix)}RoleArn" for suffix in HANDLERS}


@EACH
def test_lambda_alone_may_take_a_role_and_no_managed_policy_widens_it(suffix: str) -> None:
    role = roles().resources("AWS::IAM::Role")[f"{logical_id(suffix)}Role"]
    [trust] = role["AssumeRolePolicyDocument"]["Statement"]
    assert trust["Principal"] == {"Service": "lambda.amazonaws.com"}
    assert "ManagedPolicyArns" not in role


def test_what_all_may_do() -> None:
    found = shared_statements()
    assert set(found) == {"ReadTheDatabaseSecret", "SendTraces"}
    assert found["ReadTheDatabaseSecret"]["Action"] == "secretsmanager:GetSecretValue"
    assert found["ReadTheDatabaseSecret"]["Resource"] == "arn:of:secret"
    [policy] = roles().resources("AWS::IAM::Policy").values()
    assert set(policy["Roles"]) == set(roles().resources("AWS::IAM::Role"))


def test_network_interfaces_and_decryption_are_allowed_only_where_needed() -> None:
    found = shared_statements(InVpc="true", SecretKeyArn="arn:of:key")
    assert set(found) == {"ReadTheDatabaseSecret", "SendTraces", "DecryptTheDatabaseSecret", "JoinTheVpc"}
    assert found["DecryptTheDatabaseSecret"]["Resource"] == "arn:of:key"


def test_a_star_stands_only_where_aws_knows_no_resource() -> None:
    shared = shared_statements(InVpc="true", SecretKeyArn="arn:of:key")
    wide = {sid for sid, statement in shared.items() if statement["Resource"] == "*"}
    assert wide == {"SendTraces", "JoinTheVpc"}
    statements = [*shared.values(), *(found for suffix in HANDLERS for found in own_statements(suffix))]
    for statement in statements:
        assert statement["Effect"] == "Allow"
        starred = {action for action in listed(statement["Action"]) if "*" in action}
        assert starred <= BATCH_CALLS
        if statement.get("Sid") not in wide | {"ReadTheSendingLimits", "FindWorkers"}:
            assert "*" not in listed(statement["Resource"])


def test_the_root_itself_grants_nothing_but_invocation() -> None:
    kinds = {resource["Type"] for resource in root().body["Resources"].values()}
    assert not {kind for kind in kinds if kind.startswith("AWS::IAM::")}
    for name, permission in root().resources("AWS::Lambda::Permission").items():
        if name.startswith(("UnsubscribeFunctionUrl", "UnsubscribeFunctionURL")):
            assert permission["Principal"] == "*"
            continue
        assert permission["Principal"] == "events.amazonaws.com"
        assert permission["SourceArn"].endswith("Tick.Arn")
