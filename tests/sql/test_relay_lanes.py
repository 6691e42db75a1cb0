"""What goes first is decided per queue; a group's order holds whatever SQS refuses; nobody's lock stops the others."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from uuid import UUID

from botocore.exceptions import EndpointConnectionError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, text

from functions.pipeline import relay
from tests.lanes import QUEUES, Due, Lanes, client_error

STRANGE_GROUPS = ("a", 'b,c"{}\\', "'; --", "NULL")


def test_a_full_queue_does_not_hold_up_another(lanes: Lanes) -> None:
    lanes.add(*[Due("bulk", ago=60)] * 2_500)
    [alone] = lanes.add(Due("other"))
    assert lanes.drain().sent == 2_501
    before = lanes.sqs.arrived[: lanes.sqs.arrived.index(("other", alone))]
    assert len(before) <= 100
    [marked] = lanes.rows(
        "SELECT count(*) AS n FROM jobs WHERE sent_at < (SELECT sent_at FROM jobs WHERE id = :id)", id=alone
    )
    assert marked.n <= relay.ROWS_PER_PASS


def test_what_comes_due_while_a_full_queue_is_sent_goes_with_the_next_pass(lanes: Lanes) -> None:
    lanes.add(*[Due("bulk", ago=60)] * 3_000)
    late: list[UUID] = []
    once = threading.Semaphore(1)

    def order(queue: str) -> None:
        if len(lanes.sqs.arrived) > 500 and once.acquire(blocking=False):
            late.extend(lanes.add(Due("ordered", "g")))

    lanes.sqs.before = order
    assert lanes.drain().sent == 3_001
    assert lanes.sqs.arrived.index(("ordered", late[0])) < 500 + relay.ROWS_PER_PASS + 200


def test_a_queue_of_one_group_does_not_hold_up_the_others(lanes: Lanes) -> None:
    ordered = lanes.add(*[Due("ordered", "g", ago=60)] * 300)
    others = lanes.add(Due("second", "g"), Due("other"))
    lanes.drain()
    assert lanes.sqs.of("ordered") == ordered
    assert all(
        lanes.sqs.arrived.index((name, job)) < 100 for name, job in zip(("second", "other"), others, strict=True)
    )


def test_a_paused_queue_is_left_alone(lanes: Lanes) -> None:
    lanes.add(*[Due("bulk", ago=60)] * 20, Due("ordered", "g"))
    lanes.rows("UPDATE queues SET paused_at = now() WHERE name IN ('bulk', 'ordered')")
    [alone] = lanes.add(Due("other"))
    assert lanes.drain().sent == 1
    assert lanes.sqs.arrived == [("other", alone)]


def test_a_standard_queue_goes_by_priority_and_a_fifo_queue_by_time(lanes: Lanes) -> None:
    rows = [Due("bulk", priority=p, ago=ago) for p, ago in ((-1, 90), (0, 80), (0, 85), (1, 10), (1, 20))]
    low, normal, older, late, high = lanes.add(*rows)
    ordered = lanes.add(*[Due("ordered", "g", priority=p, ago=ago) for p, ago in ((-1, 90), (0, 85), (1, 80), (-1, 9))])
    lanes.drain()
    assert lanes.sqs.of("bulk") == [high, late, older, normal, low]
    assert lanes.sqs.of("ordered") == ordered


def test_a_cut_through_a_fifo_queue_keeps_its_order(lanes: Lanes) -> None:
    """Where a pass takes fewer rows than are due, no priority puts a group's later row among them."""
    rows = [Due("ordered", f"g{n % 7}", priority=n % 3 - 1, ago=5_000 - n) for n in range(1_500)]
    ids = lanes.add(*rows)
    lanes.drain()
    assert in_groups(rows, ids, lanes.sqs.of("ordered")) == in_groups(rows, ids, ids)


def test_what_was_due_at_one_instant_goes_by_turn_and_what_has_started_last(lanes: Lanes) -> None:
    rows = [Due("ordered", "g", started=True), *[Due("ordered", "g", ago=60 - n) for n in range(5)]]
    started, *ids = lanes.add(*rows)
    lanes.rows("UPDATE jobs SET outbox_at = '2026-01-01'")
    lanes.rows("UPDATE jobs SET turn = turn - (turn - '2026-01-01') * 2 WHERE turn IS NOT NULL")  # the other way round
    lanes.drain()
    assert lanes.sqs.of("ordered") == [*reversed(ids), started]


def test_no_call_carries_two_messages_of_one_group(lanes: Lanes) -> None:
    lanes.add(*[Due("ordered", f"g{n % 4}", ago=100 - n) for n in range(40)])
    lanes.drain()
    assert sum(map(len, lanes.sqs.calls)) == 40
    assert all(len(set(groups)) == len(groups) for groups in lanes.sqs.calls)


def test_nothing_of_a_group_passes_a_refused_message_and_other_groups_go_on(lanes: Lanes) -> None:
    first, *rest = lanes.add(*[Due("ordered", "bad", ago=9_000 - n) for n in range(1_200)])
    good = lanes.add(*[Due("ordered", "good", ago=n) for n in (3, 2, 1)])
    lanes.sqs.refuses = {first}
    drained = lanes.drain()
    assert (lanes.sqs.of("ordered"), drained.sent) == (good, 3)
    assert drained.failing == {"ordered": "InvalidMessageContents: no"}
    assert lanes.left() == {first, *rest}
    lanes.sqs.refuses = set()
    lanes.drain()
    assert lanes.sqs.of("ordered") == [*good, first, *rest]


def test_a_refused_message_of_a_standard_queue_concerns_it_alone(lanes: Lanes) -> None:
    ids = lanes.add(*[Due("bulk", "g", ago=2_000 - n) for n in range(1_100)])
    lanes.sqs.refuses = {ids[0], ids[500]}
    assert lanes.drain().sent == 1_098
    assert lanes.left() == {ids[0], ids[500]}
    assert len(lanes.sqs.of("bulk")) == len(set(lanes.sqs.of("bulk"))) == 1_098


def test_a_message_that_spoils_its_call_holds_up_nobody(lanes: Lanes) -> None:
    ids = lanes.add(*[Due("bulk", ago=100 - n) for n in range(25)])
    groups = lanes.add(*[Due("ordered", f"g{n % 5}", ago=100 - n) for n in range(15)])
    lanes.sqs.spoils = {ids[3], groups[1]}
    assert lanes.drain().sent == 24 + 12
    assert lanes.left() == {ids[3], groups[1], groups[6], groups[11]}


def test_a_queue_that_is_gone_or_away_holds_up_no_other(lanes: Lanes) -> None:
    errors = {
        "bulk": client_error("AWS.SimpleQueueService.NonExistentQueue", 400),
        "ordered": client_error("ServiceUnavailable", 503),
        "third": EndpointConnectionError(endpoint_url="x"),
    }
    lanes.add(*[Due(name, f"g{n}") for name in errors for n in range(150)])
    others = lanes.add(*[Due("other"), Due("second", "g")] * 30)
    lanes.sqs.fails = errors.get
    drained = lanes.drain()
    assert (drained.sent, set(drained.failing)) == (60, set(errors))
    assert len(lanes.left()) == 450
    lanes.sqs.fails = lambda queue: None
    assert lanes.drain().sent == 450
    assert len(set(lanes.sqs.arrived)) == len(lanes.sqs.arrived) == 450 + len(others)


def test_a_queue_that_hangs_holds_up_no_other(lanes: Lanes) -> None:
    over = threading.Event()
    hung = lanes.add(*[Due("bulk", ago=60)] * 200)
    others = lanes.add(*[Due("other")] * 50)
    lanes.sqs.before = lambda queue: over.wait(10) if queue == "bulk" else None
    drained = lanes.drain(within=0.4)
    assert drained.sent == 50
    assert set(lanes.sqs.of("other")) == set(others)
    assert lanes.left() == set(hung)
    over.set()
    assert lanes.drain().sent == 200


def test_whoever_holds_rows_of_queues_stops_nobody(lanes: Lanes) -> None:
    ids = lanes.add(Due("ordered", "g", ago=2), Due("second", "g", ago=1), Due("bulk"))
    with lanes.observer.begin() as session:
        session.execute(text("SELECT name FROM queues FOR UPDATE"))
        assert lanes.drain().sent == 3
    assert {job for _, job in lanes.sqs.arrived} == set(ids)


def test_a_row_that_somebody_holds_stops_its_own_group_only(lanes: Lanes) -> None:
    held, after, other = lanes.add(Due("ordered", "g", ago=9), Due("ordered", "g", ago=8), Due("ordered", "h", ago=7))
    with lanes.observer.begin() as session:
        session.execute(text("SELECT FROM jobs WHERE id = :id FOR UPDATE"), {"id": held})
        assert lanes.drain().sent == 1
    assert lanes.sqs.of("ordered") == [other]
    lanes.drain()
    assert lanes.sqs.of("ordered") == [other, held, after]


def test_a_session_that_holds_more_rows_than_a_pass_takes_stops_their_groups_only(lanes: Lanes) -> None:
    held = lanes.add(*[Due("ordered", f"g{n}", ago=5_000 - n) for n in range(1_100)])
    standard = lanes.add(*[Due("bulk", ago=5_000 - n) for n in range(1_100)])
    free = lanes.add(Due("ordered", "g", ago=1), Due("bulk", ago=1))
    with lanes.observer.begin() as session:
        ids = {"ids": [*held, *standard]}
        session.execute(text("SELECT FROM jobs WHERE id = ANY(CAST(:ids AS uuid[])) FOR UPDATE"), ids)
        lanes.drain()
    assert {job for _, job in lanes.sqs.arrived} == set(free)


def test_two_relays_on_one_fifo_queue_keep_the_order_of_its_groups(lanes: Lanes) -> None:
    first, second, third = lanes.add(*[Due("ordered", "g", ago=ago) for ago in (9, 8, 7)])
    [other] = lanes.add(Due("ordered", "h", ago=6))
    lanes.rows("UPDATE jobs SET outbox_at = now() + interval '1 hour' WHERE id = :id", id=other)
    sending, over = threading.Event(), threading.Event()

    def hold(_: str) -> None:
        sending.set()
        over.wait(10)

    lanes.sqs.before = hold
    with lanes.beside(lanes.drain) as relay_beside:
        assert sending.wait(10)
        lanes.sqs.before = lambda _: None
        lanes.rows("UPDATE jobs SET outbox_at = now() WHERE id = :id", id=other)
        assert lanes.drain().sent == 1  # of the other group; the first message is under way in the other relay
        assert lanes.sqs.of("ordered") == [other]
        over.set()
        assert relay_beside.result().sent == 3
    assert lanes.sqs.of("ordered") == [other, first, second, third]


rows_of_an_outbox = st.lists(
    st.builds(
        Due,
        queue=st.sampled_from(sorted(QUEUES)),
        group=st.sampled_from(STRANGE_GROUPS).map(lambda group: group.replace(" ", "-")) | st.none(),
        ago=st.integers(-2, 30).map(float),
        priority=st.integers(-1, 1),
        started=st.booleans(),
    ),
    max_size=60,
)


@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(rows=rows_of_an_outbox, data=st.data())
def test_what_is_sent_is_what_a_slow_relay_would_send(
    lanes: Lanes, observer: Engine, rows: Sequence[Due], data: st.DataObject
) -> None:
    """Any rows, some refused, some spoiling their call, some held by others, in passes of any size."""
    lanes.rows("DELETE FROM jobs")
    lanes.sqs.arrived.clear()
    ids = lanes.add(*rows)
    refused, spoils, held = (set(data.draw(st.lists(st.sampled_from(ids), max_size=3)) if ids else ()) for _ in "123")
    lanes.sqs.refuses, lanes.sqs.spoils = refused, spoils
    relay.ROWS_PER_PASS, usual = data.draw(st.integers(1, 80)), relay.ROWS_PER_PASS
    try:
        with observer.begin() as session:
            session.execute(text("SELECT FROM jobs WHERE id = ANY(CAST(:ids AS uuid[])) FOR UPDATE"), {"ids": [*held]})
            drained = lanes.drain()
    finally:
        relay.ROWS_PER_PASS = usual
    wanted = slow_relay(rows, ids, bad=refused | spoils | held)
    assert {name: set(lanes.sqs.of(name)) for name in QUEUES} == {name: set(jobs) for name, jobs in wanted.items()}
    assert drained.sent == len(lanes.sqs.arrived) == len(set(lanes.sqs.arrived))
    for name, fifo in QUEUES.items():
        if fifo:
            assert in_groups(rows, ids, lanes.sqs.of(name)) == in_groups(rows, ids, wanted[name])
    assert lanes.left() == set(ids) - {job for _, job in lanes.sqs.arrived}


def slow_relay(rows: Sequence[Due], ids: Sequence[UUID], *, bad: set[UUID]) -> dict[str, list[UUID]]:
    """What is to be sent, in order: all that is due and not bad; on a FIFO queue nothing after a bad one."""
    wanted: dict[str, list[UUID]] = {name: [] for name in QUEUES}
    stopped: set[tuple[str, str]] = set()
    order = sorted(zip(rows, ids, strict=True), key=lambda item: (-item[0].ago, item[0].started, item[1]))
    for row, job_id in order:
        place = (row.queue, row.group or str(job_id))
        if row.ago < 0 or (QUEUES[row.queue] and place in stopped):
            continue
        if job_id in bad:
            stopped.add(place)
        else:
            wanted[row.queue].append(job_id)
    return wanted


def in_groups(rows: Sequence[Due], ids: Sequence[UUID], sent: Sequence[UUID]) -> dict[str, list[UUID]]:
    """What was sent, each group by itself, in order."""
    group_of = {job_id: row.group or str(job_id) for row, job_id in zip(rows, ids, strict=True)}
    groups: dict[str, list[UUID]] = {}
    for job_id in sent:
        groups.setdefault(group_of[job_id], []).append(job_id)
    return groups
