"""Order: within a group of a FIFO queue jobs first start in the order in which they came due, whatever happens."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from threading import Barrier
from typing import Any
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, text

from duecourse.local.delivery import Context, event_of
from functions.aws import sqs
from functions.core.job import Job, JobRequest
from functions.core.outcome import Continue, Done, GiveUp, Outcome, Retry, Snooze
from functions.db.engine import transaction
from functions.pipeline import redrive, relay
from functions.pipeline.worker import handle
from tests import jobs
from tests.fifo import FifoQueue
from tests.jobs import request
from tests.sql.conftest import Flow
from tests.sql.test_leases import Killed

TYPES = ("test.ordered", "test.ordered_too", "test.ordered_set", "test.ordered_mail", "test.strict")
OPEN = ("delayed", "waiting", "active", "retrying")


@dataclass
class Line:
    """A FIFO queue with its workers, and what was seen of the order in which jobs start."""

    flow: Flow
    queue: FifoQueue
    started: list[UUID] = field(default_factory=list)
    sent: list[UUID] = field(default_factory=list)
    """Mails."""
    groups: dict[UUID, str] = field(default_factory=dict)
    due: dict[UUID, tuple[float, int]] = field(default_factory=dict)
    """When each job comes due by the test's own clock, and how many were ordered before it."""
    misbehave: dict[UUID, str] = field(default_factory=dict)
    hours: float = 0.0
    while_sending: Callable[[], object] = lambda: None
    kill_at: int | None = None
    """How many more jobs may start, and mails be sent, before the worker is killed."""

    def order(self, *members: tuple[str, str, str, bool]) -> list[UUID]:
        """Order (type, group, what it does at first, whether it has a time of its own)."""
        now = datetime.now(UTC)
        requests = [
            JobRequest(name, {"code": "member", "group": group}, run_at=now + timedelta(hours=1) if later else None)
            for name, group, _, later in members
        ]
        ids = self.flow.order(*requests)
        for job_id, (_, group, does, later) in zip(ids, members, strict=True):
            self.groups[job_id] = group
            self.due[job_id] = (self.hours + later, len(self.due))
            self.misbehave[job_id] = does
        return ids

    def member(self, job: Job[Any], tx: Connection) -> Any:
        """The code of every job."""
        outside = job.type == "test.ordered_mail"
        does = self.misbehave.pop(job.id, "done")
        self.started.append(job.id)
        self.passes_by()
        match does:
            case "retry":
                return Retry("once more", delay_seconds=1)
            case "snooze":
                return Snooze(datetime.now(UTC) + timedelta(hours=1), "later")
            case "step":
                return Continue({"step": 1})
            case "give up":
                return GiveUp("no")
            case "raise" if not outside:
                raise RuntimeError("once")
        if outside:
            tx.execute(text("INSERT INTO outside (job_id, state) VALUES (:id, 'intended')"), {"id": job.id})
            return job.id
        return Done()

    def passes_by(self) -> None:
        """A place where the worker may be killed."""
        if self.kill_at is not None:
            self.kill_at -= 1
            if self.kill_at < 0:
                raise Killed

    def send(self, intent: UUID) -> str:
        """Of the mailer."""
        self.while_sending()
        self.passes_by()
        self.sent.append(intent)
        return "receipt"

    def relay(self) -> None:
        relay.drain(catalog=jobs.CATALOG)

    def deliver(self, most: int = 10, *, seconds: float = 60.0) -> int:
        """Invoke a worker with up to `most` messages; returns how many there were."""
        messages = self.queue.receive(most)
        if not messages:
            return 0
        try:
            answer = handle(event_of(messages), Context(seconds), queue="ordered", catalog=jobs.CATALOG)
        except Killed:
            return len(messages)
        finally:
            self.kill_at = None
        self.queue.answer(messages, [item["itemIdentifier"] for item in answer["batchItemFailures"]])
        return len(messages)

    def pass_time(self) -> None:
        """Two hours: visibility timeouts, leases and waits are over, and every order of events stays as it was."""
        self.hours += 2
        self.queue.show_all()
        self.flow.rows("""
            UPDATE jobs SET run_at = run_at - interval '2 hours', outbox_at = outbox_at - interval '2 hours',
                turn = turn - interval '2 hours', lease_until = lease_until - interval '2 hours'
            WHERE closed_at IS NULL
        """)

    def redrive(self) -> None:
        with transaction() as tx:
            redrive.redrive(tx, redrive.dead_ids(tx, "ordered"))

    def send_lost_again(self) -> None:
        """As the sweep does where the queue is empty."""
        if not self.queue.messages:
            self.flow.rows("""
                UPDATE jobs SET delivery = delivery + 1, sent_at = NULL, outbox_at = run_at, claim_token = NULL,
                    lease_until = NULL, lost = lost + (state = 'active')::int,
                    state = CASE state WHEN 'active' THEN 'retrying' ELSE state END
                WHERE state IN ('waiting', 'retrying', 'active') AND outbox_at IS NULL
            """)

    def run_out(self) -> None:
        """Until nothing is open."""
        for _ in range(60):
            self.queue.refuses = lambda: False
            self.relay()
            while self.deliver():
                pass
            if not self.flow.rows("SELECT id FROM jobs WHERE state = ANY(:open) LIMIT 1", open=list(OPEN)):
                return
            self.pass_time()
            self.send_lost_again()
        raise AssertionError(f"still open: {self.flow.rows('SELECT * FROM jobs WHERE state = ANY(:o)', o=list(OPEN))}")

    def first_starts(self) -> dict[str, list[UUID]]:
        found: dict[str, list[UUID]] = {}
        for job_id in dict.fromkeys(self.started):
            found.setdefault(self.groups[job_id], []).append(job_id)
        return found

    def check(self) -> None:
        for group, ids in self.first_starts().items():
            assert ids == sorted(ids, key=self.due.__getitem__), f"group {group}: {[self.due[i] for i in ids]}"


@pytest.fixture
def line(flow: Flow, monkeypatch: pytest.MonkeyPatch) -> Line:
    queue = FifoQueue()
    made = Line(flow, queue)
    monkeypatch.setattr(sqs, "send_batch", queue.send_batch)
    monkeypatch.setattr(sqs, "change_visibility", queue.change_visibility)
    monkeypatch.setattr(jobs.MAILER, "send", made.send)
    jobs.CODE["member"] = made.member
    return made


def in_one_group(*does: str, kind: str = "test.ordered") -> list[tuple[str, str, str, bool]]:
    return [(kind, "a", action, False) for action in does]


def test_a_claim_starts_in_order_not_as_the_rows_lie(line: Line) -> None:
    """The rows of a lived-in table lie anywhere: the first was updated last."""
    ids = line.order(*in_one_group(*["done"] * 10))
    for job_id in ids[:3]:
        line.flow.rows("UPDATE jobs SET priority = priority WHERE id = :id", id=job_id)
    line.relay()
    line.deliver()
    assert line.started == ids


@pytest.mark.parametrize("pattern", [(0, 1, 0), (0, 2, 0), (3, 0, 3), (0, 3, 2, 1, 0), (4, 0, 4, 1)])
def test_types_mixed_in_a_group_start_in_order(line: Line, pattern: tuple[int, ...]) -> None:
    ids = line.order(*[(TYPES[index], "a", "done", False) for index in pattern])
    line.relay()
    line.deliver()
    assert line.started == ids


def test_mails_of_a_group_are_sent_one_after_the_other_and_groups_at_once(line: Line) -> None:
    both = Barrier(2, timeout=20)
    ids = line.order(*[("test.ordered_mail", group, "done", False) for group in "abababab"])
    line.while_sending = both.wait
    line.relay()
    line.deliver()
    assert [job_id for job_id in line.sent if line.groups[job_id] == "a"] == ids[::2]
    assert [job_id for job_id in line.sent if line.groups[job_id] == "b"] == ids[1::2]


@pytest.mark.parametrize("kind", ["test.ordered", "test.ordered_mail", "test.ordered_set"])
def test_after_a_lost_run_its_group_goes_on_where_it_stood(line: Line, kind: str) -> None:
    ids = line.order(*in_one_group(*["done"] * 4, kind=kind))
    others = line.order(*[(kind, "b", "done", False)])
    line.relay()
    line.kill_at = 0 if kind != "test.ordered_set" else 1
    line.deliver(2)
    line.pass_time()
    line.deliver()
    line.check()
    assert set(line.started) == {*ids, *others}


def test_a_message_lost_holds_back_the_later_ones_and_comes_first(line: Line) -> None:
    ids = line.order(*in_one_group(*["done"] * 4))
    [other] = line.order(("test.ordered", "b", "done", False))
    line.relay()
    line.queue.lose(next(n for n, held in enumerate(line.queue.messages) if str(ids[1]) in held.body))
    line.deliver()
    assert set(line.started) == {ids[0], other}, "what is behind the lost one waits, the other group does not"
    line.relay()
    line.deliver()
    assert [job_id for job_id in line.started if job_id != other] == ids
    assert not line.queue.messages, "old copies are gone without having run"


def test_what_had_no_time_left_starts_first_next_time(line: Line) -> None:
    ids = line.order(*in_one_group(*["done"] * 5))
    line.relay()
    line.deliver(5, seconds=0.0)
    assert line.started == []
    line.deliver()
    assert line.started == ids


def test_a_job_that_has_started_does_not_hold_its_group(line: Line) -> None:
    ids = line.order(*in_one_group("retry", "snooze", "step", "raise", "give up", "done"))
    line.relay()
    line.deliver()
    assert line.started == ids
    line.run_out()
    line.check()


def test_a_strict_job_holds_its_group_until_it_has_ended(line: Line) -> None:
    first, second, third = line.order(*in_one_group("retry", "step", "done", kind="test.strict"))
    [plain] = line.order(("test.ordered", "a", "done", False))
    [other] = line.order(("test.ordered", "b", "done", False))
    line.relay()
    line.deliver()
    assert set(line.started) == {first, other}
    line.run_out()
    assert [job_id for job_id in line.started if job_id != other] == [first, first, second, second, third, plain]


def test_priorities_change_no_order(line: Line) -> None:
    ids = line.flow.order(
        *[request("test.ordered", code="member", group="a", priority=priority) for priority in (-1, 0, 1)]
    )
    line.groups |= dict.fromkeys(ids, "a")
    line.relay()
    line.deliver()
    assert line.started == ids


def test_a_job_with_a_time_of_its_own_starts_when_it_comes_due(line: Line) -> None:
    [later] = line.order(("test.ordered", "a", "done", True))
    [now] = line.order(("test.ordered", "a", "done", False))
    line.relay()
    line.deliver()
    assert line.started == [now]
    line.pass_time()
    [last] = line.order(("test.ordered", "a", "done", False))
    line.relay()
    line.deliver()
    assert line.started == [now, later, last]


def test_a_job_paused_before_it_started_holds_nobody_and_comes_due_when_resumed(line: Line) -> None:
    from functions.pipeline.steer import Action, steer

    def act(action: Action, job_id: UUID) -> None:
        with transaction() as tx:
            steer(tx, action, [job_id], queue="ordered", catalog=jobs.CATALOG)

    first, second = line.order(*in_one_group("done", "done"))
    act(Action.PAUSE, first)
    line.relay()
    line.deliver()
    assert line.started == [second]
    act(Action.RESUME, first)
    [third] = line.order(*in_one_group("done"))
    line.relay()
    line.deliver()
    assert line.started == [second, first, third]


def test_a_deadlock_under_a_member_releases_what_is_behind_it(line: Line) -> None:
    unlucky = [True]

    def deadlocked(job: Job[Any], tx: Connection) -> Outcome:
        if unlucky:
            unlucky.clear()
            tx.exec_driver_sql("DO $$ BEGIN RAISE EXCEPTION 'in the way' USING ERRCODE = '40P01'; END $$")
        line.started.append(job.id)
        return Done()

    jobs.CODE["deadlocked"] = deadlocked
    first = line.flow.order(request("test.ordered", code="deadlocked", group="a"))
    rest = line.flow.order(*[request("test.ordered", code="deadlocked", group=group) for group in "aab"])
    line.relay()
    line.deliver()
    assert line.started == [rest[2]]
    line.pass_time()
    line.deliver()
    assert line.started == [rest[2], *first, *rest[:2]]


member = st.tuples(
    st.sampled_from(TYPES),
    st.sampled_from("abc"),
    st.sampled_from(["done", "done", "retry", "snooze", "step", "raise", "give up"]),
    st.booleans(),
)
step = st.one_of(
    st.tuples(st.just("order"), st.lists(member, min_size=1, max_size=6)),
    st.tuples(st.just("relay"), st.lists(st.booleans(), max_size=12)),
    st.tuples(st.just("deliver"), st.integers(1, 10), st.none() | st.integers(0, 4)),
    st.tuples(st.just("hurried"), st.integers(1, 10)),
    st.tuples(st.just("lose"), st.integers(0, 9)),
    st.tuples(st.just("time")),
    st.tuples(st.just("redrive")),
    st.tuples(st.just("die between send and mark")),
)


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(steps=st.lists(step, min_size=4, max_size=25))
def test_first_starts_are_in_order_whatever_happens(
    line: Line, monkeypatch: pytest.MonkeyPatch, steps: list[tuple[Any, ...]]
) -> None:
    """The table lives on from example to example, with all that ended there."""
    try:
        for name, *arguments in steps:
            _act(line, monkeypatch, name, arguments)
            line.check()
    finally:
        line.run_out()
    line.check()
    ended = {row.id for row in line.flow.rows("SELECT id FROM jobs WHERE state IN ('completed', 'dead')")}
    assert line.groups.keys() == ended
    assert line.groups.keys() >= set(line.started)


def _act(line: Line, monkeypatch: pytest.MonkeyPatch, name: str, arguments: list[Any]) -> None:
    match name, *arguments:
        case "order", members:
            line.order(*members)
        case "relay", answers:
            refusals = iter(answers)
            line.queue.refuses = lambda: next(refusals, False)
            line.relay()
        case "deliver", most, kill_at:
            line.kill_at = kill_at
            line.deliver(most)
        case "hurried", most:
            line.deliver(most, seconds=0.0)
        case "lose", place:
            line.queue.lose(place)
        case "time", *_:
            line.pass_time()
        case "redrive", *_:
            line.redrive()
        case "die between send and mark", *_:
            line.order(("test.ordered", "c", "done", False))
            line.queue.refuses = lambda: False
            line.flow.relay_and_die_unmarked(monkeypatch)
