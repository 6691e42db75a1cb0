"""The sweep's reading of the whole system, every five minutes: as metrics for alarms, and in its heartbeat for the API.

Here are the looks that are too dear for every request: at all open jobs, all schedules, and a day's mail events.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from aws_lambda_powertools.metrics import MetricUnit
from sqlalchemy import Connection, text

from functions.core.catalog import CATALOG, Catalog
from functions.db.engine import transaction
from functions.pipeline import gauges, observe
from functions.pipeline.heartbeat import Heartbeat, beat, heartbeats
from functions.pipeline.overdue import Overdue, overdue

STUCK_AFTER_SECONDS = 3_600
"""A job due for longer than this, on a queue that is not paused, is stuck: SQS leaves messages out of its oldest age
once they were received three times. https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-available-cloudwatch-metrics.html"""
LEASE_OVER_SECONDS = 900
"""A run whose lease ended so long ago was neither delivered again nor found by the sweep."""
DOUBT_AFTER_SECONDS = 1_800
"""docs/architecture.md, rule 5: by then the provider's event should have settled a mail."""

STEADY_SECONDS = 900
"""Sweeps come every five minutes: where two in a row are missing, there was an outage."""

OPEN = text("""
    SELECT q.name AS queue, open.due_since, coalesce(open.due, 0) AS due, coalesce(open.stuck, 0) AS stuck
    FROM queues q LEFT JOIN (
        SELECT j.queue, min(j.run_at) FILTER (WHERE j.due) AS due_since, count(*) FILTER (WHERE j.due) AS due,
            count(*) FILTER (WHERE j.due AND j.run_at < now() - :stuck * interval '1 second'
                                OR j.lease_until < now() - :lease * interval '1 second') AS stuck
        FROM (SELECT queue, run_at, CASE state WHEN 'active' THEN lease_until END AS lease_until,
                     state IN ('waiting', 'retrying', 'delayed') AND run_at <= now() AS due
              FROM jobs WHERE closed_at IS NULL AND died_at IS NULL) AS j
        GROUP BY j.queue
    ) AS open ON open.queue = q.name
    WHERE q.paused_at IS NULL
    ORDER BY q.name
""")

MAIL = text("""
    SELECT coalesce((SELECT jsonb_object_agg(kind, n) FROM (
               SELECT kind, count(*) AS n FROM mail_events
               WHERE kind = ANY('{send,delivery,bounce,complaint,delay,reject}') AND at > now() - interval '1 day'
               GROUP BY kind) AS by_kind), '{}') AS last_day,
           (SELECT count(*) FROM email_messages
            WHERE state = 'intended' AND intended_at < now() - :doubt * interval '1 second') AS in_doubt,
           (SELECT count(*) FROM tenants WHERE mail_paused_at IS NOT NULL) AS tenants_paused
""")

DATABASE = text("""
    SELECT pg_database_size(current_database()) AS bytes,
           (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend') AS connections,
           current_setting('max_connections')::int AS most_connections
""")


def measure(now: datetime, *, conservation: bool | None, catalog: Catalog = CATALOG) -> bool:
    """Read everything in one transaction, beat, and emit the metrics. Returns True: it is done.

    `conservation` is what the sweep just found, None when it could not tell.
    """
    with transaction() as tx:
        counts = gauges.job_counts(tx)
        report = _report(tx, now, conservation, catalog)
        outbox_age = gauges.outbox_age_seconds(tx)
        database = tx.execute(DATABASE).one()
        beat(tx, "sweep", report)
    tally = observe.Tally()
    tally.add("Heartbeat", 1)
    tally.add("OutboxAgeSeconds", outbox_age, MetricUnit.Seconds)
    tally.add("StuckJobs", sum(item["stuck"] for item in report["queues"].values()))
    tally.add("ScheduleLagSeconds", _longest(report["overdue"], now), MetricUnit.Seconds)
    tally.add("OverdueRuns", sum(item["tenants"] for item in report["overdue"].values()))
    tally.add("MailPausedTenants", report["mail_paused_tenants"])
    tally.add("DatabaseBytes", database.bytes, MetricUnit.Bytes)
    tally.add("DatabaseConnectionsPercent", 100 * database.connections / database.most_connections, MetricUnit.Percent)
    for queue in catalog.queues:
        waits = report["queues"].get(queue, {}).get("due_since")
        waited = (now - datetime.fromisoformat(waits)).total_seconds() if waits else 0.0
        tally.add("OldestWaitSeconds", max(0.0, waited), MetricUnit.Seconds, queue=queue)
        tally.add("WaitingJobs", gauges.total(counts, state="waiting", queue=queue), queue=queue)
        tally.add("DeadJobs", gauges.total(counts, state="dead", queue=queue), queue=queue)
    tally.flush()
    return True


def _report(tx: Connection, now: datetime, conservation: bool | None, catalog: Catalog) -> dict[str, Any]:
    limits = {"stuck": STUCK_AFTER_SECONDS, "lease": LEASE_OVER_SECONDS}
    queues = {row.queue: _open(row) for row in tx.execute(OPEN, limits)}
    late = overdue(tx, now, catalog=catalog)
    mail = tx.execute(MAIL, {"doubt": DOUBT_AFTER_SECONDS}).one()
    last = heartbeats(tx).get("sweep")
    return {
        "conservation": conservation,
        "queues": queues,
        "overdue": {name: _late(found) for name, found in late.items()},
        "mails_last_day": mail.last_day,
        "mails_in_doubt": mail.in_doubt,
        "mail_paused_tenants": mail.tenants_paused,
        "finished": gauges.finished_by_type(gauges.run_totals(tx)),
        # Where the last sweep stood: what a rate is measured against, over five minutes at least.
        "before": {"at": last.at.isoformat(), "finished": last.report.get("finished", {})} if last else None,
        "steady_since": _steady_since(last, now),
    }


def _steady_since(last: Heartbeat | None, now: datetime) -> str | None:
    """When the sweeps came back after the last outage; None: none is known."""
    if last is None:
        return None
    if last.age_seconds > STEADY_SECONDS:
        return now.isoformat()
    since: str | None = last.report.get("steady_since")
    return since


def _open(row: Any) -> dict[str, Any]:
    since = row.due_since.isoformat() if row.due_since else None
    return {"due_since": since, "due": row.due, "stuck": row.stuck}


def _late(found: Overdue) -> dict[str, Any]:
    return {"tenants": found.tenants, "due_since": found.due_since.isoformat()}


def _longest(late: Mapping[str, Mapping[str, Any]], now: datetime) -> float:
    waits = [(now - datetime.fromisoformat(item["due_since"])).total_seconds() for item in late.values()]
    return max(waits, default=0.0)
