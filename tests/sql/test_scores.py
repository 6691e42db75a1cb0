"""Compliance scores of random worlds against a slow and obvious reference."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, Engine, text

from functions.compliance.payloads import ComplianceRefresh
from functions.compliance.queries import Refreshed, refresh
from functions.compliance.refresh import perform
from functions.core.job import Job
from functions.core.outcome import Done, Skipped
from tests.harness import new_tenant

ZONES = ["Pacific/Kiritimati", "Asia/Kathmandu", "Europe/London", "America/New_York", "Pacific/Pago_Pago"]
EDGES = [-400, -30, -1, 0, 1, 29, 30, 31, 400]
"""Days from the tenant's local date at which a rule may change its mind, and far away."""


@dataclass(frozen=True)
class Document:
    status: str
    expiry_by_version: tuple[tuple[int, int | None], ...]
    """(version, days from the local date at which it expires), in the order of being stored."""


@dataclass(frozen=True)
class Filing:
    status: str
    due_in: int


@dataclass(frozen=True)
class Client:
    id: UUID
    documents: tuple[Document, ...]
    filings: tuple[Filing, ...]
    copies: int
    """Everything is there so many times, so that some scores reach the bottom."""


@dataclass(frozen=True)
class World:
    today: date
    """The dates of documents and filings are laid out around this day."""
    local_date: date
    """As of which the scores are refreshed."""
    clients: tuple[Client, ...]


Score = tuple[int, str, int, int, int]
"""score, level, missing, expiring, overdue"""


def slow_score(client: Client, world: World) -> Score:
    missing = expiring = overdue = 0
    for document in client.documents * client.copies:
        if document.status in {"pending_review", "rejected"}:
            missing += 1
        if document.status == "valid" and document.expiry_by_version:
            _, days = max(document.expiry_by_version)
            if days is not None:
                left = (world.today + timedelta(days) - world.local_date).days
                if 0 <= left <= 30:
                    expiring += 1
    for filing in client.filings * client.copies:
        due = world.today + timedelta(filing.due_in)
        if filing.status in {"draft", "prepared"} and due < world.local_date:
            overdue += 1
    score = 100
    for _ in range(missing + expiring + overdue):
        score = max(0, score - 5)
    level = "low" if score >= 80 else "medium" if score >= 50 else "high"
    return score, level, missing, expiring, overdue


days = st.sampled_from(EDGES) | st.integers(-40, 40)
versions = st.lists(
    st.tuples(st.integers(1, 9), st.none() | days), max_size=3, unique_by=lambda version: version[0]
).map(tuple)
documents = st.builds(Document, st.sampled_from(["pending_review", "valid", "valid", "rejected", "archived"]), versions)
filings = st.builds(Filing, st.sampled_from(["draft", "prepared", "filed", "cancelled"]), days)
clients = st.builds(
    Client,
    id=st.builds(uuid4),
    documents=st.lists(documents, max_size=4).map(tuple),
    filings=st.lists(filings, max_size=3).map(tuple),
    copies=st.sampled_from([1, 1, 1, 2, 5, 9]),
)


def _world(today: date, shift: int, members: list[Client]) -> World:
    return World(today, today + timedelta(shift), tuple(members))


worlds = st.builds(
    _world,
    st.dates(date(2020, 1, 1), date(2030, 12, 31)),
    st.integers(-2, 2),
    st.lists(clients, max_size=4),
)


def mutated(data: st.DataObject, world: World) -> World:
    """The same clients some days later or earlier, some of them with other documents and filings."""
    changed = [
        replace(data.draw(clients), id=client.id) if data.draw(st.booleans()) else client for client in world.clients
    ]
    later = world.local_date + timedelta(data.draw(st.integers(-5, 35)))
    return replace(world, clients=tuple(changed), local_date=later)


CLEAR = text("""
    WITH gone AS (DELETE FROM documents WHERE tenant_id = :tenant) DELETE FROM filings WHERE tenant_id = :tenant
""")
ADD_CLIENTS = text("""
    INSERT INTO clients (tenant_id, id, name) SELECT :tenant, unnest(CAST(:ids AS uuid[])), 'Client'
    ON CONFLICT DO NOTHING
""")
ADD_DOCUMENTS = text("""
    WITH r AS (
        SELECT * FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS r(id uuid, client uuid, status text, versions jsonb)
    ), added AS (
        INSERT INTO documents (tenant_id, id, client_id, document_type, status)
        SELECT :tenant, id, client, 'passport', status FROM r
    )
    INSERT INTO document_versions (tenant_id, document_id, version, expiry_date)
    SELECT :tenant, r.id, (v ->> 0)::int, (v ->> 1)::date FROM r, jsonb_array_elements(versions) AS v
""")
ADD_FILINGS = text("""
    INSERT INTO filings (tenant_id, client_id, filing_type, status, due_date)
    SELECT :tenant, client, 'vat', status, due
    FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS r(client uuid, status text, due date)
""")


def store(tx: Connection, tenant: UUID, world: World) -> None:
    """Make the tenant's documents and filings those of the world."""

    def day(offset: int | None) -> str | None:
        return None if offset is None else (world.today + timedelta(offset)).isoformat()

    files = [
        {
            "id": str(uuid4()),
            "client": str(client.id),
            "status": document.status,
            "versions": [(version, day(offset)) for version, offset in document.expiry_by_version],
        }
        for client in world.clients
        for document in client.documents * client.copies
    ]
    dues = [
        {"client": str(client.id), "status": filing.status, "due": day(filing.due_in)}
        for client in world.clients
        for filing in client.filings * client.copies
    ]
    tx.execute(CLEAR, {"tenant": tenant})
    tx.execute(ADD_CLIENTS, {"tenant": tenant, "ids": [client.id for client in world.clients]})
    tx.execute(ADD_DOCUMENTS, {"tenant": tenant, "rows": json.dumps(files)})
    tx.execute(ADD_FILINGS, {"tenant": tenant, "rows": json.dumps(dues)})


def _types(tx: Connection) -> None:
    tx.execute(text("INSERT INTO document_types VALUES ('passport', 'Passport') ON CONFLICT DO NOTHING"))
    tx.execute(text("INSERT INTO filing_types VALUES ('vat', 'VAT return') ON CONFLICT DO NOTHING"))


Row = tuple[Score, date, datetime]
"""The score, as of when, and when it was written."""


def current(tx: Connection, tenants: Iterable[UUID]) -> dict[UUID, Row]:
    found = tx.execute(
        text("SELECT * FROM compliance_scores WHERE tenant_id = ANY(CAST(:ids AS uuid[]))"), {"ids": list(tenants)}
    )
    return {row.client_id: (_score(row), row.as_of, row.updated_at) for row in found}


def history(tx: Connection, tenants: Iterable[UUID]) -> dict[UUID, list[tuple[Score, date]]]:
    found = tx.execute(
        text("SELECT * FROM compliance_score_history WHERE tenant_id = ANY(CAST(:ids AS uuid[])) ORDER BY id"),
        {"ids": list(tenants)},
    )
    lines: dict[UUID, list[tuple[Score, date]]] = {}
    for row in found:
        lines.setdefault(row.client_id, []).append((_score(row), row.as_of))
    return lines


def _score(row: Any) -> Score:
    return row.score, row.level, row.missing, row.expiring, row.overdue


def _clients(worlds_of: dict[UUID, World]) -> dict[UUID, tuple[Client, World]]:
    return {client.id: (client, world) for world in worlds_of.values() for client in world.clients}


@settings(
    max_examples=200,
    deadline=None,
    report_multiple_bugs=False,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.data(), st.lists(worlds, min_size=1, max_size=3))
def test_scores_of_any_world_equal_the_slow_reference_before_and_after_it_changes(
    database: Engine, data: st.DataObject, drawn: list[World]
) -> None:
    with database.begin() as tx:
        _types(tx)
        before = {new_tenant(tx, zone=data.draw(st.sampled_from(ZONES))): world for world in drawn}
        bystander = new_tenant(tx)
        store(tx, bystander, drawn[0])
        for tenant, world in before.items():
            store(tx, tenant, world)
        gone = uuid4()
        done = refresh(tx, {tenant: world.local_date for tenant, world in before.items()} | {gone: date(2026, 1, 1)})
        sizes = {tenant: len(world.clients) for tenant, world in before.items()}
        assert done == {tenant: Refreshed(size, size) for tenant, size in sizes.items()}
    with database.begin() as tx:
        first = current(tx, before)
        expected = {key: (slow_score(*pair), pair[1].local_date) for key, pair in _clients(before).items()}
        assert {key: row[:2] for key, row in first.items()} == expected
        assert history(tx, before) == {key: [line] for key, line in expected.items()}
        assert current(tx, [bystander]) == {}

    after = {tenant: mutated(data, world) for tenant, world in before.items()}
    with database.begin() as tx:
        for tenant, world in after.items():
            store(tx, tenant, world)
        done = refresh(tx, {tenant: world.local_date for tenant, world in after.items()})
    with database.begin() as tx:
        second = current(tx, after)
        lines = history(tx, after)
        changed: Callable[[UUID], bool] = lambda key: second[key][0] != first[key][0]  # noqa: E731
        older = {tenant for tenant, world in after.items() if world.local_date < before[tenant].local_date}
        assert {tenant for tenant, found in done.items() if found is None} == older
        for key, (client, world) in _clients(after).items():
            if any(client in after[tenant].clients for tenant in older):
                assert (second[key], lines[key]) == (first[key], [first[key][:2]]), "an older day wrote something"
                continue
            assert second[key][0] == slow_score(client, world)
            if changed(key):
                assert second[key][1] == world.local_date
                assert lines[key] == [first[key][:2], second[key][:2]]
            else:
                assert second[key] == first[key], "a row that did not change was written again"
                assert lines[key] == [first[key][:2]]
        for tenant, found in done.items():
            if found is not None:
                assert found.changed == sum(changed(client.id) for client in after[tenant].clients)


DAYS = [date(2026, 11, day) for day in (23, 24, 25)]


def _firm(tx: Connection, clients: int) -> UUID:
    """A tenant whose every score is another on each of three days: documents run out of the days that count."""
    _types(tx)
    tenant = new_tenant(tx)
    expires = tuple(Document("valid", ((1, offset),)) for offset in (0, 1, 2))
    members = tuple(Client(uuid4(), expires, (), 1) for _ in range(clients))
    store(tx, tenant, World(DAYS[0], DAYS[0], members))
    return tenant


def _as_of(tx: Connection, tenants: Iterable[UUID]) -> set[tuple[int, date]]:
    """What the scores of these tenants say expires, and as of when."""
    return {(score[3], as_of) for score, as_of, _ in current(tx, tenants).values()}


def _job(tenant: UUID | None, day: date) -> Job[ComplianceRefresh]:
    return Job(uuid4(), "compliance.refresh", tenant, ComplianceRefresh(local_date=day), 0, 1, "test", None)


@pytest.mark.parametrize("unchanged", [True, False], ids=["the later day changed nothing", "the later day changed it"])
def test_an_older_day_that_runs_late_is_skipped_and_says_why(database: Engine, unchanged: bool) -> None:
    with database.begin() as tx:
        tenant = _firm(tx, 3)
        refresh(tx, {tenant: DAYS[1]})
        later = DAYS[2]
        if unchanged:
            tx.execute(text("DELETE FROM documents"))
            refresh(tx, {tenant: DAYS[1]})
        assert isinstance(perform([_job(tenant, later)], tx)[0], Done)
        found = current(tx, [tenant])
        assert {as_of for _, as_of, _ in found.values()} == {DAYS[1] if unchanged else later}
        assert perform([_job(tenant, DAYS[1])], tx) == [Skipped("the scores are as of a later day already")]
        assert current(tx, [tenant]) == found


def test_the_same_day_by_hand_is_refreshed_again_and_wins(database: Engine) -> None:
    with database.begin() as tx:
        tenant = _firm(tx, 2)
        refresh(tx, {tenant: DAYS[0]})
        tx.execute(text("DELETE FROM documents"))
        assert perform([_job(tenant, DAYS[0])], tx) == [Done({"clients": 2, "changed": 2})]
        assert _as_of(tx, [tenant]) == {(0, DAYS[0])}


def test_of_several_days_in_one_batch_the_latest_is_written_and_each_job_says_what_became_of_it(
    database: Engine,
) -> None:
    with database.begin() as tx:
        one, two = _firm(tx, 1), _firm(tx, 1)
        refresh(tx, {two: DAYS[2]})
        jobs = [_job(one, DAYS[0]), _job(one, DAYS[1]), _job(two, DAYS[1]), _job(one, DAYS[1]), _job(uuid4(), DAYS[0])]
        newer = Skipped("the scores are as of a later day already")
        done = Done({"clients": 1, "changed": 1})
        assert perform(jobs, tx) == [newer, done, newer, done, Skipped("the tenant was deleted")]
        assert (_as_of(tx, [one]), _as_of(tx, [two])) == ({(2, DAYS[1])}, {(1, DAYS[2])})


def test_batches_at_once_that_share_tenants_leave_the_scores_of_the_latest_day(
    database: Engine, observer: Engine
) -> None:
    with database.begin() as tx:
        tenants = [_firm(tx, 20) for _ in range(4)]

    def batch(number: int) -> None:
        order = tenants if number % 2 else tenants[::-1]
        with observer.begin() as tx:
            refresh(tx, dict.fromkeys(order, DAYS[number % 3]))

    for _ in range(3):
        with database.begin() as tx:
            tx.execute(text("TRUNCATE compliance_scores, compliance_refreshes"))
        with ThreadPoolExecutor(6) as threads:
            list(threads.map(batch, range(12)))
        with database.begin() as tx:
            assert _as_of(tx, tenants) == {(1, DAYS[2])}


def test_an_older_day_that_waited_for_the_later_one_writes_nothing(database: Engine, observer: Engine) -> None:
    with database.begin() as tx:
        tenant = _firm(tx, 1)
    with ThreadPoolExecutor(1) as other, observer.begin() as later:
        refresh(later, {tenant: DAYS[2]})

        def older() -> object:
            with observer.begin() as tx:
                return refresh(tx, {tenant: DAYS[0]})[tenant]

        waiting = other.submit(older)
        _until_one_waits(database)
        later.commit()
        assert waiting.result(timeout=10) is None
    with database.begin() as tx:
        assert _as_of(tx, [tenant]) == {(1, DAYS[2])}


def _until_one_waits(engine: Engine) -> None:
    waits = text("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'")
    until = time.monotonic() + 10
    while time.monotonic() < until:
        with engine.begin() as tx:
            if tx.execute(waits).scalar_one():
                return
        time.sleep(0.01)
    raise AssertionError("nobody waits for a lock")
