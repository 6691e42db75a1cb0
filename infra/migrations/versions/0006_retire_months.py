"""A month is retired in well under a tenth of a second, however many jobs it holds: they are counted beforehand."""

from alembic import op

revision = "0006"
down_revision = "0005"

# A month's failed runs leave with its jobs, as one table dropped instead of rows deleted.
ATTEMPTS = """
ALTER TABLE job_attempts RENAME TO job_attempts_old;
ALTER TABLE job_attempts_old RENAME CONSTRAINT job_attempts_pkey TO job_attempts_old_pkey;
CREATE TABLE job_attempts (LIKE job_attempts_old INCLUDING DEFAULTS INCLUDING CONSTRAINTS, PRIMARY KEY (job_id, run))
    PARTITION BY RANGE (job_id);
CREATE TABLE job_attempts_default PARTITION OF job_attempts DEFAULT;
INSERT INTO job_attempts SELECT * FROM job_attempts_old;
DROP TABLE job_attempts_old;
COMMENT ON TABLE job_attempts IS 'each run that did not complete';
"""

ENSURE = """
-- Creates a partition of `parent` for the ids from `lowest` to `beyond`; whether it was missing. What came while nobody
-- made it lies in the default partition, and would forbid to attach it.
CREATE FUNCTION ensure_partition(parent text, month text, lowest uuid, beyond uuid) RETURNS boolean
LANGUAGE plpgsql AS $$
DECLARE
    partition text := parent || '_' || month;
    key text := CASE parent WHEN 'jobs' THEN 'id' ELSE 'job_id' END;
BEGIN
    IF to_regclass(partition) IS NOT NULL THEN
        RETURN false;
    END IF;
    EXECUTE format('CREATE TABLE %I (LIKE %I INCLUDING DEFAULTS INCLUDING CONSTRAINTS) WITH (fillfactor = 70)',
                   partition, parent);
    EXECUTE format('WITH moved AS (DELETE FROM %1$I WHERE %2$I >= %3$L AND %2$I < %4$L RETURNING *)
                    INSERT INTO %5$I SELECT * FROM moved', parent || '_default', key, lowest, beyond, partition);
    EXECUTE format('ALTER TABLE %I ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)',
                   parent, partition, lowest, beyond);
    RETURN true;
END $$;

-- Creates the monthly partitions from this month to that many months ahead; returns how many months were missing.
CREATE OR REPLACE FUNCTION ensure_job_partitions(months_ahead integer) RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
    month timestamp;
    made integer := 0;
    lowest uuid;
    beyond uuid;
BEGIN
    FOR n IN 0..months_ahead LOOP
        month := date_trunc('month', now() AT TIME ZONE 'UTC') + n * interval '1 month';
        lowest := uuid7_floor(month AT TIME ZONE 'UTC');
        beyond := uuid7_floor((month + interval '1 month') AT TIME ZONE 'UTC');
        made := made + ensure_partition('jobs', to_char(month, 'YYYY_MM'), lowest, beyond)::int;
        PERFORM ensure_partition('job_attempts', to_char(month, 'YYYY_MM'), lowest, beyond);
    END LOOP;
    RETURN made;
END $$;
"""

RETIRE = """
DROP FUNCTION retire_job_partition(date);

-- Reads a month through, holding up nobody: its closed jobs by queue, type and state, and the ids of all others. Of
-- what is closed nothing opens again, and a month long past gets no new jobs; so the few others are all that can have
-- changed when the month is retired.
CREATE FUNCTION tally_job_partition(month date) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    tally jsonb;
BEGIN
    EXECUTE format(
        'SELECT jsonb_build_object(
            ''closed'', coalesce(jsonb_agg(to_jsonb(part) - ''ids'') FILTER (WHERE closed), ''[]''),
            ''open'', coalesce(jsonb_agg(ids) FILTER (WHERE NOT closed), ''[]''))
         FROM (SELECT queue, type, state, closed_at IS NOT NULL AS closed, count(*) AS jobs,
                      array_agg(id) FILTER (WHERE closed_at IS NULL) AS ids
               FROM %I GROUP BY queue, type, state, closed_at IS NOT NULL) AS part',
        'jobs_' || to_char(month, 'YYYY_MM')) INTO tally;
    RETURN tally;
END $$;

-- Retires the partition of a month: what is still open or dead moves to the default partition, the rest is dropped
-- and counted as pruned, so that conservation still adds up. `tally` is what tally_job_partition() said of it in an
-- earlier transaction; without one the month is read through here, while everybody waits. Returns how many jobs went.
CREATE FUNCTION retire_job_partition(month date, tally jsonb DEFAULT NULL) RETURNS bigint LANGUAGE plpgsql AS $$
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
            SELECT queue, type, state, 1 FROM %I WHERE closed_at IS NOT NULL AND id IN (
                SELECT one.job_id::uuid FROM jsonb_array_elements($1 -> ''open'') AS part(ids),
                    jsonb_array_elements_text(part.ids) AS one(job_id))
        ), counted AS (
            INSERT INTO job_count_deltas (queue, type, state, delta)
            SELECT queue, type, unnest(ARRAY[''pruned'', state]), unnest(ARRAY[sum(jobs), -sum(jobs)])
            FROM closed GROUP BY queue, type, state
        )
        SELECT coalesce(sum(jobs), 0) FROM closed', jobs_month) INTO pruned USING tally;
    -- Straight into the partition: trigger jobs_enqueued stands on the parent, and these were counted long ago.
    EXECUTE format('INSERT INTO jobs_default SELECT * FROM %I WHERE closed_at IS NULL', jobs_month);
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

BACK = """
DROP FUNCTION retire_job_partition(date, jsonb), tally_job_partition(date), ensure_job_partitions(integer),
    ensure_partition(text, text, uuid, uuid);
CREATE TABLE job_attempts_old (LIKE job_attempts INCLUDING DEFAULTS INCLUDING CONSTRAINTS);
INSERT INTO job_attempts_old SELECT * FROM job_attempts;
DROP TABLE job_attempts;
ALTER TABLE job_attempts_old RENAME TO job_attempts;
ALTER TABLE job_attempts ADD PRIMARY KEY (job_id, run);
"""


def upgrade() -> None:
    for statements in (ATTEMPTS, ENSURE, RETIRE):
        op.execute(statements)


def downgrade() -> None:
    op.execute(BACK)
    op.execute(op.get_context().environment_context.script.get_revision("0003").module.PARTITIONS)
