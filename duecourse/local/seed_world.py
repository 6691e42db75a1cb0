"""Draws an invented world: firms, people, clients, documents and filings. Pure: no database, no clock.

Every client is tidy, middling or messy, which decides how many of its obligations are in trouble, so that all three
risk levels occur (score = 100 − 5 × troubles; medium below 80, high below 50). Troubled dates come first on the days
on which warnings fall due.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date, timedelta
from itertools import chain, cycle
from random import Random
from typing import Any
from uuid import UUID

from duecourse.local import seed_words as words
from duecourse.local.errors import LocalError

SEED = 20_261_124
EXPIRY_MILESTONES = (30, 14, 7, 3, 1)
"""Days before expiry on which a document is announced."""
DUE_MILESTONES = (14, 7, 3, 0)
"""Days before the due date on which a filing is announced; while overdue it is announced daily for 7 days."""
CLIENTS_PER_STAFF = 60
DOCUMENT_CODES = tuple(words.DOCUMENT_TYPES)
FILING_CODES = tuple(words.FILING_TYPES)

Row = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Temper:
    """How a client keeps its papers."""

    share: float
    """Of all clients."""
    trouble: float
    """Probability that an obligation is missing, expiring or overdue."""
    weight: float
    """Of its share of documents and filings."""


TEMPERS = (Temper(0.66, 0.08, 1.0), Temper(0.24, 0.4, 1.2), Temper(0.10, 0.8, 1.6))


@dataclass(frozen=True, slots=True)
class World:
    """Rows of each table, in the order of `seed.COLUMN_TYPES`."""

    tenants: list[Row] = field(default_factory=list)
    users: list[Row] = field(default_factory=list)
    tenant_users: list[Row] = field(default_factory=list)
    clients: list[Row] = field(default_factory=list)
    assignments: list[Row] = field(default_factory=list)
    documents: list[Row] = field(default_factory=list)
    versions: list[Row] = field(default_factory=list)
    filings: list[Row] = field(default_factory=list)

    def rows(self) -> dict[str, list[Row]]:
        """By table name."""
        return {
            "tenants": self.tenants,
            "users": self.users,
            "tenant_users": self.tenant_users,
            "clients": self.clients,
            "client_assignments": self.assignments,
            "documents": self.documents,
            "document_versions": self.versions,
            "filings": self.filings,
        }


def imagine(*, day: date, tenants: int, clients: int, documents: int, filings: int) -> World:
    """The world around `day`. Raises `LocalError` when a tenant would be left without a client."""
    if clients < tenants:
        raise LocalError(f"{tenants} tenants need at least as many clients, not {clients}")
    sketch = _Sketch(day)
    for number, size in enumerate(_sizes(tenants, clients)):
        sketch.add_firm(number, size)
    random = sketch.random
    tempers = random.choices(TEMPERS, [temper.share for temper in TEMPERS], k=clients)
    weights = [temper.weight * random.uniform(0.5, 1.5) for temper in tempers]
    owners = list(zip(sketch.world.clients, tempers, strict=True))
    for client, temper in random.choices(owners, weights, k=documents):
        sketch.add_document(client, troubled=random.random() < temper.trouble)
    for client, temper in random.choices(owners, weights, k=filings):
        sketch.add_filing(client, troubled=random.random() < temper.trouble)
    return sketch.world


def _sizes(tenants: int, clients: int) -> list[int]:
    """Clients per tenant: at least one, most in the first, falling like 1/n."""
    spare = clients - tenants
    shares = [1 / (rank + 2) for rank in range(tenants)]
    sizes = [1 + int(spare * share / sum(shares)) for share in shares]
    sizes[0] += clients - sum(sizes)
    return sizes


class _Sketch:
    """A world in the making."""

    def __init__(self, day: date) -> None:
        self.world = World()
        self.random = Random(SEED)  # noqa: S311 - invented data, not secrets
        self.day = day
        self.expiries = _expiry_offsets(self.random)
        self.overdue = _overdue_offsets(self.random)
        self.upcoming = _upcoming_offsets(self.random)

    def add_firm(self, number: int, size: int) -> None:
        """A tenant with its people and clients."""
        random = self.random
        tenant = _uuid(random)
        name = words.FIRMS[number % len(words.FIRMS)]
        if number >= len(words.FIRMS):
            name = f"{name} {number // len(words.FIRMS) + 1}"
        self.world.tenants.append((tenant, name, words.ZONES[number % len(words.ZONES)]))
        staff = self._add_people(tenant, f"{_slug(name)}.example", size)
        for index in range(size):
            client = _uuid(random)
            title = _client_name(random)
            email = f"office@{_slug(title)}-{number}-{index}.example" if random.random() < 0.9 else None
            self.world.clients.append((tenant, client, title, email))
            if random.random() < 0.85:  # nobody is responsible for the others: the managers hear of them
                assigned = random.sample(staff, k=min(len(staff), random.choice((1, 1, 1, 2))))
                self.world.assignments.extend((tenant, client, user) for user in assigned)

    def _add_people(self, tenant: str, domain: str, clients: int) -> list[str]:
        """Managers, staff by the number of clients, and a viewer; returns the staff."""
        random = self.random
        staff = 1 + clients // CLIENTS_PER_STAFF
        roles = ["manager"] * (1 + (clients > 100)) + ["staff"] * staff + ["viewer"]
        users = [_uuid(random) for _ in roles]
        for index, (user, role) in enumerate(zip(users, roles, strict=True)):
            first, last = random.choice(words.FIRST_NAMES), random.choice(words.LAST_NAMES)
            self.world.users.append((user, f"{_slug(first)}.{_slug(last)}.{index + 1}@{domain}", f"{first} {last}"))
            self.world.tenant_users.append((tenant, user, role))
        return [user for user, role in zip(users, roles, strict=True) if role == "staff"]

    def add_document(self, client: Row, *, troubled: bool) -> None:
        """A document of one to three versions. Trouble is either its status or the date on which it expires."""
        random = self.random
        status, offset = "valid", None
        if troubled and random.random() < 0.5:
            status = random.choice(("pending_review", "pending_review", "rejected"))
        elif troubled:
            offset = next(self.expiries)
        else:
            status = random.choices(("valid", "archived"), (20, 1))[0]
        if offset is None and random.random() < 0.85:  # the others never expire
            offset = random.randint(31, 900) if random.random() < 0.98 else -random.randint(1, 200)
        tenant, client_id, *_ = client
        document = _uuid(random)
        self.world.documents.append((tenant, document, client_id, random.choice(DOCUMENT_CODES), status))
        versions = random.choices((1, 2, 3), (6, 3, 1))[0]
        for version in range(1, versions + 1):
            age = 365 * (versions - version)
            expiry = None if offset is None else (self.day + timedelta(offset - age)).isoformat()
            self.world.versions.append((tenant, document, version, expiry))

    def add_filing(self, client: Row, *, troubled: bool) -> None:
        """A filing: overdue if troubled, else still to come or done with."""
        random = self.random
        status = random.choice(("draft", "prepared"))
        if troubled:
            offset = next(self.overdue)
        elif random.random() < 0.45:
            offset = next(self.upcoming)
        else:
            status = random.choices(("filed", "cancelled"), (15, 1))[0]
            offset = random.randint(-300, 60)
        tenant, client_id, *_ = client
        due = (self.day + timedelta(offset)).isoformat()
        self.world.filings.append((tenant, _uuid(random), client_id, random.choice(FILING_CODES), status, due))


def _client_name(random: Random) -> str:
    last = random.choice(words.LAST_NAMES)
    if random.random() < 0.3:
        return f"{random.choice(words.FIRST_NAMES)} {last}"
    return f"{last} {random.choice(words.TRADES)} {random.choice(words.COMPANY_FORMS)}"


def _expiry_offsets(random: Random) -> Iterator[int]:
    """Days until expiry of troubled documents: every milestone once, then half of them on milestones."""
    rest = (random.choice(EXPIRY_MILESTONES) if random.random() < 0.5 else random.randint(0, 30) for _ in cycle((0,)))
    return chain(EXPIRY_MILESTONES, rest)


def _overdue_offsets(random: Random) -> Iterator[int]:
    """Days until the due date of overdue filings, which are negative: each of the last seven, then also older ones."""
    rest = (-random.randint(1, 7) if random.random() < 0.5 else -random.randint(8, 90) for _ in cycle((0,)))
    return chain(range(-1, -8, -1), rest)


def _upcoming_offsets(random: Random) -> Iterator[int]:
    """Days until the due date of open filings: every milestone once, then some of them on milestones."""
    rest = (random.choice(DUE_MILESTONES) if random.random() < 0.2 else random.randint(0, 120) for _ in cycle((0,)))
    return chain(DUE_MILESTONES, rest)


def _uuid(random: Random) -> str:
    return str(UUID(int=random.getrandbits(128), version=4))


def _slug(name: str) -> str:
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9]+", "-", plain).strip("-")
