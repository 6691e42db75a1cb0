"""Ordering jobs: in the caller's transaction, by the thousand, in their order, by programs in any language."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError

from functions.core.catalog import CATALOG
from functions.core.errors import InvalidPayload, UnknownJobType
from functions.core.job import JobRequest
from functions.pipeline.enqueue import ORDERS_PER_STATEMENT, enqueue
from functions.pipeline.envelope import instant_of
from tests.harness import job, order, probe, states
from tests.jobs import request
from tests.sql.conftest import Flow

NOW = datetime.now(UTC)
HOUR = timedelta(hours=1)


def test_thousands_are_ordered_at_once_and_come_back_in_their_order(database: Engine) -> None:
    count = 2 * ORDERS_PER_STATEMENT + 17
    with database.begin() as tx:
        made = enqueue(tx, [probe(note=str(number)) for number in range(count)])
        assert len({item.id for item in made}) == count
        assert all(item.created for item in made)
        notes = {row.id: row.note for row in tx.execute(text("SELECT id, payload ->> 'note' AS note FROM jobs"))}
        assert [notes[item.id] for item in made] == [str(number) for number in range(count)]
        part = [item.id for item in made[:ORDERS_PER_STATEMENT]]
        assert part == sorted(part), "ids of one statement do not sort in their order"


@pytest.mark.parametrize("note", ["NaN", "-Infinity", "\\u0000", '"}\\', "漢字 🎉 \u2028", "Müller"])
def test_a_text_that_only_speaks_of_what_jsonb_refuses_is_kept_as_it_is(database: Engine, note: str) -> None:
    with database.begin() as tx:
        [odd, plain] = order(tx, probe(note=note), probe())
        assert (job(tx, odd).payload["note"], job(tx, plain).payload["note"]) == (note, "")


def test_ordering_nothing_orders_nothing(database: Engine) -> None:
    with database.begin() as tx:
        assert enqueue(tx, []) == []
        assert states(tx) == {}


def test_what_is_rolled_back_was_never_ordered(database: Engine) -> None:
    with database.connect() as tx, tx.begin() as transaction:
        order(tx, probe(), JobRequest("upkeep.probe", {}, dedup_key="k"))
        transaction.rollback()
    with database.begin() as tx:
        assert states(tx) == {}
        assert tx.execute(text("SELECT count(*) FROM job_keys")).scalar_one() == 0
        assert tx.execute(text("SELECT count(*) FROM job_count_deltas")).scalar_one() == 0


@pytest.mark.parametrize(
    ("wrong", "error", "why"),
    [
        (
            probe(note=17),
            InvalidPayload,
            "the payload of upkeep.probe is invalid: note: Input should be a valid string",
        ),
        (probe(fail_runs=-1), InvalidPayload, "fail_runs"),
        (probe(secret="x"), InvalidPayload, "secret: Extra inputs are not permitted"),
        (probe(note="\x00"), InvalidPayload, "nothing PostgreSQL can store: it holds a NUL character"),
        (JobRequest("upkeep.probe", {}, correlation_id="\ud800"), InvalidPayload, "it holds half a surrogate pair"),
        (JobRequest("upkeep.unknown", {}), UnknownJobType, "unknown job type 'upkeep.unknown'; the catalogue has"),
    ],
    ids=str,
)
def test_one_wrong_order_is_refused_before_anything_is_written(
    database: Engine, wrong: JobRequest, error: type[Exception], why: str
) -> None:
    with database.begin() as tx:
        with pytest.raises(error, match=why):
            enqueue(tx, [probe(), wrong, probe()])
        assert states(tx) == {}
        order(tx, probe())
        assert states(tx) == {"waiting": 1}


def test_the_payload_is_kept_as_its_contract_reads_it(database: Engine) -> None:
    with database.begin() as tx:
        [job_id] = order(tx, JobRequest("compliance.refresh", {"local_date": "2026-11-24"}, tenant_id=uuid4()))
        assert job(tx, job_id).payload == {"local_date": "2026-11-24"}
        [job_id] = order(tx, probe(fail_runs=2))
        assert job(tx, job_id).payload["fail_runs"] == 2


@pytest.mark.parametrize(
    ("options", "state", "wait"),
    [
        ({}, "waiting", timedelta(0)),
        ({"delay_seconds": 0}, "waiting", timedelta(0)),
        ({"delay_seconds": 60}, "delayed", timedelta(minutes=1)),
        ({"run_at": NOW + HOUR}, "delayed", HOUR),
        ({"run_at": NOW - HOUR}, "waiting", timedelta(0)),
    ],
    ids=["at once", "no delay", "a delay", "later", "earlier"],
)
def test_a_job_waits_until_its_time(database: Engine, options: dict[str, object], state: str, wait: timedelta) -> None:
    with database.begin() as tx:
        [job_id] = order(tx, JobRequest("upkeep.probe", {}, **options))  # type: ignore[arg-type]
        row = job(tx, job_id)
        assert row.state == state
        assert row.outbox_at == row.run_at
        due = NOW + wait if "run_at" in options and wait else datetime.now(UTC) + wait
        assert abs(row.run_at - due) < timedelta(seconds=5)


def test_everything_an_order_says_is_kept(database: Engine) -> None:
    tenant = uuid4()
    wanted = JobRequest(
        "upkeep.probe",
        {},
        tenant_id=tenant,
        priority=-1,
        deadline_at=NOW + HOUR,
        correlation_id="import-9",
    )
    with database.begin() as tx:
        [job_id] = order(tx, wanted)
        kept = job(tx, job_id)._asdict()
    said = asdict(wanted)
    assert {name: kept[name] for name in ("tenant_id", "priority", "deadline_at", "correlation_id")} == {
        name: said[name] for name in ("tenant_id", "priority", "deadline_at", "correlation_id")
    }
    assert (kept["queue"], kept["delivery"], kept["attempts"], kept["sent_at"]) == ("upkeep", 1, 0, None)


def test_a_job_correlates_with_itself_unless_told_otherwise(database: Engine) -> None:
    tenant = uuid4()
    with database.begin() as tx:
        with_tenant, without = order(tx, JobRequest("upkeep.probe", {}, tenant_id=tenant), probe())
        assert (job(tx, with_tenant).correlation_id, job(tx, without).correlation_id) == (
            str(with_tenant),
            str(without),
        )


def test_the_relay_sends_by_priority_then_time(flow: Flow) -> None:
    orders: dict[str, dict[str, Any]] = {
        "low": {"priority": -1},
        "overdue low": {"priority": -1, "run_at": NOW - HOUR},
        "later": {"delay_seconds": 3600},
        "plain": {},
        "plain too": {},
        "urgent": {"priority": 1},
    }
    names = {name: flow.order(request("test.each", **options))[0] for name, options in orders.items()}
    flow.relay()
    sent = [UUID(json.loads(message["Body"])["id"]) for message in flow.receive()]
    assert sent == [names[name] for name in ("urgent", "plain", "plain too", "low", "overdue low")]
    assert flow.states() == {"waiting": 5, "delayed": 1}


def _call(tx: Connection, arguments: str, payload: object = None, **values: object) -> UUID:
    """Enqueue as another program would, in plain SQL."""
    statement = text(f"SELECT enqueue_job('upkeep.probe', CAST(:payload AS jsonb) {arguments})")
    job_id: UUID = tx.execute(statement, {"payload": json.dumps(payload or {}), **values}).scalar_one()
    return job_id


def test_another_program_orders_a_job_in_plain_sql(database: Engine) -> None:
    tenant = uuid4()
    with database.begin() as tx:
        plain = job(tx, _call(tx, "", {"note": "hello"}))
        assert (plain.type, plain.queue, plain.state, plain.payload) == (
            "upkeep.probe",
            "upkeep",
            "waiting",
            {"note": "hello"},
        )
        full = job(
            tx,
            _call(
                tx,
                ", tenant_id => CAST(:tenant AS uuid), priority => 1,"
                " run_at => now() + interval '1h', correlation_id => 'c'",
                tenant=str(tenant),
            ),
        )
        assert (full.tenant_id, full.group_key, full.priority, full.state) == (tenant, None, 1, "delayed")
        assert full.correlation_id == "c"
        first, second = (_call(tx, ", dedup_key => 'k', dedup_window => interval '1 day'") for _ in range(2))
        assert first == second


def test_a_payload_from_plain_sql_keeps_its_nulls(database: Engine) -> None:
    payload = {"note": None, "nested": {"empty": None, "list": [None, 1]}}
    with database.begin() as tx:
        assert job(tx, _call(tx, "", payload)).payload == payload


def test_plain_sql_names_an_unknown_type_and_those_it_knows(database: Engine) -> None:
    with pytest.raises(DBAPIError) as refused, database.begin() as tx:
        tx.execute(text("SELECT enqueue_job('upkeep.unknown', '{}')"))
    assert refused.value.orig is not None
    said = refused.value.orig.args[0]
    assert said["M"] == "unknown job type: upkeep.unknown"
    assert said["H"] == f"known types: {', '.join(sorted(CATALOG.job_types))}"


instants = st.datetimes(
    min_value=datetime.fromisoformat("1980-01-01"),
    max_value=datetime.fromisoformat("2500-01-01"),
    timezones=st.just(UTC),
)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(instants, min_size=2, max_size=50, unique=True))
def test_a_uuid7_holds_its_instant_its_version_and_the_order_of_microseconds(
    database: Engine, drawn: list[datetime]
) -> None:
    series = sorted({moment for at in drawn for moment in (at, at + timedelta(microseconds=1))})
    with database.begin() as tx:
        rows = tx.execute(
            text("SELECT uuid7(at) AS id, uuid7_floor(at) AS least FROM unnest(CAST(:at AS timestamptz[])) AS at"),
            {"at": series},
        )
        made = [(row.id, row.least) for row in rows]
    ids = [job_id for job_id, _ in made]
    assert ids == sorted(ids)
    for at, (job_id, least) in zip(series, made, strict=True):
        assert (job_id.version, job_id.variant) == (7, "specified in RFC 4122")
        found = instant_of(job_id)
        assert found is not None
        assert abs(found - at.replace(microsecond=at.microsecond // 1000 * 1000)) <= timedelta(microseconds=1)
        assert least <= job_id
        assert least.int >> 80 == job_id.int >> 80
