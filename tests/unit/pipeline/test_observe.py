"""Logs without personal data, lines that name their job, and metrics in CloudWatch's embedded format."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any
from uuid import UUID, uuid4

import pytest
from aws_lambda_powertools.metrics import MetricUnit
from hypothesis import given
from hypothesis import strategies as st

from functions.core.job import Job
from functions.pipeline import observe
from functions.pipeline.observe import PERSONAL_FIELDS, REDACTED, Tally, redact

ADDRESS = "erika.mustermann+tax@kanzlei-meier.example"
JOB = Job(
    id=UUID("0193a1b2-c3d4-7e5f-8a9b-0c1d2e3f4a5b"),
    type="upkeep.probe",
    tenant_id=uuid4(),
    payload=None,
    attempts=2,
    runs=4,
    correlation_id="daily/2026-11-24",
    checkpoint=None,
)


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Any]:
    """A function that returns what was logged so far, one record a line, by a logger of this test's own."""
    monkeypatch.setenv("POWERTOOLS_SERVICE_NAME", f"tests-{uuid4()}")
    observe.logger.cache_clear()
    yield lambda: [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    observe.logger.cache_clear()


local_parts = st.from_regex(r"[a-z0-9]([a-z0-9.+_'-]{0,20}[a-z0-9])?", fullmatch=True)
domains = st.from_regex(r"[a-z0-9]{1,10}(\.[a-z0-9-]{1,10}){0,2}\.[a-z]{2,6}", fullmatch=True)
addresses = st.builds("{}@{}".format, local_parts, domains)


@given(addresses, st.text(), st.text())
def test_an_address_is_redacted_wherever_it_stands_in_a_text(address: str, before: str, after: str) -> None:
    assert address not in redact(f"{before} {address} {after}")


@given(st.data(), addresses)
def test_no_address_survives_in_any_structure(data: st.DataObject, address: str) -> None:
    leaf = st.sampled_from([address, f"mail to <{address}>", "harmless", 7, None])
    value = data.draw(
        st.recursive(
            leaf,
            lambda inner: st.one_of(
                st.lists(inner, max_size=3),
                st.tuples(inner, inner),
                st.dictionaries(st.sampled_from(["result", "error", "email"]), inner),
            ),
        )
    )
    assert address not in json.dumps(redact(value))


@given(
    st.recursive(
        st.integers() | st.booleans() | st.none(),
        lambda inner: st.lists(inner) | st.dictionaries(st.just("count"), inner),
    )
)
def test_what_holds_nothing_personal_stays_as_it_is(value: object) -> None:
    assert redact(value) == value


@pytest.mark.parametrize("field", sorted(PERSONAL_FIELDS))
def test_a_personal_field_is_redacted_at_any_depth_whatever_it_holds(field: str) -> None:
    for secret in ("Erika", {"first": "Erika"}, ["Erika"], 17):
        found = redact({"a": [{"b": {field: secret, "kept": 1}}]})
        assert found == {"a": [{"b": {field: REDACTED, "kept": 1}}]}


def test_a_long_text_costs_linear_time() -> None:
    started = time.monotonic()
    redact("a" * 200_000)
    assert time.monotonic() - started < 1


def test_a_line_names_the_job_only_within_it(lines: Any) -> None:
    with observe.job_context(JOB):
        observe.logger().info("inside")
    observe.logger().info("outside")
    inside, outside = lines()
    expected = {
        "job_id": str(JOB.id),
        "job_type": "upkeep.probe",
        "tenant_id": str(JOB.tenant_id),
        "attempt": 3,
        "run": 4,
        "correlation_id": "daily/2026-11-24",
    }
    assert {key: inside[key] for key in expected} == expected
    assert not expected.keys() & outside.keys()


def test_a_line_that_is_logged_holds_no_personal_data(lines: Any) -> None:
    try:
        raise RuntimeError(f"no mailbox {ADDRESS}")
    except RuntimeError as error:
        observe.logger().exception("failed", error=observe.summary(error), cause=error, recipient="Erika")
    observe.logger().info({"result": {"email": ADDRESS, "note": f"to {ADDRESS}"}})
    text = json.dumps(lines())
    assert "no mailbox" in text
    assert ADDRESS not in text
    assert "kanzlei-meier" not in text
    assert "Erika" not in text


def _blobs(tally: Tally, capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    tally.flush()
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_metrics_are_lines_of_cloudwatchs_embedded_format(capsys: pytest.CaptureFixture[str]) -> None:
    tally = Tally()
    tally.add("JobsStarted", 1, job_type="a")
    tally.add("JobsStarted", 3, job_type="a")
    tally.add("JobsStarted", 1, job_type="b")
    blobs = {blob["job_type"]: blob for blob in _blobs(tally, capsys)}
    assert blobs["a"]["JobsStarted"] == [4]
    assert blobs["b"]["JobsStarted"] == [1]
    [directive] = blobs["a"]["_aws"]["CloudWatchMetrics"]
    assert directive["Namespace"] == "Duecourse"
    assert "job_type" in directive["Dimensions"][0]
    assert [(metric["Name"], metric["Unit"]) for metric in directive["Metrics"]] == [("JobsStarted", "Count")]
    assert blobs["a"]["_aws"]["Timestamp"] > 1_700_000_000_000


@pytest.mark.parametrize("samples", [1, 99, 100, 101, 200, 250])
def test_no_sample_is_lost_however_many_there_are(samples: int, capsys: pytest.CaptureFixture[str]) -> None:
    tally = Tally()
    for value in range(samples):
        tally.add("WaitSeconds", value, MetricUnit.Seconds, job_type="a")
        tally.add("JobsStarted", 1, job_type="a")
    blobs = _blobs(tally, capsys)
    assert sorted(value for blob in blobs for value in blob["WaitSeconds"]) == list(range(samples))
    assert sum(value for blob in blobs for value in blob.get("JobsStarted", [])) == samples
    assert all(blob["job_type"] == "a" for blob in blobs)
    # https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/CloudWatch_Embedded_Metric_Format_Specification.html
    assert all(len(blob["WaitSeconds"]) <= 100 for blob in blobs)


def test_what_was_flushed_is_not_counted_again(capsys: pytest.CaptureFixture[str]) -> None:
    tally = Tally()
    tally.add("JobsDead", 1)
    assert len(_blobs(tally, capsys)) == 1
    assert _blobs(tally, capsys) == []


def test_without_tracing_a_span_costs_nothing_and_hides_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    observe.tracer.cache_clear()
    assert observe.tracer() is None
    with pytest.raises(LookupError), observe.span("plan", schedule="daily"):
        raise LookupError


def test_a_summary_is_one_short_line_with_the_class() -> None:
    assert observe.summary(LookupError("no client")) == "LookupError: no client"
    assert len(observe.summary(LookupError("x" * 10_000))) <= observe.ERROR_LIMIT
