"""On a FIFO queue a job's group follows from its tenant and payload, and its turn from when it came due."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from hashlib import md5
from typing import Any
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, text

from functions.core.job import JobRequest
from functions.pipeline.enqueue import enqueue
from functions.pipeline.keys import decide_contested
from tests import jobs
from tests.jobs import request
from tests.sql.conftest import Flow

TENANT, READER = UUID("6f1ed002-ab5e-4a9e-8c4b-16d0f9b3a6a1"), UUID("0193a1b2-c3d4-7e5f-8a9b-0c1d2e3f4a5b")
HOUR = timedelta(hours=1)
GROUP = text("SELECT job_group(:id, :tenant, CAST(:payload AS jsonb), CAST(:fields AS text[]))")


def expected(job_id: UUID, tenant: UUID | None, payload: dict[str, Any], fields: list[str]) -> str:
    """The rule again, slow and plain."""
    parts = [] if tenant is None else [str(tenant)]
    for name in fields:
        value = payload.get(name)
        if value is None or value == "":
            return str(job_id)
        parts.append(spelled(value if isinstance(value, str) else json.dumps(value)))
    group = "/".join(parts)
    plain = 1 <= len(group) <= 128 and all("!" <= letter <= "~" for letter in group)
    return group if plain else md5(group.encode(), usedforsecurity=False).hexdigest()


def spelled(value: str) -> str:
    bare = value.lower().replace("urn:uuid:", "")
    for letter in "{}-":
        bare = bare.replace(letter, "")
    is_uuid = len(bare) == 32 and all(letter in "0123456789abcdef" for letter in bare)
    return str(UUID(bare)) if is_uuid else value.lower()


SPELLINGS = st.sampled_from(
    [str(READER), str(READER).upper(), READER.hex, f"{{{READER}}}", f"urn:uuid:{READER}", f"URN:UUID:{READER}"]
)
VALUES = st.one_of(
    SPELLINGS,
    st.text("abcXYZ019!~ -{}/@", max_size=8),
    st.sampled_from(["Müller", "g" * 128, "g" * 129, "two words", "line\n"]),
    st.integers(0, 10**6),
    st.booleans(),
    st.none(),
)


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.sampled_from([TENANT, None]),
    st.dictionaries(st.sampled_from(["a", "b", "c"]), VALUES),
    st.lists(st.sampled_from(["a", "b", "c"]), min_size=1, max_size=3, unique=True),
)
def test_a_group_is_the_tenant_and_the_fields_in_one_spelling(
    database: Engine, tenant: UUID | None, payload: dict[str, Any], fields: list[str]
) -> None:
    with database.begin() as tx:
        values = {"id": READER, "tenant": tenant, "payload": json.dumps(payload), "fields": fields}
        found = tx.execute(GROUP, values).scalar_one()
    assert found == expected(READER, tenant, payload, fields)


@pytest.mark.parametrize(
    "spelling", [str(READER), str(READER).upper(), READER.hex, f"{{{READER}}}", f"urn:uuid:{READER}"]
)
def test_all_mail_to_one_reader_is_one_group_however_it_is_ordered(database: Engine, spelling: str) -> None:
    mail = {"recipient_kind": "user", "recipient_id": str(READER), "url": "https://firm.example/"}
    plain = [{"type": "email.custom", "tenant_id": str(TENANT).upper(), "payload": mail | {"recipient_id": spelling}}]
    with database.begin() as tx:
        enqueue(tx, [JobRequest("email.welcome", mail, tenant_id=TENANT)])
        tx.execute(text("SELECT * FROM enqueue_jobs(CAST(:orders AS jsonb))"), {"orders": json.dumps(plain)})
        groups = {row.group_key for row in tx.execute(text("SELECT group_key FROM jobs"))}
    assert groups == {f"{TENANT}/user/{READER}"}


def test_a_payload_without_the_fields_is_a_group_of_its_own(flow: Flow) -> None:
    ids = flow.order(request("test.ordered"), request("test.ordered"), request("test.ordered", group="a"))
    assert [flow.job(job_id).group_key for job_id in ids] == [str(ids[0]), str(ids[1]), "a"]


def test_a_turn_is_when_a_job_comes_due_and_only_on_fifo_queues(flow: Flow) -> None:
    at = datetime.now(UTC) + HOUR
    options: list[dict[str, Any]] = [{}, {"run_at": at}, {"delay_seconds": 60}, {"run_at": at - 2 * HOUR}]
    for job_id in flow.order(*[request("test.ordered", group="a", priority=1, **more) for more in options]):
        job = flow.job(job_id)
        assert (job.turn, job.priority) == (job.run_at, 0)
    for job_id in flow.order(*[request("test.each", group="a", priority=1, **more) for more in options]):
        job = flow.job(job_id)
        assert (job.turn, job.priority, job.group_key) == (None, 1, None)


def test_what_came_as_a_message_has_a_group_and_a_turn_too(flow: Flow) -> None:
    order = [{"type": "test.ordered", "payload": {"group": "A"}, "sent": True, "dedup_key": "k"}]
    flow.rows("SELECT * FROM enqueue_jobs(CAST(:orders AS jsonb))", orders=json.dumps(order))
    [job] = flow.rows("SELECT * FROM jobs")
    assert (job.group_key, job.turn, job.outbox_at) == ("a", job.run_at, None)


def test_a_contested_job_has_its_turn_when_its_key_is_decided(flow: Flow) -> None:
    with flow.observer.connect() as holder:
        enqueue(holder, [request("test.ordered", group="a", dedup_key="k")], catalog=jobs.CATALOG)
        [job_id] = flow.order(request("test.ordered", group="a", dedup_key="k"))
        assert (flow.job(job_id).state, flow.job(job_id).turn) == ("blocked", None)
        holder.rollback()
    before = datetime.now(UTC) - timedelta(seconds=5)
    with flow.observer.begin() as tx:
        assert decide_contested(tx) == 1
    job = flow.job(job_id)
    assert job.state == "waiting"
    assert job.turn == job.outbox_at > before
