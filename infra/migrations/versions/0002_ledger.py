"""The job ledger: jobs with their partitions, keys, attempts, count deltas, schedule runs and rejected messages."""

from alembic import op

revision = "0002"
down_revision = "0001"

TABLES = """
CREATE TABLE queues (
    name        text PRIMARY KEY,
    fifo        boolean NOT NULL,
    idle_since  timestamptz
);
COMMENT ON TABLE queues IS 'the code''s catalogue; kept by migrate';
COMMENT ON COLUMN queues.idle_since IS 'since when sweeps find it empty in SQS though the ledger holds sent jobs';

CREATE TABLE job_types (
    name    text PRIMARY KEY,
    queue   text NOT NULL REFERENCES queues
);
COMMENT ON TABLE job_types IS 'the code''s catalogue, for enqueue_jobs(); kept by migrate';

CREATE TABLE job_transitions (
    from_state  text NOT NULL,
    to_state    text NOT NULL,
    PRIMARY KEY (from_state, to_state)
);
COMMENT ON TABLE job_transitions IS 'legal moves (functions/core/job.py TRANSITIONS); kept by migrate';

CREATE TABLE jobs (
    id                  uuid NOT NULL PRIMARY KEY,
    queue               text NOT NULL,
    type                text NOT NULL,
    state               text NOT NULL CHECK (state IN ('blocked', 'delayed', 'waiting', 'active', 'retrying',
                                                       'paused', 'completed', 'cancelled', 'dead')),
    tenant_id           uuid,
    payload             jsonb NOT NULL,
    group_key           text CHECK (group_key ~ '^[!-~]{1,128}$'),
    priority            smallint NOT NULL CHECK (priority BETWEEN -1 AND 1),
    correlation_id      text NOT NULL,
    dedup_key           text,
    run_at              timestamptz NOT NULL,
    deadline_at         timestamptz,

    outbox_at           timestamptz,
    delivery            integer NOT NULL DEFAULT 1,
    sent_at             timestamptz,

    claim_token         uuid,
    claimed_alone       boolean NOT NULL DEFAULT false,
    started_at          timestamptz,
    lease_until         timestamptz,

    attempts            smallint NOT NULL DEFAULT 0,
    runs                integer NOT NULL DEFAULT 0,
    lost                smallint NOT NULL DEFAULT 0,
    lost_alone          smallint NOT NULL DEFAULT 0,

    parent_id           uuid,
    root_id             uuid,
    pending_parents     integer NOT NULL DEFAULT 0,
    on_parent_dead      text NOT NULL DEFAULT 'dead' CHECK (on_parent_dead IN ('dead', 'cancel', 'run')),

    result              jsonb,
    progress            real CHECK (progress BETWEEN 0 AND 1),
    checkpoint          jsonb,
    error_class         text,
    error               text,
    dead_message_id     text,
    died_at             timestamptz,
    resend_after        interval,

    created_at          timestamptz NOT NULL DEFAULT now(),
    closed_at           timestamptz,

    CHECK ((state = 'active') = (claim_token IS NOT NULL)),
    CHECK ((state = 'dead') = (died_at IS NOT NULL)),
    CHECK ((state IN ('completed', 'cancelled')) = (closed_at IS NOT NULL))
) PARTITION BY RANGE (id);
COMMENT ON COLUMN jobs.outbox_at IS 'when the relay is to send it; null: nothing to send';
COMMENT ON COLUMN jobs.delivery IS 'number of the current send; the claim acknowledges every other one unread';
COMMENT ON COLUMN jobs.attempts IS 'handler starts that ended in the job''s own failure, since the last redrive';
COMMENT ON COLUMN jobs.runs IS 'handler starts in the job''s whole life';
COMMENT ON COLUMN jobs.lost IS 'runs whose lease ran out unsettled, since the last redrive';
COMMENT ON COLUMN jobs.lost_alone IS 'those of them that had no neighbour to blame; the third is death';
COMMENT ON COLUMN jobs.dead_message_id IS 'the message being handed back until SQS dead-letters it';
COMMENT ON COLUMN jobs.died_at IS 'a message sent later than this was redriven by an operator and revives the job';
COMMENT ON COLUMN jobs.resend_after IS 'the sweep''s interval before it sends a silent job again; doubles each time';

CREATE TABLE jobs_default PARTITION OF jobs DEFAULT;

-- claim and settle touch neither index key on their way to active, so that claims can be heap-only updates.
CREATE INDEX jobs_outbox ON jobs (priority, outbox_at, id) WHERE outbox_at IS NOT NULL;
CREATE INDEX jobs_open ON jobs (queue, id) WHERE closed_at IS NULL;

CREATE TABLE job_keys (
    key         text PRIMARY KEY CHECK (length(key) <= 1000),
    job_id      uuid NOT NULL,
    expires_at  timestamptz NOT NULL
);
COMMENT ON COLUMN job_keys.key IS 'tenant/type/key, as in jobs.dedup_key';
COMMENT ON COLUMN job_keys.expires_at IS 'end of the deduplication window; infinity: until the job is finished';
CREATE INDEX job_keys_expiry ON job_keys (expires_at) WHERE expires_at <> 'infinity';

CREATE TABLE job_attempts (
    job_id      uuid NOT NULL,
    run         integer NOT NULL,
    outcome     text NOT NULL CHECK (outcome IN ('failed', 'lost', 'snoozed', 'continued', 'released', 'gave_up')),
    counted     boolean NOT NULL,
    error_class text,
    error       text,
    traceback   text,
    started_at  timestamptz,
    ended_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (job_id, run)
);
COMMENT ON TABLE job_attempts IS 'each run that did not complete';

CREATE TABLE job_count_deltas (
    id      bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    queue   text NOT NULL,
    type    text NOT NULL,
    state   text NOT NULL,
    delta   bigint NOT NULL
);
COMMENT ON TABLE job_count_deltas IS 'appended by every transition, folded into job_counts by the sweep';

CREATE TABLE job_counts (
    queue   text NOT NULL,
    type    text NOT NULL,
    state   text NOT NULL,
    count   bigint NOT NULL,
    PRIMARY KEY (queue, type, state)
);
COMMENT ON TABLE job_counts IS 'jobs by state, and the monotonic pseudo-states enqueued and pruned';

CREATE TABLE schedules (
    name            text PRIMARY KEY,
    enabled_since   timestamptz
);
COMMENT ON COLUMN schedules.enabled_since IS 'no run before this instant is planned; null: switched off';

CREATE TABLE schedule_runs (
    schedule    text NOT NULL,
    tenant_id   uuid NOT NULL REFERENCES tenants ON DELETE CASCADE,
    local_date  date NOT NULL,
    outcome     text NOT NULL CHECK (outcome IN ('planned', 'missed')),
    due_at      timestamptz NOT NULL,
    planned_at  timestamptz NOT NULL,
    job_id      uuid,
    PRIMARY KEY (schedule, tenant_id, local_date)
);
COMMENT ON COLUMN schedule_runs.planned_at IS 'the scheduled event''s time, which may be a replayed one';

CREATE TABLE rejected_messages (
    queue       text NOT NULL,
    message_id  text NOT NULL,
    reason      text NOT NULL,
    receives    integer NOT NULL,
    first_seen  timestamptz NOT NULL DEFAULT now(),
    last_seen   timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (queue, message_id)
);
COMMENT ON TABLE rejected_messages IS 'what nobody can understand, on its way to a dead-letter queue; never the body';

CREATE TABLE probe_effects (
    id      bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    job_id  uuid NOT NULL,
    at      timestamptz NOT NULL DEFAULT clock_timestamp()
);
COMMENT ON TABLE probe_effects IS 'what upkeep.probe did; deliberately not unique, so that a doubled effect would show';
"""

TRIGGERS = """
-- One place appends the count deltas and refuses illegal moves, for every statement of every program.
CREATE FUNCTION jobs_enqueued() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO job_count_deltas (queue, type, state, delta)
    SELECT queue, type, unnest(ARRAY[state, 'enqueued']), count(*) FROM added GROUP BY queue, type, state;
    RETURN NULL;
END $$;

CREATE FUNCTION jobs_transition() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    illegal text;
BEGIN
    WITH moved AS (
        SELECT o.queue, o.type, o.state AS from_state, n.state AS to_state, count(*) AS jobs
        FROM before o JOIN after n ON n.id = o.id
        WHERE o.state <> n.state
        GROUP BY o.queue, o.type, o.state, n.state
    ), delta AS (
        INSERT INTO job_count_deltas (queue, type, state, delta)
        SELECT queue, type, state, sum(jobs)
        FROM (SELECT queue, type, from_state AS state, -jobs AS jobs FROM moved
              UNION ALL SELECT queue, type, to_state, jobs FROM moved) AS both_sides
        GROUP BY queue, type, state HAVING sum(jobs) <> 0
    )
    SELECT string_agg(from_state || ' -> ' || to_state, ', ') INTO illegal
    FROM moved LEFT JOIN job_transitions USING (from_state, to_state)
    WHERE job_transitions.from_state IS NULL;
    IF illegal IS NOT NULL THEN
        RAISE EXCEPTION 'illegal job transition: %', illegal
            USING HINT = 'functions/core/job.py TRANSITIONS lists the legal ones', ERRCODE = 'check_violation';
    END IF;
    RETURN NULL;
END $$;

CREATE TRIGGER jobs_enqueued AFTER INSERT ON jobs
    REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION jobs_enqueued();
CREATE TRIGGER jobs_transition AFTER UPDATE ON jobs
    REFERENCING OLD TABLE AS before NEW TABLE AS after FOR EACH STATEMENT EXECUTE FUNCTION jobs_transition();
"""


def upgrade() -> None:
    op.execute(TABLES)
    op.execute(TRIGGERS)


def downgrade() -> None:
    op.execute(
        "DROP TABLE probe_effects, rejected_messages, schedule_runs, schedules, job_counts, job_count_deltas,"
        " job_attempts, job_keys, jobs, job_transitions, job_types, queues;"
        " DROP FUNCTION jobs_enqueued(), jobs_transition();"
    )
