"""The ledger's upkeep at any size: dead jobs apart, lost ones found by their place, counts by a seal, keys retaken."""

from alembic import op

revision = "0014"
down_revision = "0013"

# Dead jobs stay for as long as nobody decides about them. In an index of their own they cost nothing to those who look
# at live jobs. No index names a column that claim or settle changes on the way through `active`: those updates stay
# heap-only. (`sent_at` changes only together with `outbox_at`, which is indexed already.)
INDEXES = """
DROP INDEX jobs_open;
CREATE INDEX jobs_open ON jobs (queue, id) WHERE closed_at IS NULL AND died_at IS NULL;
CREATE INDEX jobs_dead ON jobs (queue, id) WHERE died_at IS NOT NULL;
COMMENT ON COLUMN jobs.died_at IS 'a message sent over a minute later was redriven by somebody and revives the job';
CREATE INDEX jobs_sent ON jobs (queue, coalesce(tenant_id, '00000000-0000-0000-0000-000000000000'), sent_at)
    WHERE sent_at IS NOT NULL AND closed_at IS NULL AND died_at IS NULL;
CREATE INDEX jobs_group ON jobs (queue, group_key, id) WHERE group_key IS NOT NULL;

-- Whether any event came after a mail that is in doubt: without it, all of them were read.
CREATE INDEX mail_events_at ON mail_events (at);
"""

# A paused job is not in its queue: its message is dropped when it arrives.
PAUSED = "UPDATE jobs SET sent_at = NULL WHERE closed_at IS NULL AND state = 'paused' AND sent_at IS NOT NULL"

SEAL = """
CREATE TABLE job_seal (
    one         boolean PRIMARY KEY DEFAULT true CHECK (one),
    id          uuid NOT NULL DEFAULT '00000000-0000-0000-0000-000000000000',
    jobs        bigint NOT NULL DEFAULT 0,
    late        bigint NOT NULL,
    pruned      bigint NOT NULL,
    recount_id  uuid NOT NULL DEFAULT '00000000-0000-0000-0000-000000000000',
    recounted   bigint NOT NULL DEFAULT 0,
    recount_late    bigint NOT NULL DEFAULT 0,
    recount_pruned  bigint NOT NULL DEFAULT 0
);
COMMENT ON TABLE job_seal IS 'conservation: jobs with a lesser id were counted once, not at every sweep';
COMMENT ON COLUMN job_seal.jobs IS 'how many there were; late and pruned: the totals of these counts at that time';
COMMENT ON COLUMN job_seal.recount_id IS 'where the slow recount of sealed jobs goes on, after `recounted` of them';
INSERT INTO job_seal (late, pruned)
SELECT 0, coalesce(sum(n), 0)
FROM (SELECT count AS n FROM job_counts WHERE state = 'pruned'
      UNION ALL SELECT delta FROM job_count_deltas WHERE state = 'pruned') AS pruned;
COMMENT ON TABLE job_counts IS 'jobs by state, and the monotonic pseudo-states enqueued, pruned, late (below the seal)';
"""

ENQUEUED = """
CREATE OR REPLACE FUNCTION jobs_enqueued() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    seal uuid := (SELECT id FROM job_seal);
BEGIN
    INSERT INTO job_count_deltas (queue, type, state, delta)
    SELECT queue, type, pseudo, jobs
    FROM (SELECT queue, type, unnest(ARRAY[state, 'enqueued', 'late']) AS pseudo,
                 unnest(ARRAY[count(*), count(*), count(*) FILTER (WHERE id < seal)]) AS jobs
          FROM added GROUP BY queue, type, state) AS counts
    WHERE jobs > 0;
    RETURN NULL;
END $$;
"""

ENQUEUED_BEFORE = """
CREATE OR REPLACE FUNCTION jobs_enqueued() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO job_count_deltas (queue, type, state, delta)
    SELECT queue, type, unnest(ARRAY[state, 'enqueued']), count(*) FROM added GROUP BY queue, type, state;
    RETURN NULL;
END $$;
"""

# The two parts of what is not closed have an index each. Without sequential scans, whatever the statistics say: the
# ledger is locked while this runs.
RETIRE = """
CREATE OR REPLACE FUNCTION retire_job_partition(month date, tally jsonb DEFAULT NULL) RETURNS bigint
LANGUAGE plpgsql SET enable_seqscan = off SET jit = off AS $$
DECLARE
    jobs_month text := 'jobs_' || to_char(month, 'YYYY_MM');
    attempts_month text := 'job_attempts_' || to_char(month, 'YYYY_MM');
    lowest uuid := uuid7_floor(month::timestamp AT TIME ZONE 'UTC');
    beyond uuid := uuid7_floor((month + interval '1 month') AT TIME ZONE 'UTC');
    pruned bigint;
BEGIN
    IF to_regclass(jobs_month) IS NULL THEN
        RETURN 0;
    END IF;
    tally := coalesce(tally, tally_job_partition(month));
    EXECUTE format('ALTER TABLE jobs DETACH PARTITION %I', jobs_month);
    EXECUTE format(
        'WITH closed AS (
            SELECT queue, type, state, jobs
            FROM jsonb_to_recordset($1 -> ''closed'') AS c(queue text, type text, state text, jobs bigint)
            UNION ALL
            SELECT queue, type, state, 1 FROM %I WHERE closed_at IS NOT NULL AND id = ANY(ARRAY(
                SELECT one.job_id::uuid FROM jsonb_array_elements($1 -> ''open'') AS part(ids),
                    jsonb_array_elements_text(part.ids) AS one(job_id)))
        ), counted AS (
            INSERT INTO job_count_deltas (queue, type, state, delta)
            SELECT queue, type, unnest(ARRAY[''pruned'', state]), unnest(ARRAY[sum(jobs), -sum(jobs)])
            FROM closed GROUP BY queue, type, state
        )
        SELECT coalesce(sum(jobs), 0) FROM closed', jobs_month) INTO pruned USING tally;
    -- Straight into the partition: trigger jobs_enqueued stands on the parent, and these were counted long ago.
    EXECUTE format('INSERT INTO jobs_default
                    SELECT * FROM %1$I WHERE closed_at IS NULL AND died_at IS NULL
                    UNION ALL SELECT * FROM %1$I WHERE died_at IS NOT NULL', jobs_month);
    EXECUTE format('DROP TABLE %I', jobs_month);
    DELETE FROM job_attempts_default WHERE job_id >= lowest AND job_id < beyond
        AND NOT EXISTS (SELECT FROM jobs_default WHERE id = job_id);
    IF to_regclass(attempts_month) IS NOT NULL THEN
        EXECUTE format('ALTER TABLE job_attempts DETACH PARTITION %I', attempts_month);
        EXECUTE format('INSERT INTO job_attempts_default SELECT a.* FROM %I AS a JOIN jobs_default ON id = job_id
                        WHERE id >= %L AND id < %L', attempts_month, lowest, beyond);
        EXECUTE format('DROP TABLE %I', attempts_month);
    END IF;
    RETURN pruned;
END $$;
"""

KEYS = """
-- Gives dead jobs that are to live again their deduplication keys back. Returns which of them may live: those without a
-- key, and those whose key is theirs now. Of several with one key that is the one that holds it still, else the oldest.
-- A key is free when its window has ended or its job's row is gone. Whoever calls this has locked the jobs, and revives
-- what it returns in the same transaction. A key that somebody is just ordering is not waited for: it is taken.
-- Keys are looked up one by one: a join that was planned while there were few of them may read all of them.
CREATE FUNCTION retake_job_keys(ids uuid[]) RETURNS SETOF uuid LANGUAGE plpgsql SET lock_timeout = '50ms'
SET enable_nestloop = on SET enable_hashjoin = off SET enable_mergejoin = off SET enable_seqscan = off
SET jit = off SET plan_cache_mode = force_generic_plan AS $$
DECLARE
    free record;
    patience timestamptz := clock_timestamp() + interval '1 second';
BEGIN
    RETURN QUERY SELECT j.id FROM jobs j WHERE j.id = ANY(ids) AND j.state = 'dead' AND j.dedup_key IS NULL;
    FOR free IN
        SELECT DISTINCT ON (j.dedup_key COLLATE "C") j.id, j.dedup_key AS key, k.job_id AS holder, k.expires_at,
               k.job_id = j.id AND k.expires_at > now() AS own,
               k.job_id IS NULL OR k.expires_at <= now()
                   OR NOT EXISTS (SELECT FROM jobs h WHERE h.id = k.job_id) AS untaken
        FROM jobs j LEFT JOIN LATERAL (
            SELECT job_id, expires_at FROM job_keys WHERE key = j.dedup_key LIMIT 1) AS k ON true
        WHERE j.id = ANY(ids) AND j.state = 'dead' AND j.dedup_key IS NOT NULL
        ORDER BY j.dedup_key COLLATE "C", coalesce(k.job_id = j.id AND k.expires_at > now(), false) DESC, j.id
    LOOP
        IF free.own THEN
            RETURN NEXT free.id;
        ELSIF free.untaken AND clock_timestamp() < patience THEN
            BEGIN
                DELETE FROM job_keys
                WHERE key = free.key AND job_id = free.holder AND expires_at = free.expires_at;
                INSERT INTO job_keys (key, job_id, expires_at) VALUES (free.key, free.id, 'infinity')
                ON CONFLICT DO NOTHING;
                IF FOUND THEN
                    RETURN NEXT free.id;
                END IF;
            EXCEPTION WHEN lock_not_available OR deadlock_detected THEN
                NULL;
            END;
        END IF;
    END LOOP;
END $$;
"""

BACK = """
DROP FUNCTION retake_job_keys(uuid[]);
DROP TABLE job_seal;
DELETE FROM job_counts WHERE state = 'late';
DELETE FROM job_count_deltas WHERE state = 'late';
COMMENT ON TABLE job_counts IS 'jobs by state, and the monotonic pseudo-states enqueued and pruned';
DROP INDEX jobs_open, jobs_dead, jobs_sent, jobs_group, mail_events_at;
CREATE INDEX jobs_open ON jobs (queue, id) WHERE closed_at IS NULL;
DROP FUNCTION retire_job_partition(date, jsonb), tally_job_partition(date);
"""


def upgrade() -> None:
    for statements in (INDEXES, PAUSED, SEAL, ENQUEUED, RETIRE, KEYS):
        op.execute(statements)


def downgrade() -> None:
    op.execute(ENQUEUED_BEFORE)
    op.execute(BACK)
    retire = op.get_context().environment_context.script.get_revision("0006").module.RETIRE
    # Its first statement drops the function of the release before.
    op.execute(retire.partition(";")[2])
