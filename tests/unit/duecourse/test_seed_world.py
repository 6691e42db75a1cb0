"""The invented world: the same every time, of the size asked for, with every level and every warning day in it."""

from __future__ import annotations

from collections import Counter, defaultdict
from datetime import date, timedelta
from functools import cache
from itertools import pairwise

import pytest

from duecourse.local.errors import LocalError
from duecourse.local.seed_words import FIRMS, ZONES
from duecourse.local.seed_world import DUE_MILESTONES, EXPIRY_MILESTONES, World, imagine

DAY = date(2026, 3, 31)


@cache
def world() -> World:
    return imagine(day=DAY, tenants=24, clients=1000, documents=8000, filings=6000)


def latest_expiries() -> dict[str, date | None]:
    """Of each document, by its newest version (versions come in order)."""
    return {document: expiry and date.fromisoformat(expiry) for _, document, _, expiry in world().versions}


def valid_expiries() -> list[int]:
    """Days until the expiry of each valid document that has one."""
    latest = latest_expiries()
    return [
        (expiry - DAY).days
        for _, document, _, _, status in world().documents
        if status == "valid" and (expiry := latest[document]) is not None
    ]


def open_dues() -> list[int]:
    filings = world().filings
    return [(date.fromisoformat(due) - DAY).days for *_, status, due in filings if status in {"draft", "prepared"}]


def troubles() -> Counter[str]:
    """By client, as the score counts them."""
    found: Counter[str] = Counter()
    latest = latest_expiries()
    for _, document, client, _, status in world().documents:
        expiry = latest[document]
        expiring = status == "valid" and expiry is not None and DAY <= expiry <= DAY + timedelta(30)
        found[client] += status in {"pending_review", "rejected"} or expiring
    for _, _, client, _, status, due in world().filings:
        found[client] += status in {"draft", "prepared"} and date.fromisoformat(due) < DAY
    return found


def test_it_has_the_size_that_was_asked_for() -> None:
    sizes = {table: len(rows) for table, rows in world().rows().items()}
    assert sizes["tenants"] == 24
    assert sizes["clients"] == 1000
    assert sizes["documents"] == 8000
    assert sizes["filings"] == 6000
    assert 8000 < sizes["document_versions"] < 24_000


def test_it_is_the_same_every_time() -> None:
    assert imagine(day=DAY, tenants=24, clients=1000, documents=8000, filings=6000) == world()


def test_all_eleven_zones_have_a_tenant_and_all_firms_a_name_of_their_own() -> None:
    assert len(ZONES) == len(set(ZONES)) == 11
    assert {zone for *_, zone in world().tenants} == set(ZONES)
    assert len({name for _, name, _ in world().tenants}) == 24 == len(FIRMS)


def test_ids_and_addresses_are_unique_and_addresses_go_nowhere() -> None:
    for rows in (world().tenants, world().users):
        assert len({row[0] for row in rows}) == len(rows)
    for rows in (world().clients, world().documents, world().filings):
        assert len({row[1] for row in rows}) == len(rows)
    addresses = [email for _, email, _ in world().users] + [row[3] for row in world().clients if row[3]]
    assert len(set(addresses)) == len(addresses)
    assert all(address.endswith(".example") for address in addresses)  # reserved by RFC 2606


def test_every_tenant_has_managers_staff_a_viewer_and_clients() -> None:
    roles = defaultdict(set)
    for tenant, _, role in world().tenant_users:
        roles[tenant].add(role)
    tenants = {row[0] for row in world().tenants}
    assert all(roles[tenant] == {"manager", "staff", "viewer"} for tenant in tenants)
    assert {row[0] for row in world().clients} == tenants


def test_only_staff_of_the_tenant_is_assigned_and_some_clients_have_nobody() -> None:
    staff = {(tenant, user) for tenant, user, role in world().tenant_users if role == "staff"}
    assert {(tenant, user) for tenant, _, user in world().assignments} <= staff
    assigned = {client for _, client, _ in world().assignments}
    assert 0 < len(assigned) < 1000


def test_every_warning_day_occurs() -> None:
    assert set(EXPIRY_MILESTONES) <= set(valid_expiries())
    assert set(DUE_MILESTONES) | set(range(-7, 0)) <= set(open_dues())


def test_every_risk_level_occurs() -> None:
    by_client = troubles()
    scores = [max(0, 100 - 5 * by_client[row[1]]) for row in world().clients]
    levels = Counter("low" if score >= 80 else "medium" if score >= 50 else "high" for score in scores)
    assert levels["low"] > levels["medium"] > levels["high"] > 20


def test_a_version_expires_a_year_after_the_one_before() -> None:
    by_document = defaultdict(list)
    for _, document, number, expiry in world().versions:
        by_document[document].append((number, expiry and date.fromisoformat(expiry)))
    assert {len(versions) for versions in by_document.values()} == {1, 2, 3}
    for versions in by_document.values():
        assert [number for number, _ in versions] == list(range(1, len(versions) + 1))
        dates = [expiry for _, expiry in versions if expiry]
        assert all((after - before).days == 365 for before, after in pairwise(dates))


def test_more_tenants_than_firms_get_numbered_names() -> None:
    names = [name for _, name, _ in imagine(day=DAY, tenants=30, clients=30, documents=0, filings=0).tenants]
    assert len(set(names)) == 30


def test_a_tenant_without_a_client_is_refused() -> None:
    with pytest.raises(LocalError, match="24 tenants need at least as many clients, not 5"):
        imagine(day=DAY, tenants=24, clients=5, documents=0, filings=0)
