"""What the relay writes into a message: a reference, and nothing personal."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

from hypothesis import given
from hypothesis import strategies as st

from functions.core.catalog import CATALOG
from functions.pipeline.envelope import parse
from functions.pipeline.relay import message_of
from tests.unit.pipeline.test_envelope import NOW

SECRET = "Erika Mustermann"


def row(**fields: Any) -> Any:
    known = {
        "id": uuid4(),
        "queue": "upkeep",
        "type": "upkeep.probe",
        "tenant_id": uuid4(),
        "delivery": 2,
        "correlation_id": "c",
        "group_key": "g",
        "payload": {"note": SECRET},
        "error": SECRET,
        "dedup_key": SECRET,
    }
    return SimpleNamespace(**(known | fields))


def test_a_message_holds_a_reference_and_no_personal_data() -> None:
    sent = message_of(row(), fifo=False)
    assert SECRET not in sent.body
    assert json.loads(sent.body).keys() == {"v", "id", "delivery", "type", "tenant_id", "correlation_id"}


@given(st.uuids(), st.none() | st.uuids(), st.integers(1, 2**31 - 1), st.text())
def test_the_worker_reads_what_the_relay_wrote(job_id: Any, tenant: Any, delivery: int, correlation: str) -> None:
    job = row(id=job_id, tenant_id=tenant, delivery=delivery, correlation_id=correlation.replace("\x00", ""))
    read = parse(message_of(job, fifo=False).body, queue="upkeep", catalog=CATALOG, now=NOW)
    assert (read.id, read.tenant_id, read.delivery) == (job_id, tenant, delivery)
    assert read.correlation_id == job.correlation_id[:256]
    assert not read.external


def test_on_a_fifo_queue_the_deduplication_id_is_job_and_delivery() -> None:
    job = row(delivery=7)
    sent = message_of(job, fifo=True)
    assert (sent.deduplication_id, sent.group_id) == (f"{job.id}.7", "g")


def test_on_a_fifo_queue_a_job_without_a_group_is_a_group_of_its_own() -> None:
    job = row(group_key=None)
    assert message_of(job, fifo=True).group_id == str(job.id)


def test_a_standard_queue_gets_a_fair_group_and_no_deduplication_id() -> None:
    sent = message_of(row(), fifo=False)
    assert (sent.group_id, sent.deduplication_id) == ("g", None)
    tenants = row(group_key=None)
    assert message_of(tenants, fifo=False).group_id == str(tenants.tenant_id)
    assert message_of(row(group_key=None, tenant_id=None), fifo=False).group_id is None


@given(st.text(max_size=300).map(lambda text: text * 500), st.booleans())
def test_ten_messages_fit_into_one_call_whatever_the_correlation_ids(correlation: str, fifo: bool) -> None:
    sent = message_of(row(correlation_id=correlation), fifo=fifo)
    assert json.loads(sent.body)["correlation_id"] == correlation[:256]
    assert 10 * len(sent.body.encode()) < 100_000
