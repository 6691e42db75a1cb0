"""What operating needs: paused queues, runs by outcome and duration, tokens, the record of what operators did."""

from alembic import op

revision = "0005"
down_revision = "0004"

PAUSED_QUEUES = """
ALTER TABLE queues ADD paused_at timestamptz, ADD paused_by text, ADD pause_reason text;
COMMENT ON COLUMN queues.paused_at IS 'since when claim takes nothing from it and the relay sends nothing to it';
"""

RUNS = """
CREATE TABLE job_run_deltas (
    id      bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    type    text NOT NULL,
    outcome text NOT NULL,
    measure text NOT NULL CHECK (measure IN ('duration', 'wait')),
    bucket  smallint NOT NULL,
    runs    bigint NOT NULL,
    seconds float8 NOT NULL
);
COMMENT ON TABLE job_run_deltas IS 'appended by every settle in its own transaction, folded into job_runs by the sweep';
COMMENT ON COLUMN job_run_deltas.bucket IS 'index of the upper bound in functions/core/buckets.py';

CREATE TABLE job_runs (
    type    text NOT NULL,
    outcome text NOT NULL,
    measure text NOT NULL CHECK (measure IN ('duration', 'wait')),
    bucket  smallint NOT NULL,
    runs    bigint NOT NULL,
    seconds float8 NOT NULL,
    PRIMARY KEY (type, outcome, measure, bucket)
);
COMMENT ON TABLE job_runs IS 'runs by outcome and duration, and by their wait (outcome ''''); only ever grows';
"""

OPERATORS = """
CREATE TABLE api_tokens (
    id              uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    name            text NOT NULL CHECK (name ~ '^[A-Za-z0-9._@-]{1,64}$'),
    token_hash      bytea NOT NULL UNIQUE,
    role            text NOT NULL CHECK (role IN ('viewer', 'operator', 'admin')),
    tenant_id       uuid REFERENCES tenants ON DELETE CASCADE,
    created_at      timestamptz NOT NULL DEFAULT now(),
    created_by      text NOT NULL,
    expires_at      timestamptz,
    revoked_at      timestamptz,
    last_used_at    timestamptz
);
COMMENT ON COLUMN api_tokens.token_hash IS 'SHA-256 of the token, which is 256 random bits: no salt is needed';
COMMENT ON COLUMN api_tokens.tenant_id IS 'the only tenant whose jobs it sees and steers; null: all';

CREATE TABLE auth_failures (
    source      text NOT NULL,
    minute      timestamptz NOT NULL,
    failures    integer NOT NULL,
    PRIMARY KEY (source, minute)
);
COMMENT ON TABLE auth_failures IS 'failed authentications by address and minute, for their rate limit';

CREATE TABLE operator_actions (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at          timestamptz NOT NULL DEFAULT clock_timestamp(),
    actor       text NOT NULL,
    token_id    uuid,
    role        text NOT NULL,
    action      text NOT NULL,
    target      text NOT NULL,
    tenant_id   uuid,
    request     jsonb,
    before      jsonb,
    after       jsonb,
    result      text NOT NULL
);
COMMENT ON TABLE operator_actions IS 'who did what to what; append-only, and no foreign key: it outlives what it names';
CREATE INDEX operator_actions_tenant ON operator_actions (tenant_id, id);

CREATE FUNCTION operator_actions_stand() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'operator_actions is append-only' USING ERRCODE = 'insufficient_privilege';
END $$;
CREATE TRIGGER operator_actions_stand BEFORE UPDATE OR DELETE OR TRUNCATE ON operator_actions
    FOR EACH STATEMENT EXECUTE FUNCTION operator_actions_stand();
"""

# Keys are compared byte by byte: a language's order costs 6 µs a key, and nobody reads them sorted.
KEYS = 'ALTER TABLE job_keys ALTER key TYPE text COLLATE "C"'

# gen_random_uuid() asks the kernel each time, 3 µs an id; one seed for a call, hashed with the order's number, makes
# ids as hard to guess in 1. jsonb_to_recordset reads the orders in one go.
ENQUEUE = """
-- UUIDv7 (RFC 9562, method 3) of an instant in microseconds since 1970; its random half is the last 15 of the digits.
CREATE FUNCTION uuid7_of(us bigint, random_digits text) RETURNS uuid LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT (lpad(to_hex(us / 1000), 12, '0') || to_hex(x'7000'::int + us % 1000 * 4096 / 1000)
            || '8' || right(random_digits, 15))::uuid
$$;

CREATE OR REPLACE FUNCTION enqueue_jobs(orders jsonb)
RETURNS TABLE (ordinal bigint, id uuid, created boolean) LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    unknown text;
    moment timestamptz := clock_timestamp();
    start bigint := extract(epoch FROM moment) * 1000000;
    seed text := gen_random_uuid();
BEGIN
    SELECT string_agg(coalesce(type, 'null'), ', ') INTO unknown
    FROM (SELECT DISTINCT o ->> 'type' AS type FROM jsonb_array_elements(orders) AS o) AS named
    WHERE NOT EXISTS (SELECT FROM job_types WHERE name = type);
    IF unknown IS NOT NULL THEN
        RAISE EXCEPTION 'unknown job type: %', unknown USING ERRCODE = 'invalid_parameter_value',
            HINT = 'known types: ' || (SELECT string_agg(name, ', ' ORDER BY name) FROM job_types);
    END IF;

    RETURN QUERY
    WITH wanted AS MATERIALIZED (
        SELECT o.ordinal,
               coalesce(o.id, uuid7_of(start + o.ordinal, encode(sha256((seed || o.ordinal)::bytea), 'hex'))) AS id,
               o.type, payload, tenant_id, group_key, priority, deadline_at, dedup_key, dedup_window_seconds,
               correlation_id, sent, job_types.queue, o.id IS NOT NULL AS given,
               CASE WHEN dedup_key IS NOT NULL THEN concat_ws('/', o.tenant_id, o.type, o.dedup_key) END AS key,
               greatest(coalesce(o.run_at, moment + o.delay_seconds * interval '1 second', moment), moment) AS due
        FROM ROWS FROM (jsonb_to_recordset(orders) AS (
            id uuid, type text, payload jsonb, tenant_id uuid, group_key text, priority smallint, run_at timestamptz,
            delay_seconds float8, deadline_at timestamptz, dedup_key text, dedup_window_seconds float8,
            correlation_id text, sent boolean)) WITH ORDINALITY AS o(
            id, type, payload, tenant_id, group_key, priority, run_at, delay_seconds, deadline_at, dedup_key,
            dedup_window_seconds, correlation_id, sent, ordinal)
        JOIN job_types ON job_types.name = o.type
    ), keyed AS (
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
        FROM wanted w LEFT JOIN keyed k ON k.key = w.key
    ), job AS (
        SELECT id, queue, type, CASE WHEN due > moment THEN 'delayed' ELSE 'waiting' END AS state, tenant_id,
               coalesce(payload, '{}') AS payload, coalesce(group_key, tenant_id::text) AS group_key,
               coalesce(priority, 0::smallint) AS priority, coalesce(correlation_id, id::text) AS correlation_id,
               key AS dedup_key, due AS run_at, CASE WHEN sent THEN NULL ELSE due END AS outbox_at,
               CASE WHEN sent THEN moment END AS sent_at, deadline_at, given
        FROM resolved WHERE job_id = id
        ORDER BY ordinal
    ), added AS (
        INSERT INTO jobs (id, queue, type, state, tenant_id, payload, group_key, priority, correlation_id, dedup_key,
                          run_at, outbox_at, sent_at, deadline_at)
        SELECT id, queue, type, state, tenant_id, payload, group_key, priority, correlation_id, dedup_key,
               run_at, outbox_at, sent_at, deadline_at
        FROM job WHERE NOT given
    ), external AS (
        -- Apart, since looking for conflicts costs 2 µs a job, and only an id that came from outside can have one.
        INSERT INTO jobs AS j (id, queue, type, state, tenant_id, payload, group_key, priority, correlation_id,
                               dedup_key, run_at, outbox_at, sent_at, deadline_at)
        SELECT id, queue, type, state, tenant_id, payload, group_key, priority, correlation_id, dedup_key,
               run_at, outbox_at, sent_at, deadline_at
        FROM job WHERE given
        ON CONFLICT (id) DO NOTHING
        RETURNING j.id
    )
    SELECT r.ordinal, r.job_id, r.job_id = r.id AND (NOT r.given OR external.id IS NOT NULL)
    FROM resolved r LEFT JOIN external ON external.id = r.id
    ORDER BY r.ordinal;
END $$;
"""

# A closing update moves in every index anyway (jobs_open); listing a queue's finished jobs needs them in order.
LISTING = "CREATE INDEX jobs_closed ON jobs (queue, id) WHERE closed_at IS NOT NULL"

BACK = """
ALTER TABLE job_keys ALTER key TYPE text;
DROP FUNCTION enqueue_job(text, jsonb, uuid, text, int, timestamptz, text, interval, text), enqueue_jobs(jsonb),
    uuid7_of(bigint, text);
DROP INDEX jobs_closed;
DROP TABLE operator_actions, auth_failures, api_tokens, job_runs, job_run_deltas;
DROP FUNCTION operator_actions_stand();
ALTER TABLE queues DROP paused_at, DROP paused_by, DROP pause_reason;
"""


def upgrade() -> None:
    for statements in (PAUSED_QUEUES, RUNS, OPERATORS, KEYS, ENQUEUE, LISTING):
        op.execute(statements)


def downgrade() -> None:
    op.execute(BACK)
    environment = op.get_context().environment_context
    op.execute(environment.script.get_revision("0003").module.ENQUEUE)
