"""CloudWatch: what it measured in the last minutes. It is a minute or two behind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from functions.aws.clients import client
from functions.core.chunks import chunks

PERIOD_SECONDS = 60
QUERIES_PER_CALL = 500


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric and the statistic of it that is asked for, such as `Sum`, `Maximum` or `p99`."""

    namespace: str
    name: str
    statistic: str
    dimensions: Mapping[str, str] = field(default_factory=dict)


def read(metrics: Sequence[Metric], *, now: datetime, window: timedelta) -> list[float | None]:
    """For each metric its value between `now - window` and `now`: sums are added up, of all else the largest minute.

    None where nothing was measured. Raises botocore's errors.
    """
    values: dict[str, float] = {}
    queries = [_query(f"m{index}", metric) for index, metric in enumerate(metrics)]
    for part in chunks(queries, QUERIES_PER_CALL):
        reply = client("cloudwatch").get_metric_data(MetricDataQueries=part, StartTime=now - window, EndTime=now)
        for result in reply["MetricDataResults"]:
            if found := result["Values"]:
                summed = metrics[int(result["Id"][1:])].statistic == "Sum"
                values[result["Id"]] = sum(found) if summed else max(found)
    return [values.get(f"m{index}") for index in range(len(metrics))]


def _query(key: str, metric: Metric) -> dict[str, Any]:
    dimensions = [{"Name": name, "Value": value} for name, value in metric.dimensions.items()]
    return {
        "Id": key,
        "MetricStat": {
            "Metric": {"Namespace": metric.namespace, "MetricName": metric.name, "Dimensions": dimensions},
            "Period": PERIOD_SECONDS,
            "Stat": metric.statistic,
        },
    }
