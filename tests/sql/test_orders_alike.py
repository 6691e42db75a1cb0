"""What Python refuses of an order, plain SQL refuses in the same words, and what one takes, the other takes."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import fields
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError

from functions.core import limits
from functions.core.catalog import Catalog, JobType, Queue
from functions.core.errors import InvalidPayload
from functions.core.job import JobRequest
from functions.core.jsonb import why_not_jsonb
from functions.db.migrate import sync_catalog
from functions.pipeline.enqueue import enqueue

MARGIN = timedelta(minutes=1)
"""From a boundary, so that it lies on the same side for both, who look at the clock one after the other."""


class Anything(BaseModel):
    """A contract that takes every object."""

    model_config = ConfigDict(extra="allow")


CATALOG = Catalog(
    queues=(Queue("any", timeout_seconds=30),),
    job_types=(JobType("any.thing", "any", "tests.sql.test_orders_alike:Anything", "tests.jobs:perform"),),
    schedules=(),
)


@pytest.fixture
def anything(database: Engine) -> Engine:
    with database.begin() as tx:
        sync_catalog(tx, CATALOG)
    return database


def by_python(engine: Engine, order: Mapping[str, Any]) -> str | None:
    """Why Python refuses the order; None when it takes it."""
    with engine.connect() as tx:  # rolled back
        try:
            enqueue(tx, [JobRequest("any.thing", **order)], catalog=CATALOG)
        except (ValueError, InvalidPayload) as error:
            return str(error)
        except DBAPIError as error:
            return _sentence(error)
    return None


def by_sql(tx: Connection, order: Mapping[str, Any]) -> str | None:
    """Why plain SQL refuses it. What is no JSON at all is refused before."""
    given = {name: value for name, value in order.items() if value is not None}
    body = json.dumps([{"type": "any.thing", **given}], default=_json)
    try:
        with tx.begin_nested() as savepoint:
            tx.execute(text("SELECT * FROM enqueue_jobs(CAST(:orders AS jsonb))"), {"orders": body}).all()
            savepoint.rollback()
    except DBAPIError as error:
        return _sentence(error)
    return None


def _json(value: object) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)


def _sentence(error: DBAPIError) -> str:
    assert error.orig is not None
    return str(error.orig.args[0]["M"]).removeprefix("order 1: ")


def now() -> datetime:
    return datetime.now(UTC)


def near(edge: timedelta) -> st.SearchStrategy[datetime]:
    """Instants on either side of an edge, in any zone."""
    return st.builds(
        lambda side, zone: (now() + edge + side * MARGIN).astimezone(zone),
        st.sampled_from([-1, 1]),
        st.sampled_from([UTC, timezone(timedelta(hours=14)), timezone(timedelta(hours=-12, minutes=-30))]),
    )


INSTANTS = st.one_of(
    st.none(),
    st.datetimes(timezones=st.just(UTC)),
    near(-limits.EARLIEST_BEFORE_NOW),
    near(limits.LATEST_AFTER_NOW),
    near(timedelta(0)),
    st.sampled_from([datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)]),
)
SECONDS = st.one_of(
    st.none(),
    st.floats(),
    st.integers(),
    st.sampled_from([0, -0.0, 1e-300, -1e-9, math.nan, math.inf, 1e300, 10**40]),
    st.sampled_from([limits.LONGEST_WAIT_SECONDS, limits.LONGEST_WAIT_SECONDS + 1]),
)


def words(longest: int) -> st.SearchStrategy[str]:
    """Texts short and on either side of their limit, of every character, and half a surrogate pair."""
    edges = st.builds(
        lambda letter, more: letter * (longest + more), st.sampled_from("aé🎉"), st.sampled_from([-1, 0, 1])
    )
    odd = st.sampled_from(
        ["", "\x00", "a\x1fb", "a\x7fb", "a\x85b", "a\xa0b", "\ud800", "a\nb", "x/y", "NaN", "\\u0000"]
    )
    return st.one_of(st.text(max_size=20), edges, odd)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10) | st.just("\ud800"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
OBJECTS = st.dictionaries(st.text(max_size=5), JSON, max_size=3)
AT_THE_LIMIT = st.builds(
    lambda more, letter: {
        "text": letter * ((limits.LARGEST_PAYLOAD - len('{"text": ""}')) // len(letter.encode()) + more)
    },
    st.sampled_from([-1, 0, 1]),
    st.sampled_from("ax"),
)
ORDERS = st.fixed_dictionaries(
    {"payload": OBJECTS | AT_THE_LIMIT | JSON},
    optional={
        "tenant_id": st.uuids() | st.none() | st.just("no uuid"),
        "priority": st.integers(-3, 3) | st.sampled_from([10**6, 2**31]),
        "run_at": INSTANTS,
        "delay_seconds": SECONDS,
        "deadline_at": INSTANTS,
        "dedup_key": st.none() | words(limits.LONGEST_DEDUP_KEY),
        "dedup_window_seconds": SECONDS,
        "correlation_id": st.none() | words(limits.LONGEST_CORRELATION_ID),
    },
)


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(ORDERS)
@example({"payload": {}, "dedup_key": "k", "dedup_window_seconds": 1e-320})
@example({"payload": {"x": [1e300] * 900}})
def test_python_and_sql_take_and_refuse_the_same(anything: Engine, order: dict[str, Any]) -> None:
    said = by_python(anything, order)
    with anything.connect() as tx:
        also = by_sql(tx, order)
    assert (said is None) == (also is None), f"Python: {said}; SQL: {also}"
    if said is not None:
        assert "\n" not in said


LIMIT = limits.LARGEST_PAYLOAD
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"payload": {"x": "y" * LIMIT}}, f"payload is at most {LIMIT} bytes as text, not {LIMIT + 9}"),
    ({"priority": 2}, "priority is 1, 0 or -1, not 2"),
    ({"run_at": now() - timedelta(days=15)}, "run_at lies between 14 days ago and ten years ahead"),
    ({"deadline_at": now() + timedelta(days=3654)}, "deadline_at lies between 14 days ago and ten years ahead"),
    ({"run_at": now(), "delay_seconds": 1}, "give run_at or delay_seconds, not both"),
    ({"delay_seconds": -1}, "delay_seconds is a number from 0 to 315619200 (ten years)"),
    ({"dedup_key": ""}, "dedup_key has 1 to 500 characters, not 0"),
    ({"dedup_key": "k" * 501}, "dedup_key has 1 to 500 characters, not 501"),
    ({"dedup_window_seconds": 1}, "dedup_window_seconds needs a dedup_key"),
    (
        {"dedup_key": "k", "dedup_window_seconds": 0},
        "dedup_window_seconds is a number above 0, up to 315619200 (ten years)",
    ),
    ({"correlation_id": ""}, "correlation_id has 1 to 256 characters, and no control characters"),
    ({"correlation_id": "c" * 257}, "correlation_id has 1 to 256 characters, and no control characters"),
    ({"correlation_id": "a\x85b"}, "correlation_id has 1 to 256 characters, and no control characters"),
    ({"tenant_id": "no uuid"}, "tenant_id cannot be read as a uuid"),
]


def test_both_refuse_in_the_same_words(anything: Engine) -> None:
    orders = [{"payload": {}} | order for order, _ in REFUSED]
    python = [by_python(anything, order) for order in orders]
    with anything.connect() as tx:
        plain = [by_sql(tx, order) for order in orders]
    assert python == plain == [sentence for _, sentence in REFUSED]


UNSAYABLE = [
    ("{}", "orders must be a JSON array of objects"),
    ("17", "orders must be a JSON array of objects"),
    ('[{"type": "any.thing", "payload": {}}, 17]', "order 2: it must be a JSON object"),
    ('[{"type": "any.thing"}]', "order 1: payload must be a JSON object"),
    ('[{"type": "any.thing", "payload": null}]', "order 1: payload must be a JSON object"),
    ('[{"type": "any.thing", "payload": "{}"}]', "order 1: payload must be a JSON object"),
    ('[{"type": "any.thing", "payload": {"x": 1e131071, "y": 1e131071}}]', "order 1: payload is at most 262144 bytes"),
    ('[{"type": "any.thing", "payload": {}, "dedup_ky": "k"}]', "order 1: an order has no field dedup_ky"),
    (
        '[{"type": "any.thing", "payload": {}, "group_key": "g"}]',
        "order 1: group_key cannot be given: the group follows",
    ),
    ('[{"type": "any.thing", "payload": {}, "run_at": "infinity"}]', "order 1: run_at lies between 14 days ago"),
    ('[{"type": "any.thing", "payload": {}, "run_at": "294276-01-01T00:00:00Z"}]', "order 1: run_at lies between"),
    ('[{"type": "any.thing", "payload": {}, "run_at": "0044-03-15T00:00:00Z BC"}]', "order 1: run_at lies between"),
    ('[{"type": "any.thing", "payload": {}, "deadline_at": "-infinity"}]', "order 1: deadline_at lies between"),
    (
        '[{"type": "any.thing", "payload": {}, "run_at": "300000-01-01T00:00:00Z"}]',
        "order 1: run_at cannot be read as an",
    ),
    ('[{"type": "any.thing", "payload": {}, "run_at": "today"}]', "order 1: run_at needs an offset from UTC"),
    ('[{"type": "any.thing", "payload": {}, "run_at": "soon"}]', "order 1: run_at cannot be read as an instant"),
    ('[{"type": "any.thing", "payload": {}, "priority": 1.5}]', "order 1: priority cannot be read as a number"),
    ('[{"type": "any.thing", "payload": {}, "priority": 99999}]', "order 1: priority cannot be read as a number"),
    ('[{"type": "any.thing", "payload": {}, "delay_seconds": "NaN"}]', "order 1: delay_seconds is a number from 0"),
    ('[{"type": "any.thing", "payload": {}, "delay_seconds": 1e999}]', "order 1: delay_seconds cannot be read as a"),
    ('[{"type": "any.thing", "payload": {}, "id": "17"}]', "order 1: id cannot be read as a uuid"),
    ('[{"type": "any.thing", "payload": {}, "priority": 5, "priority": 0}, {"type": 5}]', "unknown job type: 5"),
]


def test_plain_sql_refuses_what_python_cannot_even_say(anything: Engine) -> None:
    for orders, sentence in UNSAYABLE:
        with pytest.raises(DBAPIError) as refused, anything.begin() as tx:
            tx.execute(text("SELECT * FROM enqueue_jobs(CAST(:orders AS jsonb))"), {"orders": orders})
        assert refused.value.orig is not None
        assert refused.value.orig.args[0]["M"].startswith(sentence), orders
    with anything.begin() as tx:
        assert tx.execute(text("SELECT count(*) FROM jobs")).scalar_one() == 0
        assert tx.execute(text("SELECT count(*) FROM job_keys")).scalar_one() == 0


def test_an_order_in_plain_sql_names_every_field_that_python_has(anything: Engine) -> None:
    full = {field.name: None for field in fields(JobRequest)} | {"type": "any.thing", "payload": {}}
    with anything.begin() as tx:
        tx.execute(text("SELECT * FROM enqueue_jobs(CAST(:orders AS jsonb))"), {"orders": json.dumps([full])})
        assert tx.execute(text("SELECT count(*) FROM jobs")).scalar_one() == 1


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(JSON.filter(lambda value: why_not_jsonb(value) is None))
def test_a_size_is_what_postgresql_makes_of_it(database: Engine, value: object) -> None:
    with database.begin() as tx:
        found = tx.execute(
            text("SELECT octet_length(CAST(CAST(:value AS jsonb) AS text))"), {"value": json.dumps(value)}
        ).scalar_one()
    assert abs(limits.json_size(value) - found) <= json.dumps(value).count("-0.0"), "PostgreSQL knows no -0"


def test_one_bad_order_among_a_thousand_is_named(anything: Engine) -> None:
    orders = [{"type": "any.thing", "payload": {}, "tenant_id": str(uuid4())} for _ in range(1000)]
    orders[712]["tenant_id"] = "17"
    with pytest.raises(DBAPIError, match="order 713: tenant_id cannot be read as a uuid"), anything.begin() as tx:
        tx.execute(text("SELECT * FROM enqueue_jobs(CAST(:orders AS jsonb))"), {"orders": json.dumps(orders)})


def test_a_uuid_in_any_spelling_is_one_tenant(anything: Engine) -> None:
    tenant = UUID("6f1ed002-ab5e-4a9e-8c4b-16d0f9b3a6a1")
    with anything.begin() as tx:
        for spelled in (str(tenant), str(tenant).upper(), tenant.hex, f"{{{tenant}}}"):
            order = [{"type": "any.thing", "payload": {}, "tenant_id": spelled}]
            tx.execute(text("SELECT * FROM enqueue_jobs(CAST(:orders AS jsonb))"), {"orders": json.dumps(order)})
        assert {row.tenant_id for row in tx.execute(text("SELECT tenant_id FROM jobs"))} == {tenant}
