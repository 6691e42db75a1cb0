"""The body of a message: what is accepted, and readable reasons for what is not, that quote nothing of it."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from functions.core.catalog import CATALOG
from functions.core.errors import DuecourseError, NewerEnvelope, RejectedMessage
from functions.core.job import ENVELOPE_VERSION
from functions.pipeline.envelope import EXTERNAL_ID_FUTURE, EXTERNAL_ID_PAST, Envelope, instant_of, misplaced, parse

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
JOB_ID = "0193a1b2-c3d4-7e5f-8a9b-0c1d2e3f4a5b"
SECOND = timedelta(seconds=1)


def uuid7(at: datetime) -> UUID:
    return UUID(int=(int(at.timestamp() * 1000) << 80) | (7 << 76) | (2 << 62) | (uuid4().int & (2**62 - 1)))


def body(**fields: Any) -> dict[str, Any]:
    return {"v": 1, "id": JOB_ID, "delivery": 1, "type": "upkeep.probe"} | fields


def external(**fields: Any) -> dict[str, Any]:
    return {"v": 1, "type": "upkeep.probe", "external": True, "payload": {}, "id": str(uuid7(NOW))} | fields


def read(raw: object, queue: str = "upkeep") -> Envelope:
    text = raw if isinstance(raw, str) else json.dumps(raw)
    return parse(text, queue=queue, catalog=CATALOG, now=NOW)


def reason(raw: object, queue: str = "upkeep") -> str:
    with pytest.raises(RejectedMessage) as rejected:
        read(raw, queue)
    return str(rejected.value)


def complaint(text: str, queue: str) -> str:
    """What reading the text says against it: nothing, or the message of one of our own errors."""
    try:
        read(text, queue)
    except DuecourseError as error:
        return str(error)
    return ""


def test_a_reference_is_read() -> None:
    tenant = str(uuid4())
    found = read(body(delivery=3, tenant_id=tenant, correlation_id="c"))
    assert (str(found.id), found.delivery, found.type) == (JOB_ID, 3, "upkeep.probe")
    assert (str(found.tenant_id), found.correlation_id, found.external) == (tenant, "c", False)


def test_a_field_that_a_later_release_added_is_ignored() -> None:
    assert str(read(body(trace="x")).id) == JOB_ID


def test_an_external_message_brings_its_payload() -> None:
    assert read(external(payload={"note": "hello"})).payload == {"note": "hello"}


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        ("", "the body is no JSON: Expecting value at position 0"),
        ('{"v": 1', "the body is no JSON"),
        ("[]", "the body is a JSON array, not an object"),
        ('"text"', "the body is a JSON string, not an object"),
        ("17", "the body is a JSON number, not an object"),
        ("true", "the body is a JSON boolean, not an object"),
        ("null", "the body is a JSON null, not an object"),
        ("[" * 100_000, "the body is no JSON"),
        ("1" * 10_000, "the body is no JSON"),
        ({}, "v: Field required; type: Field required"),
        (body(v=0), "v: "),
        (body(v="2"), "v: "),
        (body(id=None), "a message needs the id of its job"),
        (body(id="17"), "id: Input should be a valid UUID"),
        (body(delivery=0), "delivery: Input should be greater than or equal to 1"),
        (body(delivery=2**31), "delivery: Input should be less than"),
        (external(type="upkeep.unknown"), "unknown job type 'upkeep.unknown'; the catalogue has: compliance.refresh"),
        (external(payload=None), "an external message needs its payload"),
        (external(dedup_key="k"), "an external message needs either an id (UUIDv7) or a dedup_key"),
        (external(id=None), "an external message needs either an id (UUIDv7) or a dedup_key"),
        (external(id=None, dedup_key=""), "dedup_key: String should have at least 1 character"),
        (external(correlation_id=""), "correlation_id has 1 to 256 characters, and no control characters"),
        (external(correlation_id="c" * 257), "correlation_id has 1 to 256 characters, and no control characters"),
        (external(correlation_id="a\x85b"), "correlation_id has 1 to 256 characters, and no control characters"),
        (external(payload={"x": "y" * 262_144}), "payload is at most 262144 bytes as text, not 262153"),
        (external(id=str(uuid4())), "an external message's id must be a UUIDv7"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_body_that_is_no_message_is_rejected_with_a_readable_reason(raw: object, why: str) -> None:
    assert why in reason(raw)


def test_an_external_job_of_another_queue_is_told_where_it_belongs() -> None:
    wrong = reason(external(), queue="compliance-refresh")
    assert wrong == "job type 'upkeep.probe' travels on queue 'upkeep', not 'compliance-refresh'"


@pytest.mark.parametrize(
    ("found", "why"),
    [
        (body(), "job type 'upkeep.probe' travels on queue 'upkeep', not 'email'"),
        (body(type="job.of.tomorrow"), "unknown job type 'job.of.tomorrow'"),
    ],
)
def test_of_a_reference_the_ledger_knows_better_than_the_catalogue(found: dict[str, Any], why: str) -> None:
    assert (misplaced(read(found, queue="email"), queue="email", catalog=CATALOG) or "").startswith(why)


@pytest.mark.parametrize(
    "unstorable",
    ['"\\u0000"', '"\\ud800"', "NaN", "-Infinity", "1e999", '{"\\u0000": 1}'],
)
def test_what_postgresql_cannot_hold_is_rejected_before_it_can_fail_a_whole_batch(unstorable: str) -> None:
    text = json.dumps(external(payload={"note": "here"})).replace('"here"', unstorable)
    assert "PostgreSQL" in reason(text)


def test_a_text_that_only_speaks_of_nul_is_fine() -> None:
    assert read(external(payload={"note": "\\u0000"})).payload == {"note": "\\u0000"}


@pytest.mark.parametrize("extra", [{}, {"type": "job.of.tomorrow"}, {"id": {"another": "shape"}}])
def test_a_message_of_a_later_release_is_left_to_that_release_whatever_it_holds(extra: dict[str, Any]) -> None:
    with pytest.raises(
        NewerEnvelope, match=f"envelope version {ENVELOPE_VERSION + 1} is newer than this release's {ENVELOPE_VERSION}"
    ):
        read(body(v=ENVELOPE_VERSION + 1) | extra)


@pytest.mark.parametrize("age", [EXTERNAL_ID_PAST, timedelta(0), -EXTERNAL_ID_FUTURE])
def test_an_external_id_is_accepted_as_long_as_sqs_may_hold_its_message(age: timedelta) -> None:
    job_id = uuid7(NOW - age)
    assert read(external(id=str(job_id))).id == job_id


@pytest.mark.parametrize(
    ("made", "shown"),
    [
        (NOW - EXTERNAL_ID_PAST - SECOND, "2026-11-10"),
        (NOW + EXTERNAL_ID_FUTURE + SECOND, "2026-11-25"),
        (datetime(1970, 1, 1, tzinfo=UTC), "1970-01-01"),
    ],
)
def test_an_external_id_from_another_time_is_rejected(made: datetime, shown: str) -> None:
    expected = f"must be from the last 14 days or the coming 1; this one is from {shown}"
    assert reason(external(id=str(uuid7(made)))).endswith(expected)


def test_an_external_id_beyond_the_end_of_the_calendar_is_rejected() -> None:
    assert "must be from the last 14 days" in reason(external(id="ffffffff-ffff-7fff-bfff-ffffffffffff"))


def test_ids_of_our_own_need_no_time() -> None:
    assert read(body(id=str(uuid7(NOW - timedelta(days=400))))).delivery == 1


@given(st.datetimes(timezones=st.just(UTC), min_value=datetime.fromisoformat("1970-01-01")))
def test_a_uuid7_tells_its_instant_to_the_millisecond(at: datetime) -> None:
    found = instant_of(uuid7(at))
    assert found is not None
    assert abs(found - at) <= timedelta(milliseconds=1)


@given(st.uuids(version=4))
def test_other_uuids_tell_no_instant(job_id: UUID) -> None:
    assert instant_of(job_id) is None


SECRETS = st.text("ABCDEFGHÄÖÜ 0123456789@", min_size=12, max_size=60).map(lambda text: f"Geheim {text}")
FIELDS = ["v", "id", "type", "delivery", "tenant_id", "correlation_id", "external", "payload", "dedup_key"]


def planted(secret: str) -> st.SearchStrategy[object]:
    """The secret as it is, or somewhere inside a value."""
    return st.recursive(
        st.just(secret),
        lambda inner: st.one_of(st.lists(inner, min_size=1, max_size=3), st.dictionaries(st.just("k"), inner)),
        max_leaves=3,
    )


@settings(max_examples=400)
@given(st.data())
def test_no_reason_quotes_a_value_of_the_body(data: st.DataObject) -> None:
    secret = data.draw(SECRETS)
    base = data.draw(st.sampled_from([body(), external(), {}]))
    places = data.draw(st.lists(st.sampled_from(FIELDS), min_size=1, max_size=3, unique=True))
    text = json.dumps(base | {place: data.draw(planted(secret)) for place in places})
    if data.draw(st.integers(0, 9)) == 9:
        text = data.draw(st.sampled_from([f"[{text}]", text[:-1], secret]))
    said = complaint(text, data.draw(st.sampled_from(["upkeep", "compliance-refresh"])))
    assert secret not in said
    assert secret[:10] not in said
    assert len(said) < 1_000


@given(st.one_of(st.text(), st.recursive(st.none() | st.booleans() | st.floats() | st.text(), st.lists)))
def test_any_text_and_any_json_is_read_or_rejected_never_a_crash(raw: object) -> None:
    for text in (raw if isinstance(raw, str) else "", json.dumps(raw), json.dumps(external(payload={"x": raw}))):
        complaint(text, "upkeep")
