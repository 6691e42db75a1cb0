"""infra/observability.yaml: the metrics that alarms watch exist, every part is watched, every alarm has a runbook."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import pytest

from duecourse.lint_template import REPOSITORY
from functions.core.catalog import CATALOG
from tests.contract.templates import NESTED, PREFIX, nested, queues, root
from tests.contract.test_template import HANDLERS

OWN = f"Duecourse/{PREFIX}"
PROVIDED: dict[str, tuple[set[str], set[str]]] = {
    "AWS/SQS": (
        {
            "ApproximateNumberOfMessagesVisible",
            "ApproximateAgeOfOldestMessage",
            "ApproximateAgeOfOldestMessageInQuietGroups",
        },
        {"QueueName"},
    ),
    "AWS/Lambda": ({"Errors", "Throttles", "Duration", "ConcurrentExecutions"}, {"FunctionName"}),
    "AWS/ApiGateway": ({"5xx", "Count"}, {"ApiId"}),
    "AWS/RDS": ({"ACUUtilization"}, {"DBClusterIdentifier"}),
    "AWS/SES": (
        {"Reputation.BounceRate", "Reputation.ComplaintRate", "Send", "Delivery", "Bounce", "Complaint"},
        set(),
    ),
    "AWS/Billing": ({"EstimatedCharges"}, {"ServiceName", "Currency"}),
}
"""What AWS publishes by itself, and by which dimensions.
https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-available-cloudwatch-metrics.html
https://docs.aws.amazon.com/lambda/latest/dg/monitoring-metrics-types.html
https://docs.aws.amazon.com/apigateway/latest/developerguide/http-api-metrics.html
https://docs.aws.amazon.com/AmazonRDS/latest/AuroraUserGuide/aurora-serverless-v2.setting-capacity.html
https://docs.aws.amazon.com/ses/latest/dg/event-publishing-retrieving-cloudwatch.html"""
MOST_METRICS = 10
"""Of one alarm on metric math. https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/Create-alarm-on-metric-math-expression.html"""
RUNBOOK = re.compile(r"\bRunbook: (docs/runbooks/[\w-]+\.md)$")
ENDS_BEFORE_ITS_TIMEOUT = {"relay"}
"""It goes on until the next one has begun, by design."""


@dataclass(frozen=True)
class Watched:
    """One metric that an alarm reads."""

    namespace: str
    name: str
    dimensions: dict[str, str]
    statistic: str


@cache
def template() -> Any:
    passed = root(DatabaseSecretArn="").resources("AWS::CloudFormation::Stack")["Observability"]["Parameters"]
    return nested(NESTED["Observability"], **passed)


@cache
def alarms() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = template().resources("AWS::CloudWatch::Alarm")
    return found


def watched(alarm: dict[str, Any]) -> list[Watched]:
    if "Metrics" not in alarm:
        return [_watched(alarm, alarm.get("Statistic") or alarm["ExtendedStatistic"])]
    stats = [found["MetricStat"] for found in alarm["Metrics"] if "MetricStat" in found]
    return [_watched(found["Metric"], found["Stat"]) for found in stats]


def _watched(metric: dict[str, Any], statistic: str) -> Watched:
    dimensions = {item["Name"]: item["Value"] for item in metric.get("Dimensions", [])}
    return Watched(metric["Namespace"], metric["MetricName"], dimensions, statistic)


@cache
def emitted() -> dict[str, set[frozenset[str]]]:
    """Metrics that the code emits, each with its sets of dimensions; Powertools adds `service`, as a rule."""
    found: dict[str, set[frozenset[str]]] = {}
    for path in (REPOSITORY / "functions").rglob("*.py"):
        code = path.read_text()
        service = set() if "Tally(by_service=False)" in code else {"service"}
        for name, dimensions in _tallied(ast.parse(code)):
            found.setdefault(name, set()).add(dimensions | service)
    return found


def _tallied(tree: ast.AST) -> Iterator[tuple[str, frozenset[str]]]:
    for node in ast.walk(tree):
        match node:
            case ast.Call(
                func=ast.Attribute(value=ast.Name("tally") | ast.Attribute(attr="tally"), attr="add"),
                args=[ast.Constant(str(name)), *_],
                keywords=keywords,
            ):
                yield name, frozenset(word.arg for word in keywords if word.arg and word.arg != "unit")


ALARMS = pytest.mark.parametrize("name", alarms())


@ALARMS
def test_every_metric_of_an_alarm_is_emitted_or_provided(name: str) -> None:
    assert watched(alarms()[name])
    for metric in watched(alarms()[name]):
        if metric.namespace == OWN:
            assert frozenset(metric.dimensions) in emitted()[metric.name]
        else:
            names, dimensions = PROVIDED[metric.namespace]
            assert metric.name in names
            assert metric.dimensions.keys() == dimensions


@ALARMS
def test_what_an_alarm_watches_exists(name: str) -> None:
    names = {found["QueueName"] for found in queues().resources("AWS::SQS::Queue").values()}
    for metric in watched(alarms()[name]):
        for dimension, value in metric.dimensions.items():
            match dimension:
                case "QueueName":
                    assert value in names
                case "FunctionName":
                    assert value.removeprefix(f"{PREFIX}-") in HANDLERS
                case "service":
                    assert value in HANDLERS
                case "queue":
                    assert metric.dimensions["service"] == f"{value}-worker"
                    assert value in CATALOG.queues
                case "schedule":
                    assert metric.dimensions["service"] == value
                case "ApiId" | "DBClusterIdentifier":
                    assert value in {"Api.Outputs.ApiId", "Database.Outputs.ClusterId"}
                case _:
                    raise AssertionError(dimension)


@ALARMS
def test_an_alarm_says_what_it_means_and_names_a_runbook_that_exists(name: str) -> None:
    alarm = alarms()[name]
    assert alarm["AlarmName"].startswith(f"{PREFIX}-")
    runbook = RUNBOOK.search(alarm["AlarmDescription"])
    assert runbook, alarm["AlarmDescription"]
    assert (REPOSITORY / runbook[1]).exists()
    assert alarm["AlarmActions"] == alarm["OKActions"] == ["Topic"]
    assert len(watched(alarm)) <= MOST_METRICS


def of_metric(namespace: str, name: str) -> list[tuple[dict[str, Any], Watched]]:
    return [
        (alarm, metric)
        for alarm in alarms().values()
        for metric in watched(alarm)
        if (metric.namespace, metric.name) == (namespace, name)
    ]


def test_every_queue_and_every_dead_letter_queue_is_watched() -> None:
    kinds = {queue.name: ".fifo" if queue.fifo else "" for queue in CATALOG.queues.values()}
    old = of_metric("AWS/SQS", "ApproximateAgeOfOldestMessage")
    dead = of_metric("AWS/SQS", "ApproximateNumberOfMessagesVisible")
    assert {metric.dimensions["QueueName"]: alarm["Threshold"] for alarm, metric in old} == {
        f"{PREFIX}-{name}{fifo}": CATALOG.queues[name].late_after_seconds for name, fifo in kinds.items()
    }
    assert {metric.dimensions["QueueName"] for _, metric in dead} == {
        f"{PREFIX}-{name}-dlq{fifo}" for name, fifo in kinds.items()
    }
    assert {alarm["Threshold"] for alarm, _ in dead} == {0}


@pytest.mark.parametrize("metric", ["Errors", "Throttles"])
def test_every_function_is_watched(metric: str) -> None:
    found = [item.dimensions["FunctionName"] for _, item in of_metric("AWS/Lambda", metric)]
    assert sorted(found) == sorted(f"{PREFIX}-{suffix}" for suffix in HANDLERS)


def test_durations_are_watched_at_eight_tenths_of_the_timeout() -> None:
    timeouts = {found["FunctionName"]: found["Timeout"] for found in root().resources("AWS::Lambda::Function").values()}
    seen = set()
    for alarm, metric in of_metric("AWS/Lambda", "Duration"):
        function = metric.dimensions["FunctionName"]
        assert metric.statistic == "p99"
        assert 0.75 <= alarm["Threshold"] / (1000 * timeouts[function]) <= 0.85
        seen.add(function.removeprefix(f"{PREFIX}-"))
    workers = {suffix for suffix in HANDLERS if suffix.endswith("-worker")}
    assert seen >= workers | CATALOG.schedules.keys() | {"sweep", "api"}
    assert not seen & ENDS_BEFORE_ITS_TIMEOUT


def test_silence_is_an_alarm() -> None:
    beating = {metric.dimensions["service"]: alarm for alarm, metric in of_metric(OWN, "Heartbeat")}
    assert beating.keys() == {"relay", "sweep"}
    assert {alarm["TreatMissingData"] for alarm in beating.values()} == {"breaching"}


def test_the_dashboard_shows_every_alarm_and_metrics_that_exist() -> None:
    [dashboard] = template().resources("AWS::CloudWatch::Dashboard").values()
    widgets = json.loads(dashboard["DashboardBody"])["widgets"]
    [shown] = [widget["properties"]["alarms"] for widget in widgets if widget["type"] == "alarm"]
    names = {alarm["AlarmName"] for name, alarm in alarms().items() if name != "DatabaseLoadAlarm"}
    assert {arn.rsplit(":", 1)[1] for arn in shown} == names
    for widget in widgets:
        for metric in widget["properties"].get("metrics", []):
            _exists_on_the_dashboard(metric)


def _exists_on_the_dashboard(metric: list[Any]) -> None:
    if isinstance(metric[0], dict):
        schema = re.search(r"SEARCH\('\{([^}]+)\} MetricName=\"([^\"]+)\"", metric[0]["expression"])
        assert schema, metric
        namespace, *dimensions = schema[1].split(",")
        name = schema[2]
    else:
        namespace, name, *rest = [part for part in metric if isinstance(part, str)]
        dimensions = rest[::2]
    if namespace == OWN:
        assert frozenset(dimensions) in emitted()[name]
    else:
        names, allowed = PROVIDED[namespace]
        assert name in names
        assert set(dimensions) <= allowed


def test_alarms_that_an_emulator_cannot_make_are_left_out_there() -> None:
    body = template().body["Resources"]
    for name, alarm in alarms().items():
        if "Metrics" in alarm:
            assert body[name]["Condition"] == "OnAws"
