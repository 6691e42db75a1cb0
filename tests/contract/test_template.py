"""template.yaml, as CloudFormation receives it, is held to the catalogue and to the code."""

from __future__ import annotations

from typing import Any

import pytest

from duecourse.lint_template import REPOSITORY
from functions.core.catalog import CATALOG, Queue
from functions.core.resolve import resolve
from functions.pipeline import relay
from tests.contract.templates import NESTED, PREFIX, nested, root

HANDLERS = {
    "daily-compliance-refresh": "functions.compliance.refresh.handler",
    "daily-document-expiry": "functions.notifications.document_expiry.handler",
    "daily-expiry-check": "functions.notifications.expiry_check.handler",
    "daily-filing-reminders": "functions.notifications.filing_reminders.handler",
    "daily-digest": "functions.notifications.digests.handler",
    "daily-filing-check": "functions.notifications.filing_check.handler",
    "compliance-refresh-worker": "functions.compliance.worker.handler",
    "notifications-worker": "functions.notifications.worker.handler",
    "filing-reminders-worker": "functions.notifications.filing_worker.handler",
    "scheduled-email-worker": "functions.notifications.planner_worker.handler",
    "email-critical-worker": "functions.email.critical_worker.handler",
    "email-worker": "functions.email.worker.handler",
    "email-bulk-worker": "functions.email.bulk_worker.handler",
    "ses-events-worker": "functions.email.events_worker.handler",
    "unsubscribe": "functions.email.unsubscribe.handler",
    "api": "functions.api.app.handler",
    "tokens": "functions.api.tokens.handler",
    "upkeep-worker": "functions.upkeep.worker.handler",
    "relay": "functions.pipeline.relay.handler",
    "sweep": "functions.pipeline.sweep.handler",
    "migrate": "functions.db.migrate.handler",
}
SCHEDULES = {
    **dict.fromkeys(CATALOG.schedules, "cron(0/15 * * * ? *)"),
    "relay": "rate(1 minute)",
    "sweep": "rate(5 minutes)",
}
SERVED = {queue: CATALOG.queues[queue] for queue in dict.fromkeys(row.queue for row in CATALOG.job_types.values())}
EACH = pytest.mark.parametrize("suffix", HANDLERS)
EACH_SERVED = pytest.mark.parametrize("queue", SERVED.values(), ids=SERVED)


def functions() -> dict[str, dict[str, Any]]:
    found = root().resources("AWS::Lambda::Function").values()
    return {properties["FunctionName"].removeprefix(f"{PREFIX}-"): properties for properties in found}


def logical_id(suffix: str) -> str:
    return "".join(word.capitalize() for word in suffix.split("-"))


def mapping(queue: Queue) -> dict[str, Any]:
    found = root().resources("AWS::Lambda::EventSourceMapping").values()
    arn = f"Queues.Outputs.{logical_id(queue.name)}QueueArn"
    [properties] = [properties for properties in found if properties["EventSourceArn"] == arn]
    return properties


def test_these_functions_are_deployed() -> None:
    assert {suffix: properties["Handler"] for suffix, properties in functions().items()} == HANDLERS


@EACH
def test_a_handler_exists(suffix: str) -> None:
    module, name = HANDLERS[suffix].rsplit(".", 1)
    assert callable(resolve(f"{module}:{name}"))


@EACH
def test_a_function_runs_on_arm64_with_its_own_role_log_and_name(suffix: str) -> None:
    properties = functions()[suffix]
    assert (properties["Runtime"], properties["Architectures"]) == ("python3.13", ["arm64"])
    assert properties["Role"] == f"Roles.Outputs.{logical_id(suffix)}RoleArn"
    assert properties["LoggingConfig"] == {"LogGroup": f"{logical_id(suffix)}LogGroup"}
    assert properties["Environment"]["Variables"]["POWERTOOLS_SERVICE_NAME"] == suffix
    assert len(properties["Layers"]) == 1


@EACH
def test_a_log_is_named_for_its_function_and_is_not_kept_for_ever(suffix: str) -> None:
    group = root().resources("AWS::Logs::LogGroup")[f"{logical_id(suffix)}LogGroup"]
    assert group["LogGroupName"] == f"/aws/lambda/{PREFIX}-{suffix}"
    assert group["RetentionInDays"] > 0


def test_roles_and_logs_are_not_shared() -> None:
    for shared in ("Role", "LoggingConfig"):
        assert len({str(properties[shared]) for properties in functions().values()}) == len(HANDLERS)


@EACH_SERVED
def test_a_queue_with_jobs_has_a_worker_with_the_catalogue_s_numbers(queue: Queue) -> None:
    assert mapping(queue) == {
        "EventSourceArn": f"Queues.Outputs.{logical_id(queue.name)}QueueArn",
        "FunctionName": f"{logical_id(queue.name)}WorkerFunction",
        "BatchSize": queue.batch_size,
        "MaximumBatchingWindowInSeconds": queue.batch_window_seconds,
        "FunctionResponseTypes": ["ReportBatchItemFailures"],
        "ScalingConfig": {"MaximumConcurrency": queue.max_concurrency},
    }
    assert functions()[f"{queue.name}-worker"]["Timeout"] == queue.timeout_seconds


@EACH_SERVED
def test_a_mapping_keeps_lambda_s_rules(queue: Queue) -> None:
    """https://docs.aws.amazon.com/lambda/latest/dg/services-sqs-configure.html"""
    assert 2 <= queue.max_concurrency <= 1000
    if queue.fifo:
        assert queue.batch_size <= 10
        assert queue.batch_window_seconds == 0
    elif queue.batch_size > 10:
        assert queue.batch_window_seconds >= 1


def test_no_other_queue_has_a_worker() -> None:
    assert len(root().resources("AWS::Lambda::EventSourceMapping")) == len(SERVED)


def test_schedules_fire_and_do_not_pile_up() -> None:
    rules = root().resources("AWS::Events::Rule")
    assert {name: rule["ScheduleExpression"] for name, rule in rules.items()} == {
        f"{logical_id(suffix)}FunctionTick": expression for suffix, expression in SCHEDULES.items()
    }
    for rule in rules.values():
        [target] = rule["Targets"]
        assert target["RetryPolicy"]["MaximumEventAgeInSeconds"] <= 900  # the next tick has come by then
    configurations = root().resources("AWS::Lambda::EventInvokeConfig").values()
    assert {found["FunctionName"] for found in configurations} == {f"{logical_id(s)}Function" for s in SCHEDULES}


def test_a_relay_looks_until_the_next_one_is_at_work() -> None:
    """EventBridge may be some seconds late; and the emulator's and Lambda's cold start take their time."""
    until_the_last_look = functions()["relay"]["Timeout"] - relay.RESERVE_SECONDS - relay.PAUSE_SECONDS
    assert SCHEDULES["relay"] == "rate(1 minute)"
    assert until_the_last_look >= 60 + 5


def test_cron_rules_can_be_switched_off_but_not_what_keeps_the_flow_going() -> None:
    states = {
        name: rule.get("State", "ENABLED")
        for name, rule in root(ScheduleState="DISABLED").resources("AWS::Events::Rule").items()
    }
    assert states == {
        **{f"{logical_id(name)}FunctionTick": "DISABLED" for name in CATALOG.schedules},
        "RelayFunctionTick": "ENABLED",
        "SweepFunctionTick": "ENABLED",
    }


def test_migrations_run_before_the_code_that_needs_them_and_whenever_code_changes() -> None:
    [migration] = root().resources("Custom::Migration").values()
    assert migration["ServiceToken"] == "MigrateFunction.Arn"
    assert migration["ServiceTimeout"] > functions()["migrate"]["Timeout"]
    assert migration["Code"].startswith("MigrateFunctionVersion")
    body = root().body["Resources"]
    for suffix in HANDLERS.keys() - {"migrate"}:
        assert body[f"{logical_id(suffix)}Function"]["DependsOn"] == "Migration"


def test_tracing_is_on_unless_switched_off_in_both_places() -> None:
    for tracing, disabled in {"Active": "false", "PassThrough": "true"}.items():
        for properties in root(Tracing=tracing).resources("AWS::Lambda::Function").values():
            assert properties["TracingConfig"] == {"Mode": tracing}
            assert properties["Environment"]["Variables"]["POWERTOOLS_TRACE_DISABLED"] == disabled


def test_an_existing_database_is_reached_by_its_secret() -> None:
    variables = functions()["relay"]["Environment"]["Variables"]
    assert variables["DATABASE_SECRET_ARN"] == "arn:of:secret"
    assert variables.keys().isdisjoint({"DATABASE_HOST", "AWS_ENDPOINT_URL"})
    assert "VpcConfig" not in functions()["relay"]
    assert root().resources("AWS::CloudFormation::Stack").keys() == NESTED.keys() - {"Database"}


def test_an_existing_database_in_a_vpc_is_reached_from_the_subnets_given() -> None:
    template = root(SubnetIds="subnet-a,subnet-b", SecurityGroupIds="sg-a")
    for properties in template.resources("AWS::Lambda::Function").values():
        assert properties["VpcConfig"] == {"SubnetIds": ["subnet-a", "subnet-b"], "SecurityGroupIds": ["sg-a"]}
    assert template.resources("AWS::CloudFormation::Stack")["Roles"]["Parameters"]["InVpc"] == "true"


def test_without_a_secret_a_database_is_created_and_reached_by_its_proxy() -> None:
    template = root(DatabaseSecretArn="")
    assert template.resources("AWS::CloudFormation::Stack").keys() == NESTED.keys()
    for properties in template.resources("AWS::Lambda::Function").values():
        variables = properties["Environment"]["Variables"]
        assert variables["DATABASE_SECRET_ARN"] == "Database.Outputs.SecretArn"
        assert variables["DATABASE_HOST"] == "Database.Outputs.ProxyEndpoint"
        assert properties["VpcConfig"]["SubnetIds"] == ["Database.Outputs.SubnetIds"]


@pytest.mark.parametrize("name", NESTED)
def test_a_nested_stack_gets_its_parameters_and_has_the_outputs_asked_of_it(name: str) -> None:
    inner = nested(NESTED[name]).body
    passed = root(DatabaseSecretArn="").resources("AWS::CloudFormation::Stack")[name]["Parameters"]
    required = {key for key, declared in inner["Parameters"].items() if "Default" not in declared}
    assert required <= passed.keys() <= inner["Parameters"].keys()
    asked = {attribute for attribute in _attributes(root().body) if attribute.startswith(f"{name}.Outputs.")}
    assert asked == {f"{name}.Outputs.{output}" for output in inner["Outputs"]}


def _attributes(node: Any) -> set[str]:
    """Every GetAtt of a template, as `Resource.Attribute`."""
    if isinstance(node, list):
        return set().union(*map(_attributes, node)) if node else set()
    if not isinstance(node, dict):
        return set()
    if "Fn::GetAtt" in node:
        found = node["Fn::GetAtt"]
        return {".".join(found) if isinstance(found, list) else found}
    return _attributes(list(node.values()))


@pytest.mark.parametrize("name", sorted(NESTED.keys() - {"Database"}))
def test_a_nested_stack_reads_no_attribute_so_that_the_emulator_can_update_it(name: str) -> None:
    """ministack forgets the attributes of what an update of a nested stack leaves unchanged, and then rolls back."""
    assert "GetAtt" not in (REPOSITORY / NESTED[name]).read_text()
