"""Keeps the ledger in order, every five minutes: folds counts, keeps partitions ahead, finds jobs that fell silent.

Every task commits alone, and one that fails does not keep the others from running.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import text

from functions.aws import sqs
from functions.core.buckets import DURATION_BOUNDS
from functions.core.catalog import CATALOG, Catalog
from functions.core.errors import DuecourseError, TablesInUse
from functions.db.deadline import deadline, is_near
from functions.db.engine import is_conflict, transaction
from functions.pipeline import months, observe, pausing, relay, vitals
from functions.pipeline.conservation import conservation
from functions.pipeline.settings import settings

MESSAGE_RETENTION = timedelta(days=14)
RESEND_BEFORE_EXPIRY = timedelta(days=1)
RELAY_SECONDS = 20.0
"""What sending may take of a sweep: SQS may be slow, and the other tasks must still run."""
FIRST_RESEND_SECONDS = 300
"""A silent job is sent again after this; the wait doubles with each further time."""

KEYS_PER_STEP = 5_000

# Moves the deltas into the totals: a plain delete and upsert, so the totals are exact at every instant.
FOLD = text("""
    WITH folded AS (DELETE FROM job_count_deltas RETURNING queue, type, state, delta)
    INSERT INTO job_counts AS c (queue, type, state, count)
    SELECT queue, type, state, sum(delta) FROM folded GROUP BY queue, type, state ORDER BY queue, type, state
    ON CONFLICT (queue, type, state) DO UPDATE SET count = c.count + excluded.count
""")

FOLD_RUNS = text("""
    WITH folded AS (DELETE FROM job_run_deltas RETURNING type, outcome, measure, bucket, runs, seconds)
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

FORGET_FAILURES = text("DELETE FROM auth_failures WHERE minute < now() - interval '1 hour'")

# Queues whose ledger holds jobs that were sent and not yet finished; dead ones are SQS's to move.
SENT = text("""
    SELECT DISTINCT queue FROM jobs
    WHERE closed_at IS NULL AND sent_at IS NOT NULL AND state IN ('waiting', 'retrying', 'active')
""")

# Whether this sweep and the one before it found the queue empty.
MARK_IDLE = text("""
    WITH before AS (SELECT name, idle_since FROM queues WHERE name = :queue)
    UPDATE queues SET idle_since = CASE WHEN :empty THEN coalesce(queues.idle_since, now()) END
    FROM before WHERE queues.name = before.name
    RETURNING :empty AND before.idle_since IS NOT NULL AS empty_twice
""")

# Sends silent jobs again under a new delivery number. A run whose lease ran out meanwhile is recorded as lost.
RESEND = text("""
    WITH silent AS MATERIALIZED (
        SELECT id, type, state, runs, started_at, lease_until FROM jobs
        WHERE closed_at IS NULL AND queue = :queue AND sent_at IS NOT NULL
          AND state IN ('waiting', 'retrying', 'active') AND (state <> 'active' OR lease_until < now())
          AND run_at <= now()
          AND (sent_at < now() - CAST(:near_expiry AS interval) OR (:empty_twice
               AND sent_at < now() - coalesce(resend_after, CAST(:first AS interval))))
        ORDER BY id FOR UPDATE SKIP LOCKED
    ), attempt AS (
        INSERT INTO job_attempts (job_id, run, outcome, counted, error_class, error, started_at)
        SELECT id, runs, 'lost', false, 'Lost', 'the lease ran out and the message is gone', started_at
        FROM silent WHERE state = 'active'
        ON CONFLICT DO NOTHING
    ), counted AS (
        INSERT INTO job_run_deltas (type, outcome, measure, bucket, runs, seconds)
        SELECT type, 'lost', 'duration', :longest, count(*), sum(extract(epoch FROM lease_until - started_at))
        FROM silent WHERE state = 'active' GROUP BY type
    )
    UPDATE jobs AS j SET
        state = CASE j.state WHEN 'active' THEN 'retrying' ELSE j.state END,
        lost = j.lost + (j.state = 'active')::int,
        lost_alone = j.lost_alone
            + (j.state = 'active' AND j.claimed_alone AND j.started_at > pg_postmaster_start_time())::int,
        claim_token = NULL, lease_until = NULL,
        delivery = j.delivery + 1, sent_at = NULL, outbox_at = now(),
        resend_after = coalesce(j.resend_after, CAST(:first AS interval)) * 2
    FROM silent WHERE j.id = silent.id
    RETURNING j.id
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
        "partitions_made": months.keep_ahead,
        "keys_expired": expire_keys,
        "auth_failures_forgotten": forget_auth_failures,
        "resent": lambda: resend_silent(catalog),
        "relayed": lambda: relay.drain(within=RELAY_SECONDS, catalog=catalog).sent,
        "mappings_switched": lambda: pausing.put_mappings_in_step(catalog),
        "jobs_pruned": lambda: months.retire_old(now.date()),
        "conservation": check_conservation,
        "measured": lambda: vitals.measure(now, conservation=_found(report), catalog=catalog),
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
    """Send again what was sent and never heard of, where the queue is empty twice running or retention nears its end.

    A backlog is never multiplied: as long as a queue holds any message, its jobs are thought to be among them.
    """
    with transaction() as tx:
        queues = [row.queue for row in tx.execute(SENT) if row.queue in catalog.queues]
    # SQS is asked outside a transaction: no connection is held while the network is.
    empty = {queue: sqs.depth(settings().queue_url(queue, catalog=catalog)).empty for queue in queues}
    resent = 0
    with transaction() as tx:
        for queue in catalog.queues:
            idle = {"queue": queue, "empty": empty.get(queue, False)}
            empty_twice = bool(tx.execute(MARK_IDLE, idle).scalar_one_or_none())
            if queue in empty:
                limits = {
                    "near_expiry": MESSAGE_RETENTION - RESEND_BEFORE_EXPIRY,
                    "first": timedelta(seconds=FIRST_RESEND_SECONDS),
                    "longest": len(DURATION_BOUNDS),
                }
                rows = tx.execute(RESEND, {"queue": queue, "empty_twice": empty_twice, **limits}).all()
                resent += len(rows)
    if resent:
        tally = observe.Tally()
        tally.add("JobsResent", resent)
        tally.flush()
        observe.logger().warning("resent_silent", jobs=resent)
    return resent


def check_conservation() -> bool:
    """Whether every job ever enqueued is accounted for; also a metric, alarmed at 0."""
    with transaction() as tx:
        result = conservation(tx)
    tally = observe.Tally()
    tally.add("ConservationHolds", int(result.holds))
    tally.flush()
    if not result.holds:
        observe.logger().error(
            "conservation_broken", enqueued=result.enqueued, pruned=result.pruned, states=result.states
        )
    return result.holds
