"""Triage: why the claim left messages over, and what follows. One statement, and only for a batch that has any."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from uuid import UUID

from sqlalchemy import Connection, text

from functions.core.buckets import DURATION_BOUNDS
from functions.db.engine import pg_array
from functions.pipeline.ledger import EARLY_TOLERANCE_SECONDS, Reference

LOSSES_ALONE_UNTIL_DEATH = 3
"""A run that is lost alone has no neighbour to blame; the third one is the job's own doing. Unless PostgreSQL was
restarted under it: an outage is nobody's doing."""
LOSSES_UNTIL_DEATH = 10
"""In a row, whoever is to blame: a job that takes the database down with it must not do so for ever."""
LATE_COPY_SECONDS = 60.0
"""For so long after a death a message may still be a copy: a relay's call to SQS lasts up to 12 s and may be taken at
its end, while another relay's message ran. What was sent later was redriven by somebody."""

# Losses are recorded here, crashes buried, and jobs that an operator redrove from a dead-letter queue revived.
TRIAGE = text("""
    WITH message AS (
        SELECT * FROM unnest(CAST(:ids AS uuid[]), CAST(:deliveries AS integer[]), CAST(:message_ids AS text[]),
                             CAST(:sent_at AS timestamptz[])) AS m(id, delivery, message_id, sent_at)
    ), held AS MATERIALIZED (
        SELECT id, queue, type, state, delivery, runs, run_at, deadline_at, lease_until, claimed_alone, lost,
               lost_alone, started_at, dead_message_id, died_at, group_key
        FROM jobs WHERE id = ANY(CAST(:ids AS uuid[])) ORDER BY id FOR UPDATE
    ), assessed AS MATERIALIZED (
        SELECT m.id, m.message_id, m.sent_at, h.type, h.state, h.runs, h.started_at, h.lease_until, h.group_key,
            coalesce(h.lost_alone + (h.state = 'active' AND blame.falls)::int, 0) AS lost_alone,
            CASE
                WHEN h.id IS NULL THEN 'gone'
                WHEN h.queue <> :queue THEN 'misplaced'
                WHEN h.delivery <> m.delivery OR h.state IN ('completed', 'cancelled', 'paused', 'blocked') THEN 'stale'
                WHEN h.state = 'dead' AND h.dead_message_id = m.message_id THEN 'dead'
                WHEN h.state = 'dead' AND m.sent_at > h.died_at + :late_copy * interval '1 second' THEN 'revived'
                WHEN h.state = 'dead' AND m.sent_at > h.died_at THEN 'dead'
                WHEN h.state = 'dead' THEN 'stale'
                WHEN h.state = 'active' AND h.lease_until > clock_timestamp() THEN 'busy'
                WHEN h.state = 'active' AND (h.lost_alone + blame.falls::int >= :deadly
                                             OR h.claimed_alone AND h.lost + 1 >= :most_losses) THEN 'crashed'
                WHEN h.state = 'active' THEN 'lost'
                WHEN h.deadline_at <= clock_timestamp() THEN 'expired'
                WHEN h.run_at > clock_timestamp() + :tolerance * interval '1 second' THEN 'early'
                WHEN (SELECT paused_at FROM queues WHERE name = :queue) IS NOT NULL THEN 'queue_paused'
                WHEN :fifo AND (h.lost = 0 OR :alone) THEN 'out_of_turn'
                ELSE 'suspect'
            END AS verdict,
            greatest(0, extract(epoch FROM
                CASE WHEN h.state = 'active' THEN h.lease_until ELSE h.run_at END - clock_timestamp()))::float8
                AS wait_seconds
        FROM message m LEFT JOIN held h ON h.id = m.id
        CROSS JOIN LATERAL (SELECT h.claimed_alone AND h.started_at > pg_postmaster_start_time() AS falls) AS blame
    ), alive AS MATERIALIZED (
        SELECT id FROM retake_job_keys(ARRAY(SELECT id FROM assessed WHERE verdict = 'revived')) AS id
    ), judged AS MATERIALIZED (
        SELECT id, message_id, sent_at, type, state, runs, started_at, lease_until, group_key, lost_alone, wait_seconds,
               CASE WHEN verdict = 'revived' AND id NOT IN (SELECT id FROM alive) THEN 'key_taken' ELSE verdict END
               AS verdict
        FROM assessed
    ), attempt AS (
        INSERT INTO job_attempts (job_id, run, outcome, counted, error_class, error, started_at)
        SELECT id, runs, 'lost', false, 'Lost', 'the lease ran out before the run was settled', started_at
        FROM judged WHERE verdict IN ('lost', 'crashed')
        ON CONFLICT DO NOTHING
    ), counted AS (
        INSERT INTO job_run_deltas (type, outcome, measure, bucket, runs, seconds)
        SELECT type, CASE verdict WHEN 'crashed' THEN 'dead' ELSE 'lost' END, 'duration', :longest, count(*),
               sum(extract(epoch FROM lease_until - started_at))
        FROM judged WHERE verdict IN ('lost', 'crashed') GROUP BY type, verdict
    ), changed AS (
        UPDATE jobs AS j SET
            state = CASE judged.verdict
                WHEN 'lost' THEN 'retrying' WHEN 'crashed' THEN 'dead' WHEN 'expired' THEN 'cancelled'
                ELSE 'waiting' END,
            claim_token = NULL, lease_until = NULL,
            turn = CASE judged.verdict WHEN 'lost' THEN j.turn END,
            payload = CASE WHEN judged.verdict = 'expired' AND jsonb_typeof(j.payload) = 'object'
                           THEN j.payload - CAST(:forgets AS text[]) ELSE j.payload END,
            closed_at = CASE judged.verdict WHEN 'expired' THEN clock_timestamp() END,
            lost = CASE WHEN judged.verdict IN ('lost', 'crashed') THEN j.lost + 1 ELSE 0 END,
            lost_alone = CASE WHEN judged.verdict IN ('lost', 'crashed') THEN judged.lost_alone ELSE 0 END,
            attempts = CASE judged.verdict WHEN 'revived' THEN 0 ELSE j.attempts END,
            sent_at = CASE judged.verdict WHEN 'revived' THEN judged.sent_at ELSE j.sent_at END,
            error_class = CASE judged.verdict WHEN 'crashed' THEN 'Crashed' ELSE j.error_class END,
            error = CASE judged.verdict
                WHEN 'crashed' THEN format(
                    'crashed: %s runs in a row were lost before they settled, %s of them alone', j.lost + 1,
                    judged.lost_alone)
                WHEN 'expired' THEN 'its deadline passed before it could run'
                ELSE j.error END,
            dead_message_id = CASE judged.verdict WHEN 'crashed' THEN judged.message_id END,
            died_at = CASE judged.verdict WHEN 'crashed' THEN clock_timestamp() END
        FROM judged
        WHERE j.id = ANY(CAST(:ids AS uuid[])) AND j.id = judged.id
          AND judged.verdict IN ('lost', 'crashed', 'expired', 'revived')
        RETURNING j.dedup_key, j.state, j.id
    ), freed AS (
        DELETE FROM job_keys USING changed
        WHERE job_keys.key = changed.dedup_key AND job_keys.job_id = changed.id
          AND changed.state IN ('dead', 'cancelled') AND job_keys.expires_at = 'infinity'
    )
    SELECT id, verdict, wait_seconds, lost_alone, group_key FROM judged
""")


class Verdict(StrEnum):
    """Why the claim left a message over."""

    GONE = "gone"
    STALE = "stale"
    DEAD = "dead"
    """Its message goes to the dead-letter queue, and so does one sent so soon after the death that it may be a copy."""
    REVIVED = "revived"
    KEY_TAKEN = "key_taken"
    """Somebody redrove a dead job whose deduplication key a newer job holds: it stays dead."""
    BUSY = "busy"
    CRASHED = "crashed"
    LOST = "lost"
    EXPIRED = "expired"
    EARLY = "early"
    QUEUE_PAUSED = "queue_paused"
    SUSPECT = "suspect"
    OUT_OF_TURN = "out_of_turn"
    """An earlier job of its group has not started."""
    MISPLACED = "misplaced"
    """It is on another queue than its job."""


@dataclass(frozen=True, slots=True)
class Judged:
    """A left-over message's verdict; `wait_seconds` is the rest of the lease (busy) or until run_at (early)."""

    id: UUID
    verdict: Verdict
    wait_seconds: float
    lost_alone: int
    group_key: str | None = None


def triage(
    tx: Connection,
    messages: Sequence[Reference],
    *,
    queue: str,
    forgets: Sequence[str] = (),
    fifo: bool = False,
    alone: bool = False,
) -> list[Judged]:
    """Judge the messages that a claim left over, in one statement; see `TRIAGE`. `fifo` and `alone` as the claim's.

    `forgets`: fields that leave the payload of a job that ends here (`Catalog.forgets`).
    """
    rows = tx.execute(
        TRIAGE,
        {
            "ids": pg_array(str(message.id) for message in messages),
            "deliveries": [message.delivery for message in messages],
            "queue": queue,
            "forgets": list(forgets),
            "fifo": fifo,
            "alone": alone,
            "longest": len(DURATION_BOUNDS),
            "message_ids": [message.message_id for message in messages],
            "sent_at": [message.sent_at for message in messages],
            "tolerance": EARLY_TOLERANCE_SECONDS,
            "late_copy": LATE_COPY_SECONDS,
            "deadly": LOSSES_ALONE_UNTIL_DEATH,
            "most_losses": LOSSES_UNTIL_DEATH,
        },
    )
    return [Judged(row.id, Verdict(row.verdict), row.wait_seconds, row.lost_alone, row.group_key) for row in rows]
