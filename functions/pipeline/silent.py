"""Which sent jobs have fallen silent because their message is gone: statements that only look, and the one that acts.

A message that waits in a backlog is silent too. What tells the two apart is the queue itself: it is empty, or it has
got past the job, so that others that were sent much later have started. (docs/architecture.md, rule 10.)
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from sqlalchemy import Connection, Row, text

from functions.pipeline.ledger import SENT_AGAIN, lost_runs

PASSED_SECONDS = 900
"""A job that was sent so much later and has started proves that the queue got past this one: SQS keeps no strict order,
and a message that is tried again is out of sight for up to a quarter of an hour."""
PASSED_AFTER_SECONDS = 2_400
"""A job is silent for so long before the queue is asked whether it got past it: within an hour it is sent again."""
FEW_PENDING = 100
"""Standard queues are fair: whatever others send, a tenant with at most so many messages is not kept waiting."""
SAMPLE_ROWS = 5_000
"""Jobs of a queue, of each part the latest ordered, that are looked at for what has started."""
OLDEST_ROWS = 100
"""Silent jobs of a tenant that are looked at, those sent first."""
GROUP_ROWS = 20
"""Jobs of a FIFO group that are looked at for whether the group moves."""

_SENT = "queue = :queue AND sent_at IS NOT NULL AND closed_at IS NULL AND died_at IS NULL"
_OWNER = "coalesce(tenant_id, '00000000-0000-0000-0000-000000000000')"
"""What index jobs_sent holds, and in which order: jobs of no tenant are the nil one's."""
_SILENT = """
    state IN ('waiting', 'retrying', 'active') AND (state <> 'active' OR lease_until < now()) AND run_at <= now()
"""

SENT = text("""
    SELECT name AS queue, fifo, paused_at IS NOT NULL AS paused FROM queues
    WHERE EXISTS (SELECT FROM jobs WHERE queue = name AND sent_at IS NOT NULL AND closed_at IS NULL AND died_at IS NULL)
    ORDER BY name
""")

# The tenants of a queue's sent jobs, each found by one step in the index.
_TENANT = f"""
    tenant(id) AS (
        (SELECT {_OWNER} FROM jobs WHERE {_SENT} ORDER BY {_OWNER} LIMIT 1)
        UNION ALL
        SELECT (SELECT {_OWNER} FROM jobs WHERE {_SENT} AND {_OWNER} > tenant.id ORDER BY {_OWNER} LIMIT 1)
        FROM tenant WHERE tenant.id IS NOT NULL
    )
"""

# SQS will soon forget their messages.
EXPIRING = text(f"""
    WITH RECURSIVE {_TENANT}
    SELECT expiring.* FROM tenant, LATERAL (
        SELECT id, delivery FROM jobs
        WHERE {_SENT} AND {_OWNER} = tenant.id AND sent_at < now() - CAST(:near_expiry AS interval) AND {_SILENT}
        ORDER BY sent_at LIMIT :most
    ) AS expiring
    LIMIT :most
""")

# Their queue holds no message at all.
IN_EMPTY_QUEUE = text(f"""
    SELECT id, delivery FROM jobs
    WHERE {_SENT} AND {_SILENT} AND sent_at < now() - coalesce(resend_after, CAST(:first AS interval))
    ORDER BY sent_at, id LIMIT :most
""")

# What has started of the latest jobs of a queue, in an order that its indexes have.
_STARTED = f"""
    started AS MATERIALIZED (
        SELECT owner, sent_at FROM (
            (SELECT {_OWNER} AS owner, sent_at, started_at FROM jobs
             WHERE queue = :queue AND closed_at IS NOT NULL ORDER BY id DESC LIMIT :sample)
            UNION ALL
            (SELECT {_OWNER}, sent_at, started_at FROM jobs
             WHERE queue = :queue AND died_at IS NOT NULL ORDER BY id DESC LIMIT :sample)
            UNION ALL
            (SELECT {_OWNER}, sent_at, started_at FROM jobs
             WHERE queue = :queue AND closed_at IS NULL AND died_at IS NULL ORDER BY id DESC LIMIT :sample)
        ) AS latest WHERE started_at >= sent_at
    ), queue_passed AS MATERIALIZED (
        SELECT max(sent_at) - CAST(:passed AS interval) AS at FROM started
    ), tenant_passed AS MATERIALIZED (
        SELECT owner, max(sent_at) - CAST(:passed AS interval) AS at FROM started GROUP BY owner
    )
"""
# The oldest that were sent up to `passed.at`, for each tenant, so that the backlog of one hides nobody else's.
_OLDEST = f"""
    oldest AS MATERIALIZED (
        SELECT passed.at AS passed, sent.* FROM passed, LATERAL (
            SELECT id, delivery, group_key, sent_at, resend_after, {_SILENT} AS silent,
                   greatest(sent_at, run_at, lease_until) AS since
            FROM jobs
            WHERE {_SENT} AND {_OWNER} = passed.id
              AND sent_at <= passed.at AND sent_at < now() - CAST(:after AS interval)
            ORDER BY sent_at LIMIT :oldest
        ) AS sent
    ), silent AS MATERIALIZED (
        SELECT id, delivery, group_key, since FROM oldest
        WHERE silent AND since < now() - greatest(CAST(:after AS interval), resend_after) AND since <= passed
    )
"""

# A tenant with few messages is passed by whatever the queue got to; one with many by its own jobs alone.
PASSED = text(f"""
    WITH RECURSIVE {_STARTED}, {_TENANT}, passed AS MATERIALIZED (
        SELECT tenant.id, CASE WHEN (
            SELECT count(*) FROM (SELECT FROM jobs WHERE {_SENT} AND {_OWNER} = tenant.id LIMIT :few + 1) AS pending
        ) <= :few THEN queue_passed.at ELSE tenant_passed.at END AS at
        FROM tenant CROSS JOIN queue_passed LEFT JOIN tenant_passed ON tenant_passed.owner = tenant.id
        WHERE queue_passed.at >= (
            SELECT sent_at FROM jobs WHERE {_SENT} AND {_OWNER} = tenant.id ORDER BY sent_at LIMIT 1)
    ), {_OLDEST}
    SELECT id, delivery FROM silent ORDER BY since, id LIMIT :most
""")

# A FIFO group goes through its queue one after the other, however long that takes, and other groups pass it. So a job
# is lost where one of its own group was sent later and has started, or where it is the first of its group and nothing
# of the group has started for as long as proves anything elsewhere.
PASSED_IN_ORDER = text(f"""
    WITH RECURSIVE {_STARTED}, {_TENANT}, passed AS MATERIALIZED (
        SELECT tenant.id, queue_passed.at FROM tenant, queue_passed WHERE tenant.id IS NOT NULL
    ), {_OLDEST}, first AS MATERIALIZED (
        SELECT head.id, head.name, near.moved_at, near.passed
        FROM (SELECT DISTINCT ON (coalesce(group_key, id::text)) coalesce(group_key, id::text) AS name, id, group_key
              FROM oldest ORDER BY coalesce(group_key, id::text), sent_at, id) AS head,
            LATERAL (
                SELECT max(started_at) AS moved_at,
                       max(sent_at) FILTER (WHERE started_at >= sent_at) - CAST(:passed AS interval) AS passed
                FROM ((SELECT started_at, sent_at FROM jobs
                       WHERE queue = :queue AND group_key = head.group_key ORDER BY id DESC LIMIT :group_rows)
                      UNION ALL
                      (SELECT started_at, sent_at FROM jobs
                       WHERE queue = :queue AND group_key = head.group_key AND id < head.id
                       ORDER BY id DESC LIMIT :group_rows)) AS of_group
            ) AS near
    )
    SELECT silent.id, silent.delivery
    FROM silent JOIN first ON first.name = coalesce(silent.group_key, silent.id::text)
    WHERE silent.since <= first.passed
       OR silent.id = first.id AND coalesce(first.moved_at, '-infinity') < now() - CAST(:passed AS interval)
    ORDER BY silent.since, silent.id LIMIT :most
""")

# Sends them again under a new delivery number. A run whose lease ran out meanwhile is recorded as lost. What is locked,
# or was sent anew since it was found, is left to the next sweep.
RESEND = text(f"""
    WITH held AS MATERIALIZED (
        SELECT id, type, state, delivery, runs, started_at, lease_until FROM jobs
        WHERE id = ANY(CAST(:ids AS uuid[])) AND sent_at IS NOT NULL AND {_SILENT}
        ORDER BY id FOR UPDATE SKIP LOCKED
    ), silent AS MATERIALIZED (
        SELECT held.* FROM held
        JOIN unnest(CAST(:ids AS uuid[]), CAST(:deliveries AS integer[])) AS seen(id, delivery) USING (id, delivery)
    ), {lost_runs("silent", "the lease ran out and the message is gone")}
    UPDATE jobs AS j SET
        {SENT_AGAIN}, outbox_at = now(),
        resend_after = coalesce(j.resend_after, CAST(:first AS interval)) * 2
    FROM silent WHERE j.id = ANY(CAST(:ids AS uuid[])) AND j.id = silent.id
    RETURNING j.id
""")


def expiring(tx: Connection, queue: str, *, near_expiry: timedelta, most: int) -> Sequence[Row[Any]]:
    """The oldest silent jobs of a queue that were sent longer ago than `near_expiry`."""
    return tx.execute(EXPIRING, {"queue": queue, "near_expiry": near_expiry, "most": most}).all()


def in_empty_queue(tx: Connection, queue: str, *, first: timedelta, most: int) -> Sequence[Row[Any]]:
    """Silent jobs of a queue that holds no message, sent longer ago than their interval, `first` at first."""
    return tx.execute(IN_EMPTY_QUEUE, {"queue": queue, "first": first, "most": most}).all()


def passed(tx: Connection, queue: str, *, fifo: bool, most: int) -> Sequence[Row[Any]]:
    """Silent jobs that their queue got past: what was sent much later has started."""
    values = {
        "queue": queue,
        "passed": timedelta(seconds=PASSED_SECONDS),
        "after": timedelta(seconds=PASSED_AFTER_SECONDS),
        "sample": SAMPLE_ROWS,
        "oldest": OLDEST_ROWS,
        "most": most,
    }
    if fifo:
        return tx.execute(PASSED_IN_ORDER, values | {"group_rows": GROUP_ROWS}).all()
    return tx.execute(PASSED, values | {"few": FEW_PENDING}).all()


def resend(tx: Connection, found: Sequence[Row[Any]], *, first: timedelta) -> int:
    """Send the jobs found again. Returns how many were still as they were found."""
    values = {
        "ids": [row.id for row in found],
        "deliveries": [row.delivery for row in found],
        "first": first,
    }
    return len(tx.execute(RESEND, values).all())
