"""What a chaos run adds to the flow ends as its verdict expects: wrong handlers, orders held open, mails."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from uuid import UUID

import pytest
from sqlalchemy import Engine, text

from duecourse.chaos import applications, misbehave
from duecourse.chaos.applications import Applications
from duecourse.chaos.load import MAILS, MISTAKEN, OPEN, Kind, Load, Order
from duecourse.chaos.mails import MAILS_PER_READER, Mails, Reader, make_readers
from duecourse.chaos.saboteur import Saboteur, Spec
from duecourse.chaos.verdict import Observed, judge
from functions.core.catalog import CATALOG
from functions.core.resolve import resolve
from functions.db.settings import DatabaseSettings, load_settings
from functions.pipeline import relay
from functions.pipeline.enqueue import validate_payload
from functions.pipeline.keys import decide_contested
from functions.upkeep import probe
from tests.harness import Queues, new_tenant, work

PATIENCE_SECONDS = 20.0


@pytest.fixture
def load(database: Engine) -> Load:
    made = Load(database, random.Random(1), seed=1, backlog=100)
    with database.begin() as tx:
        made.tenants = [new_tenant(tx)]
    return made


@pytest.fixture
def settings(database: Engine) -> DatabaseSettings:
    return load_settings()


@pytest.fixture
def sabotaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Saboteur]:
    """Probes do what their notes say."""
    paths = {name: str(tmp_path / name) for name in ("log", "calm", "switches")}
    saboteur = Saboteur(Spec(seed=1, kill_rate=0.0, life=5, stall_seconds=0.0, skew_seconds=0.0, **paths))
    monkeypatch.setattr(probe, "perform", partial(misbehave.perform, saboteur, probe.perform))
    resolve.cache_clear()
    yield saboteur
    resolve.cache_clear()


def _commit(load: Load, *orders: Order) -> None:
    load.again.append(orders)
    load.settle_doubts()


def _work_off(database: Engine, queues: Queues) -> None:
    """Until every job has ended; their retries wait in the queue for a second."""
    end = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < end:
        with database.begin() as tx:
            decide_contested(tx)
            if not tx.execute(OPEN).scalar_one():
                return
        relay.drain()
        work(queues, "upkeep")
    raise AssertionError("jobs are still open")


def _places_by_reader(load: Load) -> Counter[str]:
    return Counter(place.group for place in load.places.values())


def test_handlers_that_get_it_wrong_cost_themselves_an_attempt_and_their_neighbours_nothing(
    database: Engine, queues: Queues, load: Load, sabotaged: Saboteur
) -> None:
    kinds = [kind for wrong in sorted(MISTAKEN) for kind in (Kind.PLAIN, wrong, wrong, wrong, wrong, Kind.RETRIED)]
    _commit(load, *map(load.order, kinds))
    _work_off(database, queues)
    with database.begin() as tx:
        verdict = judge(tx, load.ordered, Observed())
    assert verdict.ok, verdict.examples
    assert verdict.enqueued == len(kinds)
    done = Counter(line.split("\t")[1] for line in Path(sabotaged.spec.log).read_text().splitlines())
    assert done == dict.fromkeys(MISTAKEN, 4)


def test_a_handler_that_was_to_get_it_wrong_and_did_not_is_seen(database: Engine, queues: Queues, load: Load) -> None:
    _commit(load, *map(load.order, (Kind.PLAIN, Kind.ENDING)))
    _work_off(database, queues)
    with database.begin() as tx:
        assert judge(tx, load.ordered, Observed()).misjudged == 1


@pytest.mark.parametrize("first_commits", [True, False])
def test_two_applications_with_the_same_keys_in_opposite_orders_and_one_commits(
    database: Engine,
    queues: Queues,
    load: Load,
    settings: DatabaseSettings,
    monkeypatch: pytest.MonkeyPatch,
    *,
    first_commits: bool,
) -> None:
    monkeypatch.setattr(applications, "HOLD_SECONDS", 0.6)
    _commit(load, *(load.order(Kind.PLAIN) for _ in range(40)))
    programs = Applications(settings, load)
    wanted, held = applications.pick(load)
    threads = [
        threading.Thread(target=programs.orders, args=(some, held), kwargs={"commit": commit})
        for some, commit in ((wanted, first_commits), (wanted[::-1], not first_commits))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    load.settle_doubts()
    _work_off(database, queues)
    with database.begin() as tx:
        verdict = judge(tx, load.ordered, Observed())
    assert verdict.ok, verdict.examples
    assert verdict.enqueued == 40 + len(wanted)


def test_an_application_idle_in_its_transaction_is_ended_and_leaves_no_lock(
    database: Engine, load: Load, settings: DatabaseSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(applications, "IDLE_LIMIT_SECONDS", 1)
    monkeypatch.setattr(applications, "IDLE_MARGIN_SECONDS", 0.5)
    _commit(load, load.order(Kind.PLAIN))
    program = threading.Thread(target=Applications(settings, load).idle)
    program.start()
    free = text("SELECT count(*) FROM (SELECT FROM queues FOR UPDATE SKIP LOCKED) AS free")
    seen = set()
    while program.is_alive():
        with database.begin() as tx:
            seen.add(tx.execute(free).scalar_one())
    assert min(seen) == 0, "it never held its locks"
    with database.begin() as tx:
        assert tx.execute(free).scalar_one() == len(CATALOG.queues)


def test_mails_fill_the_groups_of_their_recipients_with_several_types(database: Engine, load: Load) -> None:
    with database.begin() as tx:
        tx.execute(text("INSERT INTO clients (tenant_id, name) SELECT id, 'Client' FROM tenants"))
        readers = make_readers(tx, 60)
    load._mails = Mails(load.rng, deque(readers))
    orders = [load.order(kind) for kind in [*sorted(MAILS)] * 20]
    for order in orders:
        validate_payload(order.request.type, order.request.payload)
    _commit(load, *orders)
    with database.begin() as tx:
        groups = tx.execute(
            text("SELECT queue || '/' || group_key AS name, count(*) AS n FROM jobs WHERE turn IS NOT NULL GROUP BY 1")
        )
        assert {row.name: row.n for row in groups} == _places_by_reader(load)
        mixed = text("SELECT max(n) FROM (SELECT count(DISTINCT type) AS n FROM jobs GROUP BY group_key) AS g")
        assert tx.execute(mixed).scalar_one() > 1
    per_reader = Counter(order.request.payload["recipient_id"] for order in orders)
    assert max(per_reader.values()) <= MAILS_PER_READER


def test_a_reader_gets_no_more_than_a_day_allows_while_others_are_left() -> None:
    readers = [Reader(tenant_id=one, user_id=one) for one in (UUID(int=number) for number in range(30))]
    mails = Mails(random.Random(2), deque(readers))
    had = Counter(mails.next(reset=False)[0].user_id for _ in range(MAILS_PER_READER * 25))
    assert max(had.values()) == MAILS_PER_READER
