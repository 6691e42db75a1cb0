"""Keeps the ledger in order, every five minutes: folds counts, keeps partitions ahead, finds jobs that fell silent.

Every task commits alone, and one that fails does not keep the others from running. None waits for what somebody else
holds: that is left to the next sweep. What tells whether all is well comes first.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

from sqlalchemy import Connection, Row, text

from functions.aws import sqs
from functions.core.catalog import CATALOG, Catalog
from functions.core.errors import DuecourseError, TablesInUse
from functions.db.deadline import deadline, is_near
from functions.db.engine import is_conflict, transaction
from functions.pipeline import conservation, months, observe, pausing, relay, silent, vitals
from functions.pipeline.heartbeat import heartbeats
from functions.pipeline.settings import settings

MESSAGE_RETENTION = timedelta(days=14)
RESEND_BEFORE_EXPIRY = timedelta(days=1)
RELAY_SECONDS = 20.0
"""What sending may take of a sweep: SQS may be slow, and the other tasks must still run."""
FIRST_RESEND_SECONDS = 300
FIRST_RESEND = timedelta(seconds=FIRST_RESEND_SECONDS)
"""A silent job is sent again after this; the wait doubles with each further time."""

KEYS_PER_STEP = 5_000
RESEND_ROWS = 5_000
RESEND_SECONDS = 20.0
"""Jobs that one statement sends again, and how long a sweep goes on: a queue that was purged has lost all of them."""
STEADY_SECONDS = 3_600
"""What an outage handed back is out of sight for up to an hour, and cannot be told from what is lost."""

# Moves the deltas into the totals: a plain delete and upsert, so the totals are exact at every instant. A total that
# somebody else is adding to is left to them, and to the next sweep.
FOLD = text("""
    WITH free AS MATERIALIZED (
        SELECT queue, type, state FROM job_counts ORDER BY queue, type, state FOR UPDATE SKIP LOCKED
    ), busy AS MATERIALIZED (
        SELECT queue, type, state FROM job_counts EXCEPT SELECT queue, type, state FROM free
    ), folded AS (
        DELETE FROM job_count_deltas WHERE (queue, type, state) NOT IN (SELECT queue, type, state FROM busy)
        RETURNING queue, type, state, delta
    )
    INSERT INTO job_counts AS c (queue, type, state, count)
    SELECT queue, type, state, sum(delta) FROM folded GROUP BY queue, type, state ORDER BY queue, type, state
    ON CONFLICT (queue, type, state) DO UPDATE SET count = c.count + excluded.count
""")

FOLD_RUNS = text("""
    WITH free AS MATERIALIZED (
        SELECT type, outcome, measure, bucket FROM job_runs
        ORDER BY type, outcome, measure, bucket FOR UPDATE SKIP LOCKED
    ), busy AS MATERIALIZED (
        SELECT type, outcome, measure, bucket FROM job_runs EXCEPT SELECT type, outcome, measure, bucket FROM free
    ), folded AS (
        DELETE FROM job_run_deltas
        WHERE (type, outcome, measure, bucket) NOT IN (SELECT type, outcome, measure, bucket FROM busy)
        RETURNING type, outcome, measure, bucket, runs, seconds
    )
    INSERT INTO job_runs AS r (type, outcome, measure, bucket, runs, seconds)
    SELECT type, outcome, measure, bucket, sum(runs), sum(seconds) FROM folded
    GROUP BY type, outcome, measure, bucket ORDER BY type, outcome, measure, bucket
    ON CONFLICT (type, outcome, measure, bucket) DO UPDATE SET
        runs = r.runs + excluded.runs, seconds = r.seconds + excluded.seconds
""")

# Never one that an order is just taking over: so it waits for nobody.
EXPIRE_KEYS = text("""
    WITH ended AS MATERIALIZED (
        SELECT key FROM job_keys WHERE expires_at <= now() AND expires_at <> 'infinity'
        ORDER BY expires_at LIMIT :most FOR UPDATE SKIP LOCKED
    )
    DELETE FROM job_keys USING ended WHERE job_keys.key = ended.key
""")

FORGET_FAILURES = text("""
    WITH old AS MATERIALIZED (
        SELECT source, minute FROM auth_failures WHERE minute < now() - interval '1 hour' FOR UPDATE SKIP LOCKED
    )
    DELETE FROM auth_failures USING old
    WHERE auth_failures.source = old.source AND auth_failures.minute = old.minute
""")

# Which queues this sweep and the one before it found empty. A row that a relay or an operator holds is left alone.
MARK_IDLE = text("""
    WITH before AS MATERIALIZED (
        SELECT name, idle_since, name = ANY(CAST(:empty AS text[])) AS empty FROM queues
        WHERE name = ANY(CAST(:queues AS text[])) ORDER BY name FOR UPDATE SKIP LOCKED
    )
    UPDATE queues SET idle_since = CASE WHEN before.empty THEN coalesce(before.idle_since, now()) END
    FROM before WHERE queues.name = before.name
    RETURNING queues.name, before.empty AND before.idle_since IS NOT NULL AS empty_twice
""")


def handler(event: Any, context: Any) -> dict[str, Any]:
    """Lambda `sweep`: every five minutes; takes any event."""
    del event
    with deadline(context):
        return sweep(datetime.now(UTC))


def sweep(now: datetime, *, catalog: Catalog = CATALOG) -> dict[str, Any]:
    """Run every task. Returns what each did.

    One that must not make the ledger wait is reported as `postponed`; one that failed is logged and reported as
    `failed`, one that there was no time for as `skipped`: these are raised at the end.
    """
    tasks: dict[str, Callable[[], object]] = {
        "folded": fold,
        "conservation": check_conservation,
        # Before the outbox's age is measured: what a sweep itself can send is nothing to alarm about.
        "relayed": lambda: relay.drain(within=RELAY_SECONDS, catalog=catalog).sent,
        "measured": lambda: vitals.measure(now, conservation=_found(report), catalog=catalog),
        "partitions_made": months.keep_ahead,
        "keys_expired": expire_keys,
        "auth_failures_forgotten": forget_auth_failures,
        "resent": lambda: resend_silent(catalog),
        "mappings_switched": lambda: pausing.put_mappings_in_step(catalog),
        "jobs_pruned": lambda: months.retire_old(now.date()),
    }
    report: dict[str, Any] = {}
    failures = []
    for name, task in tasks.items():
        if is_near():  # a database that does not answer used the time up
            report[name] = "skipped"
            failures.append(f"{name}: no time was left for it")
            continue
        try:
            report[name] = task()
        except Exception as error:  # noqa: BLE001 - the other tasks must still run; raised below
            if isinstance(error, TablesInUse) or is_conflict(error):
                # Somebody holds what it needs, and nothing of it is urgent: the next sweep tries again.
                observe.logger().warning("sweep_task_postponed", task=name, reason=observe.summary(error))
                report[name] = "postponed"
                continue
            observe.logger().exception("sweep_task_failed", task=name)
            report[name] = "failed"
            failures.append(f"{name}: {observe.summary(error)}")
    observe.logger().info("swept", **report)
    if failures:
        raise DuecourseError(f"the sweep could not finish: {'; '.join(failures)}")
    return report


def _found(report: dict[str, Any]) -> bool | None:
    """What `check_conservation` found; None where it failed."""
    found = report.get("conservation")
    return found if isinstance(found, bool) else None


def fold() -> int:
    """Fold the deltas of jobs by state, and of runs by outcome, into the totals. Returns how many totals changed."""
    with transaction() as tx:
        return tx.execute(FOLD).rowcount + tx.execute(FOLD_RUNS).rowcount


def expire_keys() -> int:
    """Forget deduplication keys whose window has ended, in steps that each commit alone. Returns how many."""
    expired = 0
    while True:
        with transaction() as tx:
            step = tx.execute(EXPIRE_KEYS, {"most": KEYS_PER_STEP}).rowcount
        expired += step
        if step < KEYS_PER_STEP:
            return expired


def forget_auth_failures() -> int:
    """Forget wrong tokens, and from where they came: their limit looks at the present minute."""
    with transaction() as tx:
        return tx.execute(FORGET_FAILURES).rowcount


def resend_silent(catalog: Catalog) -> int:
    """Send again what was sent and whose message is gone: its queue is empty twice running, or got past it, or
    retention nears its end.

    A backlog is never multiplied: what its queue did not get past is thought to be in it (`silent.py`).
    """
    with transaction() as tx:
        queues = [row for row in tx.execute(silent.SENT) if row.queue in catalog.queues]
        steady = _steady(tx)
    # SQS is asked outside a transaction: no connection is held while the network is.
    empty = [row.queue for row in queues if sqs.depth(settings().queue_url(row.queue, catalog=catalog)).empty]
    with transaction() as tx:
        marked = tx.execute(MARK_IDLE, {"queues": list(catalog.queues), "empty": empty})
        idle = {row.name for row in marked if row.empty_twice}
    end = time.monotonic() + RESEND_SECONDS
    resent = 0
    for row in queues:
        resent += _again(
            partial(silent.expiring, queue=row.queue, near_expiry=MESSAGE_RETENTION - RESEND_BEFORE_EXPIRY), end
        )
        if row.queue in idle:
            resent += _again(partial(silent.in_empty_queue, queue=row.queue, first=FIRST_RESEND), end)
        elif steady and not row.paused:
            resent += _again(partial(silent.passed, queue=row.queue, fifo=row.fifo), end)
    if resent:
        tally = observe.Tally()
        tally.add("JobsResent", resent)
        tally.flush()
        observe.logger().warning("resent_silent", jobs=resent)
        relay.drain(within=RELAY_SECONDS, catalog=catalog)
    return resent


def _again(find: Callable[..., Sequence[Row[Any]]], end: float) -> int:
    """Send again what `find` finds, a statement's worth at a time, until `end`. Returns how many."""
    resent = 0
    while time.monotonic() < end:
        with transaction() as tx:
            found = find(tx, most=RESEND_ROWS)
            went = silent.resend(tx, found, first=FIRST_RESEND) if found else 0
        resent += went
        if went < silent.OLDEST_ROWS:
            break
    return resent


def _steady(tx: Connection) -> bool:
    """Whether the sweeps of the last hour came regularly: there was no outage of the database."""
    last = heartbeats(tx).get("sweep")
    since = last.report.get("steady_since") if last else None
    return since is None or datetime.now(UTC) - datetime.fromisoformat(since) > timedelta(seconds=STEADY_SECONDS)


def check_conservation() -> bool:
    """Whether every job ever enqueued is accounted for; also a metric, alarmed at 0."""
    with transaction() as tx:
        result = conservation.check(tx)
    tally = observe.Tally()
    tally.add("ConservationHolds", int(result.holds))
    tally.flush()
    if not result.holds:
        observe.logger().error(
            "conservation_broken", enqueued=result.enqueued, pruned=result.pruned, states=result.states
        )
    return result.holds
