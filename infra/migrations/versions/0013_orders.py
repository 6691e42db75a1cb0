"""Orders: groups follow from the payload, values have limits at the door, and a key that is held makes nobody wait."""

from alembic import op

revision = "0013"
down_revision = "0012"

# The limits are those of functions/core/limits.py; tests/sql/test_orders_alike.py feeds both with the same orders.
ORDER = """
-- The fields of an order, as enqueue_jobs() reads them; instants are texts, to see whether they have an offset.
CREATE TYPE job_order AS (
    type text, payload jsonb, tenant_id uuid, priority smallint, run_at text, delay_seconds float8, deadline_at text,
    dedup_key text, dedup_window_seconds float8, correlation_id text, id uuid, sent boolean
);

-- Why an instant is refused that is not between 14 days ago and ten years ahead; null: it is not.
CREATE FUNCTION instant_refusal(name text, instant text, moment timestamptz) RETURNS text LANGUAGE sql STABLE AS $$
    SELECT CASE
        WHEN NOT instant::timestamptz BETWEEN moment - interval '336 hours' AND moment + interval '87672 hours'
            THEN name || ' lies between 14 days ago and ten years ahead'
        WHEN instant !~ ':[0-9]{2}([.][0-9]+)? ?([Zz]|[+-][0-9]{2}(:?[0-9]{2}){0,2})$'
            THEN name || ' needs an offset from UTC, such as 2026-11-24T08:00:00Z'
    END
$$;

-- Why an order of a known type is refused, in one sentence; null: it is not.
CREATE FUNCTION order_refusal(o job_order, moment timestamptz) RETURNS text LANGUAGE sql STABLE AS $$
    SELECT CASE
        WHEN jsonb_typeof(o.payload) IS DISTINCT FROM 'object' THEN 'payload must be a JSON object'
        WHEN octet_length(o.payload::text) > 262144
            THEN 'payload is at most 262144 bytes as text, not ' || octet_length(o.payload::text)
        WHEN o.priority NOT BETWEEN -1 AND 1 THEN 'priority is 1, 0 or -1, not ' || o.priority
        WHEN o.run_at IS NOT NULL AND o.delay_seconds IS NOT NULL THEN 'give run_at or delay_seconds, not both'
        WHEN o.delay_seconds NOT BETWEEN 0 AND 315619200
            THEN 'delay_seconds is a number from 0 to 315619200 (ten years)'
        WHEN o.run_at IS NOT NULL AND instant_refusal('run_at', o.run_at, moment) IS NOT NULL
            THEN instant_refusal('run_at', o.run_at, moment)
        WHEN o.deadline_at IS NOT NULL AND instant_refusal('deadline_at', o.deadline_at, moment) IS NOT NULL
            THEN instant_refusal('deadline_at', o.deadline_at, moment)
        WHEN char_length(o.dedup_key) NOT BETWEEN 1 AND 500
            THEN 'dedup_key has 1 to 500 characters, not ' || char_length(o.dedup_key)
        WHEN o.dedup_window_seconds IS NOT NULL AND o.dedup_key IS NULL THEN 'dedup_window_seconds needs a dedup_key'
        WHEN NOT (o.dedup_window_seconds > 0 AND o.dedup_window_seconds <= 315619200)
            THEN 'dedup_window_seconds is a number above 0, up to 315619200 (ten years)'
        WHEN char_length(o.correlation_id) NOT BETWEEN 1 AND 256
            OR o.correlation_id ~ '[\\u0001-\\u001f\\u007f-\\u009f]'
            THEN 'correlation_id has 1 to 256 characters, and no control characters'
    END
$$;

-- Refuses, in one sentence, orders of which a value cannot be read, and fields that no order has.
CREATE FUNCTION refuse_unreadable(orders jsonb) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    one record;
    field text;
    why text;
BEGIN
    IF jsonb_typeof(orders) IS DISTINCT FROM 'array' THEN
        RAISE EXCEPTION 'orders must be a JSON array of objects' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    FOR one IN SELECT value, ordinality AS number FROM jsonb_array_elements(orders) WITH ORDINALITY LOOP
        IF jsonb_typeof(one.value) <> 'object' THEN
            why := 'it must be a JSON object';
        ELSE
            FOR field IN SELECT jsonb_object_keys(one.value) LOOP
                IF field = 'group_key' THEN
                    why := 'group_key cannot be given: the group follows from the job''s type and payload';
                ELSIF field <> ALL (ARRAY(SELECT attname FROM pg_attribute
                                          WHERE attrelid = 'job_order'::regclass)) THEN
                    why := format('an order has no field %s', left(field, 100));
                ELSE
                    BEGIN
                        PERFORM jsonb_populate_record(NULL::job_order, jsonb_build_object(field, one.value -> field));
                        IF field IN ('run_at', 'deadline_at') THEN
                            PERFORM (one.value ->> field)::timestamptz;
                        END IF;
                    EXCEPTION WHEN data_exception THEN
                        why := field || ' cannot be read as ' || CASE field
                            WHEN 'tenant_id' THEN 'a uuid' WHEN 'id' THEN 'a uuid' WHEN 'sent' THEN 'true or false'
                            WHEN 'run_at' THEN 'an instant' WHEN 'deadline_at' THEN 'an instant' ELSE 'a number' END;
                    END;
                END IF;
                EXIT WHEN why IS NOT NULL;
            END LOOP;
        END IF;
        IF why IS NOT NULL THEN
            RAISE EXCEPTION 'order %: %', one.number, why USING ERRCODE = 'invalid_parameter_value';
        END IF;
    END LOOP;
END $$;

-- The group of a job of a FIFO queue: its tenant and the payload's fields that its type names, in one spelling. A job
-- whose payload lacks one of them is a group of its own. SQS takes 1 to 128 visible ASCII characters.
CREATE FUNCTION job_group(id uuid, tenant_id uuid, payload jsonb, fields text[]) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE
        WHEN count(nullif(value, '')) < cardinality(fields) THEN id::text
        WHEN concat_ws('/', tenant_id, string_agg(spelled, '/' ORDER BY position)) ~ '^[!-~]{1,128}$'
            THEN concat_ws('/', tenant_id, string_agg(spelled, '/' ORDER BY position))
        ELSE md5(concat_ws('/', tenant_id, string_agg(spelled, '/' ORDER BY position)))
    END
    FROM (SELECT position, value,
                 CASE WHEN bare ~ '^[0-9a-f]{32}$' THEN bare::uuid::text ELSE lower(value) END AS spelled
          FROM unnest(fields) WITH ORDINALITY AS field(name, position)
          CROSS JOIN LATERAL (SELECT payload ->> name AS value) AS given
          CROSS JOIN LATERAL (SELECT translate(replace(lower(value), 'urn:uuid:', ''), '{}-', '') AS bare) AS uuid
         ) AS part
$$;
"""

KEYS = """
CREATE TABLE contested_keys (
    job_id      uuid PRIMARY KEY,
    key         text NOT NULL,
    expires_at  timestamptz NOT NULL,
    since       timestamptz NOT NULL
);
COMMENT ON TABLE contested_keys IS
    'blocked jobs whose key another transaction had ordered and not yet committed; decided by decide_contested_keys()';

-- Of these keys, those that are held, and by whom. A plain read: it waits for nobody, and nobody waits for it. A key
-- without a window is held as long as its job is open, so that a row that was deleted holds none. With `queued`, a job
-- that waits for a contested key counts as its holder where there is no other.
-- Planned once and always by index, whatever the statistics say: for a thousand keys the planner would read the table.
-- Jobs are looked up one by one from their keys: of a join it may begin with the jobs, and read all of them, when it
-- planned while there were none (a half of the rate of orders, after 100,000).
CREATE FUNCTION held_keys(keys text[], moment timestamptz, queued boolean) RETURNS TABLE (key text, job_id uuid)
LANGUAGE plpgsql STABLE
SET enable_nestloop = on SET enable_hashjoin = off SET enable_mergejoin = off SET enable_seqscan = off
SET jit = off SET plan_cache_mode = force_generic_plan AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    SELECT DISTINCT ON (held.key COLLATE "C") held.key, held.job_id FROM (
        SELECT k.key, k.job_id, timestamptz '-infinity' AS since
        FROM job_keys AS k LEFT JOIN jobs AS j ON j.id = k.job_id AND k.expires_at = 'infinity'
        WHERE k.key = ANY(keys) AND k.expires_at > moment
          AND (k.expires_at <> 'infinity' OR j.id IS NOT NULL AND j.closed_at IS NULL AND j.state <> 'dead')
        UNION ALL
        SELECT c.key, c.job_id, c.since FROM contested_keys AS c
        WHERE queued AND c.key = ANY(keys)
          AND (SELECT j.state IN ('blocked', 'paused') FROM jobs AS j WHERE j.id = c.job_id)
    ) AS held
    ORDER BY held.key COLLATE "C", held.since, held.job_id;
END $$;

-- Takes those of these keys (sorted, each once) that are free; returns how many. Waits for a transaction that is just
-- ordering or freeing one of them.
CREATE FUNCTION insert_keys(keys text[], ids uuid[], ends timestamptz[], moment timestamptz) RETURNS integer
LANGUAGE plpgsql
SET enable_nestloop = on SET enable_hashjoin = off SET enable_mergejoin = off SET enable_seqscan = off
SET jit = off SET plan_cache_mode = force_generic_plan AS $$
DECLARE
    taken integer;
    more integer;
    stale_keys text[];
    stale_ids uuid[];
BEGIN
    INSERT INTO job_keys (key, job_id, expires_at) SELECT * FROM unnest(keys, ids, ends)
    ON CONFLICT (key) DO NOTHING;
    GET DIAGNOSTICS taken = ROW_COUNT;
    IF taken < cardinality(keys) THEN
        -- Keys whose window is over or whose job is gone may go. They are judged before they are locked: PostgreSQL
        -- 18.4 crashes when it judges a locked row anew by a query on partitions.
        SELECT array_agg(k.key), array_agg(k.job_id) INTO stale_keys, stale_ids
        FROM unnest(keys, ids) AS wanted(key, id) CROSS JOIN LATERAL (
            SELECT key, job_id FROM job_keys WHERE key = wanted.key LIMIT 1) AS k
        WHERE k.job_id <> wanted.id AND NOT EXISTS (SELECT FROM held_keys(ARRAY[k.key], moment, false));
        IF stale_keys IS NOT NULL THEN
            PERFORM FROM job_keys WHERE key = ANY(stale_keys) ORDER BY key COLLATE "C" FOR UPDATE;
            DELETE FROM job_keys WHERE key = ANY(stale_keys) AND job_id = ANY(stale_ids);  -- a job has one key
            INSERT INTO job_keys (key, job_id, expires_at)
            SELECT wanted.* FROM unnest(keys, ids, ends) AS wanted(key, id, ends) WHERE wanted.key = ANY(stale_keys)
            ON CONFLICT (key) DO NOTHING;
            GET DIAGNOSTICS more = ROW_COUNT;
            taken := taken + more;
        END IF;
    END IF;
    RETURN taken;
END $$;

-- The same, waiting no longer than `patience` for each; null when that was over: then none is taken. Shorter than
-- PostgreSQL's deadlock_timeout (1 s), so that a wait in a circle ends here and costs nobody a transaction.
CREATE FUNCTION try_keys(keys text[], ids uuid[], ends timestamptz[], moment timestamptz, patience text) RETURNS integer
LANGUAGE plpgsql SET lock_timeout = '250ms' AS $$
BEGIN
    PERFORM set_config('lock_timeout', patience, true);
    RETURN insert_keys(keys, ids, ends, moment);
EXCEPTION WHEN lock_not_available OR deadlock_detected THEN
    RETURN NULL;
END $$;

-- The same for keys in any order, null where a job has none; all or none: true, or false where one is given twice or
-- has a row. A plain INSERT, since one that looks for conflicts costs a third more.
CREATE FUNCTION try_new_keys(keys text[], ids uuid[], ends timestamptz[], patience text) RETURNS boolean
LANGUAGE plpgsql SET lock_timeout = '250ms' AS $$
BEGIN
    PERFORM set_config('lock_timeout', patience, true);
    INSERT INTO job_keys (key, job_id, expires_at)
    SELECT * FROM unnest(keys, ids, ends) AS wanted(key, id, until) WHERE key IS NOT NULL ORDER BY key COLLATE "C";
    RETURN true;
EXCEPTION
    WHEN unique_violation THEN
        RETURN false;
    WHEN lock_not_available OR deadlock_detected THEN
        RETURN NULL;
END $$;

-- Takes keys for jobs (arrays side by side; null where a job has none). Holders: whose each key is now, the job's own
-- where it has none. Contested: where another transaction is ordering the key and did not end within `patience`, so
-- that nobody can say whose it is. A null patience waits, and contests nothing. With `queued`, a blocked job that waits
-- for the key counts as its holder.
-- Sorted, so that two who want the same keys at once wait for each other's first and not in a circle.
CREATE FUNCTION claim_keys(keys text[], ids uuid[], ends timestamptz[], moment timestamptz, patience text,
                           queued boolean, OUT holders uuid[], OUT contested boolean[])
LANGUAGE plpgsql AS $$
DECLARE
    held_names text[];
    held_ids uuid[];
    free_keys text[];
    free_ids uuid[];
    free_ends timestamptz[];
    open_keys text[] := '{}';
    all_new boolean;
    free integer;
    taken integer := 0;
    made integer;
    first integer := 1;
    step integer;
    give_up timestamptz := clock_timestamp() + interval '500 milliseconds';
BEGIN
    SELECT array_agg(key), array_agg(job_id) INTO held_names, held_ids FROM held_keys(keys, moment, queued);
    holders := ids;
    IF held_names IS NULL AND patience IS NOT NULL THEN
        all_new := try_new_keys(keys, ids, ends, patience);
        IF all_new THEN
            RETURN;
        ELSIF all_new IS NULL THEN
            patience := '5ms';  -- whoever kept us waiting once is known to take his time
        END IF;
    END IF;
    SELECT array_agg(key), array_agg(id), array_agg(until) INTO free_keys, free_ids, free_ends
    FROM (SELECT DISTINCT ON (key COLLATE "C") key, id, until
          FROM unnest(keys, ids, ends) WITH ORDINALITY AS wanted(key, id, until, position)
          WHERE key IS NOT NULL AND (held_names IS NULL OR key NOT IN (SELECT unnest(held_names)))
          ORDER BY key COLLATE "C", position) AS free;
    free := coalesce(cardinality(free_keys), 0);
    IF patience IS NULL AND free > 0 THEN
        taken := insert_keys(free_keys, free_ids, free_ends, moment);
        first := free + 1;
    END IF;
    step := free;
    WHILE first <= free LOOP
        IF clock_timestamp() > give_up THEN
            open_keys := open_keys || free_keys[first:];
            EXIT;
        END IF;
        made := try_keys(free_keys[first:first + step - 1], free_ids[first:first + step - 1],
                         free_ends[first:first + step - 1], moment, patience);
        IF made IS NOT NULL THEN
            taken := taken + made;
            first := first + step;
            step := step * 2;
        ELSIF step = 1 THEN
            open_keys := open_keys || free_keys[first];
            first := first + 1;
        ELSE
            step := step / 2;
        END IF;
        patience := '5ms';
    END LOOP;

    IF free = cardinality(array_remove(keys, NULL)) AND taken = free THEN
        RETURN;
    END IF;
    IF taken + cardinality(open_keys) < free THEN  -- others were first
        SELECT held_names || array_agg(k.key), held_ids || array_agg(k.job_id) INTO held_names, held_ids
        FROM held_keys(free_keys, moment, false) AS k
        WHERE k.key <> ALL(open_keys) AND k.job_id <> ALL(free_ids);
    END IF;
    SELECT array_agg(coalesce(held.id, free.id, wanted.id) ORDER BY position),
           array_agg(free.key IS NOT NULL AND free.key = ANY(open_keys) ORDER BY position)
    INTO holders, contested
    FROM unnest(keys, ids) WITH ORDINALITY AS wanted(key, id, position)
    LEFT JOIN unnest(held_names, held_ids) AS held(key, id) ON held.key = wanted.key
    LEFT JOIN unnest(free_keys, free_ids) AS free(key, id) ON free.key = wanted.key AND held.key IS NULL;
END $$;
"""

ENQUEUE = """
DROP FUNCTION enqueue_job(text, jsonb, uuid, text, int, timestamptz, text, interval, text);

-- Orders jobs, one or thousands, as part of the caller's transaction: nothing is sent unless it commits.
-- orders: a JSON array of {type, payload, tenant_id?, priority?, run_at?, delay_seconds?, deadline_at?, dedup_key?,
--   dedup_window_seconds?, correlation_id?}, as described by functions/core/job.py JobRequest. The worker adds id? and
--   sent? for a message that came before its row.
-- Returns a row per order, in its order: the job's id, and whether this call created it (false: its dedup key is
-- taken, and the id is that of the job holding it).
CREATE OR REPLACE FUNCTION enqueue_jobs(orders jsonb)
RETURNS TABLE (ordinal bigint, id uuid, created boolean) LANGUAGE plpgsql
SET enable_nestloop = off SET jit = off SET plan_cache_mode = force_generic_plan AS $$
#variable_conflict use_column
DECLARE
    moment timestamptz := clock_timestamp();
    start bigint := extract(epoch FROM moment) * 1000000;
    tail text := '8' || right(replace(gen_random_uuid()::text, '-', ''), 15);
    wanted job_order[];
    refused bigint;
    unknown text;
    came_sent boolean;
    came_with_ids boolean;
    ids uuid[];
    given boolean[];
    keys text[];
    ends timestamptz[];
    holders uuid[];
    contested boolean[];
BEGIN
    -- Reads only, so that a block which may fail costs nothing: it needs no transaction number of its own.
    BEGIN
        IF EXISTS (SELECT FROM jsonb_array_elements(orders)
                   WHERE value - '{type, payload, tenant_id, priority, run_at, delay_seconds, deadline_at, dedup_key,
                                   dedup_window_seconds, correlation_id, id, sent}'::text[] <> '{}') THEN
            PERFORM refuse_unreadable(orders);
        END IF;
        wanted := ARRAY(SELECT o FROM jsonb_populate_recordset(NULL::job_order, orders) AS o);
        SELECT min(o.ordinality) FILTER (WHERE order_refusal(ROW(
                   o.type, o.payload, o.tenant_id, o.priority, o.run_at, o.delay_seconds, o.deadline_at, o.dedup_key,
                   o.dedup_window_seconds, o.correlation_id, o.id, o.sent)::job_order, moment) IS NOT NULL),
               string_agg(DISTINCT coalesce(o.type, 'null'), ', ')
                   FILTER (WHERE (o.type IN (SELECT name FROM job_types)) IS NOT TRUE),
               array_agg(coalesce(o.id, uuid7_of(start + o.ordinality, tail))), array_agg(o.id IS NOT NULL),
               count(o.id) > 0, bool_or(o.sent),
               CASE WHEN count(o.dedup_key) > 0 THEN array_agg(
                   CASE WHEN o.dedup_key IS NOT NULL THEN concat_ws('/', o.tenant_id, o.type, o.dedup_key) END) END
        INTO refused, unknown, ids, given, came_with_ids, came_sent, keys
        FROM unnest(wanted) WITH ORDINALITY AS o;
    EXCEPTION WHEN data_exception THEN
        PERFORM refuse_unreadable(orders);
        RAISE;
    END;
    IF unknown IS NOT NULL THEN
        RAISE EXCEPTION 'unknown job type: %', unknown USING ERRCODE = 'undefined_object',
            HINT = 'known types: ' || (SELECT string_agg(name, ', ' ORDER BY name) FROM job_types);
    ELSIF refused IS NOT NULL THEN
        RAISE EXCEPTION 'order %: %', refused, order_refusal(wanted[refused], moment)
            USING ERRCODE = 'invalid_parameter_value';
    END IF;

    holders := ids;
    IF keys IS NOT NULL THEN
        ends := ARRAY(SELECT coalesce(moment + dedup_window_seconds * interval '1 second', 'infinity')
                      FROM unnest(wanted));
        -- What was sent before it was ordered has to be exact: two workers with two copies of one message.
        SELECT claimed.holders, claimed.contested INTO holders, contested
        FROM claim_keys(keys, ids, ends, moment, CASE WHEN came_sent THEN NULL ELSE '250ms' END, true) AS claimed;
        IF contested IS NOT NULL THEN
            INSERT INTO contested_keys (job_id, key, expires_at, since)
            SELECT o.id, o.key, o.until, moment
            FROM unnest(ids, keys, ends, holders, contested) AS o(id, key, until, holder, contested)
            WHERE o.contested AND o.holder = o.id;
        END IF;
    END IF;

    RETURN QUERY
    WITH job AS NOT MATERIALIZED (
        SELECT o.id AS given, job_id, holder, queue, o.type, o.tenant_id, o.payload, group_by,
               CASE WHEN contested THEN 'blocked' WHEN due > moment THEN 'delayed' ELSE 'waiting' END AS state,
               CASE WHEN group_by IS NOT NULL THEN job_group(job_id, o.tenant_id, o.payload, group_by) END AS group_key,
               CASE WHEN group_by IS NULL THEN coalesce(o.priority, 0::smallint) ELSE 0 END AS priority,
               coalesce(correlation_id, job_id::text) AS correlation_id, key AS dedup_key, due AS run_at,
               CASE WHEN sent OR contested THEN NULL ELSE due END AS outbox_at,
               CASE WHEN sent THEN moment END AS sent_at,
               CASE WHEN group_by IS NOT NULL AND contested IS NOT TRUE THEN due END AS turn,
               deadline_at::timestamptz AS deadline_at
        FROM unnest(wanted, ids, holders, keys, contested)
             AS o(type, payload, tenant_id, priority, run_at, delay_seconds, deadline_at, dedup_key,
                  dedup_window_seconds, correlation_id, id, sent, job_id, holder, key, contested)
        JOIN job_types ON job_types.name = o.type
        CROSS JOIN LATERAL (
            SELECT greatest(coalesce(o.run_at::timestamptz, moment + o.delay_seconds * interval '1 second'), moment)
                   AS due) AS instant
        WHERE holder = job_id
    ), added AS (
        INSERT INTO jobs (id, queue, type, state, tenant_id, payload, group_key, priority, correlation_id, dedup_key,
                          run_at, outbox_at, sent_at, turn, deadline_at)
        SELECT job_id, queue, type, state, tenant_id, payload, group_key, priority, correlation_id, dedup_key,
               run_at, outbox_at, sent_at, turn, deadline_at
        FROM job WHERE given IS NULL ORDER BY job_id
    ), external AS (
        -- Apart, since looking for conflicts costs 2 µs a job, and only an id that came from outside can have one.
        INSERT INTO jobs AS j (id, queue, type, state, tenant_id, payload, group_key, priority, correlation_id,
                               dedup_key, run_at, outbox_at, sent_at, turn, deadline_at)
        SELECT job_id, queue, type, state, tenant_id, payload, group_key, priority, correlation_id, dedup_key,
               run_at, outbox_at, sent_at, turn, deadline_at
        FROM job WHERE came_with_ids AND given IS NOT NULL ORDER BY job_id
        ON CONFLICT (id) DO NOTHING
        RETURNING j.id
    )
    SELECT o.ordinality, o.holder, o.holder = o.id AND (NOT o.given OR external.id IS NOT NULL)
    FROM unnest(ids, holders, given) WITH ORDINALITY AS o(id, holder, given, ordinality)
    LEFT JOIN external ON external.id = o.id
    ORDER BY o.ordinality;
END $$;

-- The same for one job, for programs that would rather not build JSON arrays.
CREATE FUNCTION enqueue_job(
    type text, payload jsonb, tenant_id uuid DEFAULT NULL, priority int DEFAULT 0, run_at timestamptz DEFAULT NULL,
    dedup_key text DEFAULT NULL, dedup_window interval DEFAULT NULL, correlation_id text DEFAULT NULL,
    deadline_at timestamptz DEFAULT NULL
) RETURNS uuid LANGUAGE sql AS $$
    SELECT id FROM enqueue_jobs(jsonb_build_array(jsonb_build_object(
        'type', type, 'payload', payload, 'tenant_id', tenant_id, 'priority', priority, 'run_at', run_at,
        'dedup_key', dedup_key, 'dedup_window_seconds', extract(epoch FROM dedup_window),
        'correlation_id', correlation_id, 'deadline_at', deadline_at)))
$$;
"""

DECIDE = """
-- Decides the contested keys of which the other transaction has ended: the job takes its key and goes on, or is
-- cancelled, since another was first. Returns how many it decided. One caller at a time; others leave it to that one.
-- forgets: the payload's fields that end with a job, by its type.
CREATE FUNCTION decide_contested_keys(forgets jsonb) RETURNS integer LANGUAGE plpgsql
SET enable_nestloop = on SET enable_hashjoin = off SET enable_mergejoin = off SET enable_seqscan = off
SET jit = off SET plan_cache_mode = force_generic_plan AS $$
DECLARE
    moment timestamptz := clock_timestamp();
    looked_at uuid[];
    gone uuid[];
    blocked uuid[];
    ids uuid[];
    keys text[];
    ends timestamptz[];
    holders uuid[];
    unsure boolean[];
BEGIN
    PERFORM FROM contested_keys WHERE job_id = (SELECT job_id FROM contested_keys ORDER BY job_id LIMIT 1)
    FOR UPDATE SKIP LOCKED;
    IF NOT FOUND THEN
        RETURN 0;
    END IF;
    -- Some keys at a time, by lot: those that stay contested must not keep the others from their turn.
    looked_at := ARRAY(SELECT c.job_id FROM contested_keys AS c
                       JOIN (SELECT key FROM contested_keys GROUP BY key ORDER BY random() LIMIT 500) AS drawn
                       ON drawn.key = c.key);
    -- A job that is paused, or that somebody is steering just now, is left until it is blocked again.
    blocked := ARRAY(SELECT id FROM jobs WHERE id = ANY(looked_at) AND state = 'blocked' ORDER BY id
                     FOR UPDATE SKIP LOCKED);
    -- One by one, or a plan that was made while there were few jobs reads all of them.
    gone := ARRAY(SELECT wanted.id FROM unnest(looked_at) AS wanted(id)
                  WHERE (SELECT j.state IN ('blocked', 'paused') FROM jobs AS j WHERE j.id = wanted.id) IS NOT TRUE);
    SELECT array_agg(job_id ORDER BY since, job_id), array_agg(key ORDER BY since, job_id),
           array_agg(expires_at ORDER BY since, job_id)
    INTO ids, keys, ends FROM contested_keys WHERE job_id = ANY(blocked);
    IF ids IS NOT NULL THEN
        SELECT claimed.holders, claimed.contested INTO holders, unsure
        FROM claim_keys(keys, ids, ends, moment, '10ms', false) AS claimed;
        WITH decided AS (
            SELECT o.id, o.holder = o.id AS won, o.holder
            FROM unnest(ids, holders, unsure) AS o(id, holder, contested) WHERE o.contested IS NOT TRUE
        ), changed AS (
            UPDATE jobs AS j SET
                state = CASE WHEN NOT won THEN 'cancelled' WHEN j.run_at > moment THEN 'delayed' ELSE 'waiting' END,
                outbox_at = CASE WHEN won THEN greatest(j.run_at, moment) END,
                turn = CASE WHEN won AND queues.fifo THEN greatest(j.run_at, moment) END,
                closed_at = CASE WHEN NOT won THEN moment END,
                error = CASE WHEN NOT won THEN 'job ' || holder || ' of the same key was ordered first' END,
                error_class = CASE WHEN NOT won THEN 'Duplicate' END,
                payload = CASE WHEN won THEN j.payload ELSE j.payload - ARRAY(
                    SELECT jsonb_array_elements_text(coalesce(forgets -> j.type, '[]'))) END
            FROM decided, queues
            WHERE j.id = ANY(ids) AND j.id = decided.id AND queues.name = j.queue
            RETURNING j.id
        )
        SELECT gone || array_agg(id) INTO gone FROM changed;
    END IF;
    DELETE FROM contested_keys WHERE job_id = ANY(gone);
    RETURN cardinality(gone);
END $$;
"""

# Rows of a release without limits, as far as they would fail where they are touched, or at what they are read by: those
# that are open, and those of the partition from which a month that is missing is filled.
REPAIR = """
UPDATE jobs SET
    run_at = CASE WHEN run_at < now() THEN now() ELSE now() + interval '87672 hours' END,
    outbox_at = CASE WHEN outbox_at < now() THEN now() WHEN outbox_at >= now() THEN now() + interval '87672 hours' END,
    turn = CASE WHEN turn < now() THEN now() WHEN turn >= now() THEN now() + interval '87672 hours' END
WHERE (closed_at IS NULL OR tableoid = 'jobs_default'::regclass)
  AND (run_at < '0001-01-01T00:00:00Z' OR run_at >= '10000-01-01T00:00:00Z');

UPDATE jobs SET deadline_at = CASE WHEN deadline_at < now() THEN now() - interval '336 hours' END
WHERE (closed_at IS NULL OR tableoid = 'jobs_default'::regclass)
  AND (deadline_at < '0001-01-01T00:00:00Z' OR deadline_at >= '10000-01-01T00:00:00Z');

UPDATE jobs SET correlation_id = left(correlation_id, 256)
WHERE (closed_at IS NULL OR tableoid = 'jobs_default'::regclass) AND octet_length(correlation_id) > 1024;

-- Kept under a name that no contract knows: the job dies with a reason that can be read, and nothing is lost.
UPDATE jobs SET payload = jsonb_build_object('payload', payload)
WHERE closed_at IS NULL AND jsonb_typeof(payload) <> 'object';

UPDATE jobs SET result = NULL WHERE closed_at IS NULL AND pg_column_size(result) > 262144;
"""

# A last guard behind the doors, for what would stop a whole batch: all that costs next to nothing at each later update.
# Not validated: reading every finished job would hold up everybody. A stored result may be compressed, and jsonb takes
# up to four times its text.
CONSTRAINTS = """
ALTER TABLE jobs ADD CONSTRAINT jobs_correlation_id_size CHECK (octet_length(correlation_id) <= 1024) NOT VALID;
ALTER TABLE jobs ADD CONSTRAINT jobs_result_size CHECK (pg_column_size(result) <= 262144) NOT VALID;
ALTER TABLE jobs ADD CONSTRAINT jobs_instants CHECK (
    run_at >= '0001-01-01T00:00:00Z' AND run_at < '10000-01-01T00:00:00Z'
    AND deadline_at >= '0001-01-01T00:00:00Z' AND deadline_at < '10000-01-01T00:00:00Z') NOT VALID;
"""

# Blocked jobs whose key is not decided yet go on without it: a release before this one knows nothing of them.
DOWN = """
SELECT decide_contested_keys('{}');
UPDATE jobs SET outbox_at = greatest(run_at, now()),
    turn = CASE WHEN group_key IS NOT NULL THEN greatest(run_at, now()) END,
    state = CASE WHEN run_at > now() THEN 'delayed' ELSE 'waiting' END
WHERE state = 'blocked' AND id IN (SELECT job_id FROM contested_keys);
ALTER TABLE jobs DROP CONSTRAINT jobs_instants, DROP CONSTRAINT jobs_result_size,
    DROP CONSTRAINT jobs_correlation_id_size;
DROP FUNCTION decide_contested_keys(jsonb),
    enqueue_job(text, jsonb, uuid, int, timestamptz, text, interval, text, timestamptz),
    claim_keys(text[], uuid[], timestamptz[], timestamptz, text, boolean),
    try_new_keys(text[], uuid[], timestamptz[], text), try_keys(text[], uuid[], timestamptz[], timestamptz, text),
    insert_keys(text[], uuid[], timestamptz[], timestamptz),
    held_keys(text[], timestamptz, boolean), job_group(uuid, uuid, jsonb, text[]), refuse_unreadable(jsonb),
    order_refusal(job_order, timestamptz), instant_refusal(text, text, timestamptz);
DROP TABLE contested_keys;
"""


def upgrade() -> None:
    for part in (ORDER, KEYS, ENQUEUE, DECIDE, REPAIR, CONSTRAINTS):
        op.execute(part)


def downgrade() -> None:
    script = op.get_context().environment_context.script
    first = script.get_revision("0003").module.ENQUEUE
    op.execute(DOWN)
    op.execute(script.get_revision("0010").module.ENQUEUE)
    op.execute(first[first.index("-- The same for one job") :])
    op.execute("DROP TYPE job_order")
