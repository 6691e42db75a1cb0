"""Measurements read from CloudWatch: sums added up, of all else the largest minute, nothing where there is none."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from moto import mock_aws

from functions.aws.clients import client
from functions.aws.cloudwatch import Metric, read

NOW = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)
NAMESPACE = "Duecourse/firm"


@mock_aws
def test_each_metric_has_its_value_in_the_window() -> None:
    client.cache_clear()
    for name, minutes_ago, value in (("Errors", 3, 2.0), ("Errors", 2, 5.0), ("Errors", 90, 100.0), ("Wait", 4, 7.0)):
        point = {
            "MetricName": name,
            "Dimensions": [{"Name": "queue", "Value": "email"}],
            "Timestamp": NOW - timedelta(minutes=minutes_ago),
            "Value": value,
        }
        client("cloudwatch").put_metric_data(Namespace=NAMESPACE, MetricData=[point])
    asked = [
        Metric(NAMESPACE, "Errors", "Sum", {"queue": "email"}),
        Metric(NAMESPACE, "Errors", "Maximum", {"queue": "email"}),
        Metric(NAMESPACE, "Wait", "Maximum", {"queue": "email"}),
        Metric(NAMESPACE, "Wait", "Maximum", {"queue": "other"}),
    ]
    assert read(asked, now=NOW, window=timedelta(minutes=15)) == [7.0, 5.0, 7.0, None]
    client.cache_clear()
