"""The relay beside a full queue: what a look at the outbox costs, and how long another queue's message waits."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from uuid import uuid4

from sqlalchemy import Connection, Engine, text

from duecourse.bench import feed
from duecourse.bench.bench import Bench
from duecourse.bench.measure import Figure, Result
from functions.aws import sqs
from functions.core.catalog import CATALOG
from functions.core.errors import DuecourseError
from functions.db import engine as db
from functions.db.engine import pg_array, transaction
from functions.db.settings import from_url
from functions.pipeline import relay

FULL, OTHER = "email-bulk", "upkeep"
MONTHS = 11
"""Earlier ones, each a partition that a look must ask."""
TAKES = 20
SEND_SECONDS = 0.02
"""Of a call of SQS within a region."""
MESSAGES, PAUSE_SECONDS = 12, 0.23
MOST_SECONDS = 60.0

MONTH = text("""
    SELECT ensure_partition('jobs', to_char(month, 'YYYY_MM'), uuid7_floor(month), uuid7_floor(month + span))
    FROM (SELECT date_trunc('month', now()) - :ago * interval '1 month' AS month, interval '1 month' AS span) AS m
""")
FILL = text("""
    INSERT INTO jobs (id, queue, type, state, payload, priority, correlation_id, run_at, outbox_at)
    SELECT uuid7(now() - mod(n, :days) * interval '1 day'), :queue, 'email.digest', 'waiting', '{}', 0, 'c', now(),
           now() - n * interval '1 millisecond'
    FROM generate_series(1, :rows) AS n
""")
# What a ledger in use has: on every queue jobs of each month that are to be sent tomorrow.
DELAYED = text("""
    INSERT INTO jobs (id, queue, type, state, payload, priority, correlation_id, run_at, outbox_at)
    SELECT uuid7(now() - mod(n, :days) * interval '1 day'), name, 'upkeep.probe', 'delayed', '{}', 0, 'c',
           now() + interval '1 day', now() + interval '1 day'
    FROM queues, generate_series(1, :days) AS n
""")
LOOK = text("SELECT queue FROM due_lanes(clock_timestamp())")
TAKE = text("SELECT id FROM take_due(CAST(:queues AS text[]), :rows, '{}', '{}')")
PAUSE = text("UPDATE queues SET paused_at = CASE WHEN :paused THEN now() END")


def run(bench: Bench) -> Result:
    """Milliseconds of a look at up to a million due rows of one queue; seconds that another queue's message waits."""
    result = Result()
    sizes = (2_000, 20_000) if bench.small else (100_000, 1_000_000)
    with feed.environment(), bench.postgres.under_test("bench_relay") as url:
        with transaction() as tx:
            for ago in range(1, MONTHS + 1):
                tx.execute(MONTH, {"ago": ago})
            tx.execute(text("ANALYZE jobs"))
        with _autovacuum_off(bench):  # statistics stay as old as they are meant to be
            _look(result, "no job ever ordered")
            with transaction() as tx:
                tx.execute(DELAYED, {"days": MONTHS * 30})
            _look(result, "nothing due")
            before = 0
            for size in sizes:
                _fill(size - before)
                before = size
                _look(result, f"{size:,} due, statistics stale")
            _pause(paused=True)
            _look(result, f"{size:,} due, all queues paused")
            _pause(paused=False)
            _do("ANALYZE jobs")
            _look(result, f"{size:,} due, statistics fresh")
            _take(result)
            _wait(result, url, bench)
    for name, label in (("stale", "statistics stale"), ("fresh", "statistics fresh"), ("paused", "all queues paused")):
        result.compare(
            f"relay_look_{name}", f"look, {size:,} due, {label}", ["look, nothing due"], sense="at most", target=3,
            against="a look with nothing due",
        )  # fmt: skip
    result.limit("relay_wait", "slowest message of another queue", against="a second", target=1)
    return result


def _look(result: Result, situation: str) -> None:
    """The quickest of ten looks, ten times: on a shared machine the slower ones measure its other programs."""
    with transaction() as tx:
        tx.execute(LOOK).all()  # is planned, and reads what is not in memory
        found = [min(_timed_look(tx) for _ in range(10)) for _ in range(10)]
    result.figures[f"look, {situation}"] = Figure.of(found, "ms")


def _timed_look(tx: Connection) -> float:
    started = time.perf_counter()
    tx.execute(LOOK).all()
    return (time.perf_counter() - started) * 1000


def _take(result: Result) -> None:
    found = []
    for _ in range(TAKES):
        with transaction() as tx:
            started = time.perf_counter()
            rows = tx.execute(TAKE, {"queues": pg_array(CATALOG.queues), "rows": relay.ROWS_PER_PASS}).all()
            found.append((time.perf_counter() - started) * 1000)
        if len(rows) != relay.ROWS_PER_PASS:
            raise DuecourseError(f"{len(rows)} rows were taken, not {relay.ROWS_PER_PASS}")
    result.figures[f"take {relay.ROWS_PER_PASS:,} of them"] = Figure.of(found[1:], "ms")


def _wait(result: Result, url: str, bench: Bench) -> None:
    """From the commit of an order until its message is sent, while the relay is busy with the full queue."""
    arrived: dict[str, float] = {}

    def send(queue_url: str, messages: Sequence[sqs.Outgoing]) -> list[str | None]:
        time.sleep(SEND_SECONDS)
        if queue_url.endswith(OTHER):
            arrived.update({message.body: time.perf_counter() for message in messages})
        return [None] * len(messages)

    messages = 3 if bench.small else MESSAGES
    ordered: list[float] = []
    orders = db.make_engine(from_url(url))
    usual, sqs.send_batch = sqs.send_batch, send
    try:
        with ThreadPoolExecutor(1) as thread:
            drained = thread.submit(partial(relay.drain, within=MOST_SECONDS))
            for _ in range(messages):
                time.sleep(PAUSE_SECONDS)
                _order(orders)
                ordered.append(time.perf_counter())
            time.sleep(2 * relay.LOCK_SECONDS)
            with orders.begin() as tx:
                tx.execute(PAUSE, {"paused": True})  # ends the drain
            sent = drained.result().sent
    finally:
        sqs.send_batch = usual
        orders.dispose()
    if len(arrived) != messages:
        raise DuecourseError(f"{messages} messages were ordered beside the full queue, and {len(arrived)} sent")
    waits = [there - then for there, then in zip(sorted(arrived.values()), ordered, strict=True)]
    result.figures["message of another queue"] = Figure.of(waits, "s")
    result.figures["slowest message of another queue"] = Figure.of([max(waits)], "s")
    result.details["sent meanwhile"] = sent


def _order(engine: Engine) -> None:
    with engine.begin() as tx:
        tx.execute(
            text("SELECT enqueue_job('upkeep.probe', CAST(:payload AS jsonb))"), {"payload": f'{{"note": "{uuid4()}"}}'}
        )


def _fill(rows: int) -> None:
    with transaction() as tx:
        tx.execute(FILL, {"queue": FULL, "rows": rows, "days": MONTHS * 30})


def _pause(*, paused: bool) -> None:
    with transaction() as tx:
        tx.execute(PAUSE, {"paused": paused})


def _do(statement: str) -> None:
    with transaction() as tx:
        tx.execute(text(statement))


@contextmanager
def _autovacuum_off(bench: Bench) -> Iterator[None]:
    with bench.postgres.administration() as admin:
        admin.execute(text("ALTER SYSTEM SET autovacuum = off"))
        admin.execute(text("SELECT pg_reload_conf()"))
        try:
            yield
        finally:
            admin.execute(text("ALTER SYSTEM RESET autovacuum"))
            admin.execute(text("SELECT pg_reload_conf()"))
