"""What other programs may call: uuid7(), enqueue_jobs(), enqueue_job(); and the care of the partitions."""

from alembic import op

revision = "0003"
down_revision = "0002"

UUID7 = """
-- UUIDv7 of an instant, RFC 9562 method 3: 48 bits of milliseconds, then 12 bits of the fraction of the millisecond,
-- so that ids made one microsecond apart sort in their order. PostgreSQL 18's uuidv7() takes no instant.
CREATE FUNCTION uuid7(at timestamptz) RETURNS uuid LANGUAGE sql VOLATILE PARALLEL SAFE AS $$
    SELECT encode(
        overlay(
            uuid_send(gen_random_uuid())
            PLACING substring(int8send(us / 1000) FROM 3)
                 || substring(int8send(x'7000'::bigint + (us % 1000) * 4096 / 1000) FROM 7)
            FROM 1 FOR 8),
        'hex')::uuid
    FROM (SELECT (extract(epoch FROM at) * 1000000)::bigint AS us) AS instant
$$;

-- The least id of an instant, for bounds: of partitions, and of what is accepted from outside.
CREATE FUNCTION uuid7_floor(at timestamptz) RETURNS uuid LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT (lpad(to_hex(floor(extract(epoch FROM at) * 1000)::bigint), 12, '0') || repeat('0', 20))::uuid
$$;
"""

ENQUEUE = """
-- Orders jobs, one or thousands, as part of the caller's transaction: nothing is sent unless it commits.
-- orders: a JSON array of {type, payload, tenant_id?, group_key?, priority?, run_at?, delay_seconds?, deadline_at?,
--   dedup_key?, dedup_window_seconds?, correlation_id?}, as described by functions/core/job.py JobRequest. The worker
--   adds id? and sent? for a message that came before its row.
-- Returns a row per order, in its order: the job's id, and whether this call created it (false: its dedup key is
-- taken, and the id is that of the job holding it).
CREATE FUNCTION enqueue_jobs(orders jsonb)
RETURNS TABLE (ordinal bigint, id uuid, created boolean) LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    unknown text;
    moment timestamptz := clock_timestamp();
BEGIN
    SELECT string_agg(DISTINCT coalesce(o ->> 'type', 'null'), ', ') INTO unknown
    FROM jsonb_array_elements(orders) AS o
    WHERE NOT EXISTS (SELECT FROM job_types WHERE name = o ->> 'type');
    IF unknown IS NOT NULL THEN
        RAISE EXCEPTION 'unknown job type: %', unknown USING ERRCODE = 'invalid_parameter_value',
            HINT = 'known types: ' || (SELECT string_agg(name, ', ' ORDER BY name) FROM job_types);
    END IF;

    RETURN QUERY
    WITH wanted AS MATERIALIZED (
        SELECT e.ordinality AS ordinal,
               coalesce((e.value ->> 'id')::uuid, uuid7(moment + e.ordinality * interval '1 microsecond')) AS id,
               o.*, job_types.queue, concat_ws('/', o.tenant_id, o.type, o.dedup_key) AS key,
               greatest(coalesce(o.run_at, moment + coalesce(o.delay_seconds, 0) * interval '1 second'), moment) AS due
        FROM jsonb_array_elements(orders) WITH ORDINALITY AS e
        CROSS JOIN LATERAL jsonb_to_record(e.value) AS o(
            type text, payload jsonb, tenant_id uuid, group_key text, priority smallint, run_at timestamptz,
            delay_seconds float8, deadline_at timestamptz, dedup_key text, dedup_window_seconds float8,
            correlation_id text, sent boolean)
        JOIN job_types ON job_types.name = o.type
    ), keyed AS (
        -- DO UPDATE rather than DO NOTHING, so that the holder of a taken key comes back too.
        INSERT INTO job_keys AS held (key, job_id, expires_at)
        SELECT DISTINCT ON (key) key, id,
               coalesce(moment + dedup_window_seconds * interval '1 second', 'infinity')
        FROM wanted WHERE dedup_key IS NOT NULL
        ORDER BY key, ordinal
        ON CONFLICT (key) DO UPDATE SET
            job_id = CASE WHEN held.expires_at <= moment THEN excluded.job_id ELSE held.job_id END,
            expires_at = CASE WHEN held.expires_at <= moment THEN excluded.expires_at ELSE held.expires_at END
        RETURNING key, job_id
    ), resolved AS (
        SELECT w.*, coalesce(k.job_id, w.id) AS job_id
        FROM wanted w LEFT JOIN keyed k ON w.dedup_key IS NOT NULL AND k.key = w.key
    ), added AS (
        INSERT INTO jobs AS j (id, queue, type, state, tenant_id, payload, group_key, priority, correlation_id,
                               dedup_key, run_at, outbox_at, sent_at, deadline_at)
        SELECT id, queue, type, CASE WHEN due > moment THEN 'delayed' ELSE 'waiting' END, tenant_id,
               coalesce(payload, '{}'), coalesce(group_key, tenant_id::text), coalesce(priority, 0),
               coalesce(correlation_id, id::text), CASE WHEN dedup_key IS NOT NULL THEN key END, due,
               CASE WHEN sent THEN NULL ELSE due END, CASE WHEN sent THEN moment END, deadline_at
        FROM resolved WHERE job_id = id
        ORDER BY ordinal
        ON CONFLICT (id) DO NOTHING
        RETURNING j.id
    )
    SELECT r.ordinal, r.job_id, added.id IS NOT NULL
    FROM resolved r LEFT JOIN added ON added.id = r.id
    ORDER BY r.ordinal;
END $$;

-- The same for one job, for programs that would rather not build JSON arrays.
CREATE FUNCTION enqueue_job(
    type text, payload jsonb, tenant_id uuid DEFAULT NULL, group_key text DEFAULT NULL, priority int DEFAULT 0,
    run_at timestamptz DEFAULT NULL, dedup_key text DEFAULT NULL, dedup_window interval DEFAULT NULL,
    correlation_id text DEFAULT NULL
) RETURNS uuid LANGUAGE sql AS $$
    SELECT id FROM enqueue_jobs(jsonb_build_array(jsonb_build_object(
        'type', type, 'payload', payload, 'tenant_id', tenant_id, 'group_key', group_key, 'priority', priority,
        'run_at', run_at, 'dedup_key', dedup_key, 'dedup_window_seconds', extract(epoch FROM dedup_window),
        'correlation_id', correlation_id)))
$$;
"""

PARTITIONS = """
-- Creates the monthly partitions from this month to that many months ahead; returns how many were missing.
CREATE FUNCTION ensure_job_partitions(months_ahead integer) RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
    first_day timestamptz;
    partition text;
    least uuid;
    beyond uuid;
    made integer := 0;
BEGIN
    FOR n IN 0..months_ahead LOOP
        first_day := date_trunc('month', now() AT TIME ZONE 'UTC') AT TIME ZONE 'UTC';
        first_day := ((first_day AT TIME ZONE 'UTC') + n * interval '1 month') AT TIME ZONE 'UTC';
        partition := 'jobs_' || to_char(first_day AT TIME ZONE 'UTC', 'YYYY_MM');
        CONTINUE WHEN to_regclass(partition) IS NOT NULL;
        least := uuid7_floor(first_day);
        beyond := uuid7_floor(((first_day AT TIME ZONE 'UTC') + interval '1 month') AT TIME ZONE 'UTC');
        EXECUTE format('CREATE TABLE %I (LIKE jobs INCLUDING DEFAULTS INCLUDING CONSTRAINTS) WITH (fillfactor = 70)',
                       partition);
        -- What came while nobody made this month's partition lies in the default one, and would forbid to attach it.
        EXECUTE format('WITH moved AS (DELETE FROM jobs_default WHERE id >= %L AND id < %L RETURNING *)
                        INSERT INTO %I SELECT * FROM moved', least, beyond, partition);
        EXECUTE format('ALTER TABLE jobs ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)', partition, least, beyond);
        made := made + 1;
    END LOOP;
    RETURN made;
END $$;

-- Retires the partition of a month: what is still open or dead moves to the default partition, the rest is dropped
-- and counted as pruned, so that conservation still adds up. Returns how many jobs were dropped.
CREATE FUNCTION retire_job_partition(month date) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    partition text := 'jobs_' || to_char(month, 'YYYY_MM');
    pruned bigint;
BEGIN
    IF to_regclass(partition) IS NULL THEN
        RETURN 0;
    END IF;
    EXECUTE format('ALTER TABLE jobs DETACH PARTITION %I', partition);
    EXECUTE format('INSERT INTO job_count_deltas (queue, type, state, delta)
                    SELECT queue, type, unnest(ARRAY[''pruned'', state]), unnest(ARRAY[count(*), -count(*)])
                    FROM %I WHERE closed_at IS NOT NULL GROUP BY queue, type, state', partition);
    EXECUTE format('SELECT count(*) FROM %I WHERE closed_at IS NOT NULL', partition) INTO pruned;
    -- Straight into the partition: trigger jobs_enqueued stands on the parent, and these were counted long ago.
    EXECUTE format('INSERT INTO jobs_default SELECT * FROM %I WHERE closed_at IS NULL', partition);
    EXECUTE format('DELETE FROM job_attempts USING %I AS gone
                    WHERE gone.id = job_attempts.job_id AND gone.closed_at IS NOT NULL', partition);
    EXECUTE format('DROP TABLE %I', partition);
    RETURN pruned;
END $$;
"""


def upgrade() -> None:
    op.execute(UUID7)
    op.execute(ENQUEUE)
    op.execute(PARTITIONS)


def downgrade() -> None:
    op.execute(
        "DROP FUNCTION retire_job_partition(date), ensure_job_partitions(integer),"
        " enqueue_job(text, jsonb, uuid, text, int, timestamptz, text, interval, text), enqueue_jobs(jsonb),"
        " uuid7_floor(timestamptz), uuid7(timestamptz);"
    )
