"""Lanes: what the relay sends first is decided per queue, and a look at the outbox costs the same whatever is due."""

from alembic import op

revision = "0012"
down_revision = "0011"

# Of a standard queue `turn` is null, so that a claim changes nothing that this index names and stays heap-only.
OUTBOX = """
DROP INDEX jobs_outbox;
CREATE INDEX jobs_outbox ON jobs (queue, priority, outbox_at, turn, id) WHERE outbox_at IS NOT NULL;
"""

# The settings stand on the functions: the planner's choice must not depend on statistics, which are stale whenever a
# backlog has just come, and a SET on the connection would pin it to its client in RDS Proxy. Where a kind of plan is
# off, versions before 18 think the others so dear that they would compile them (jit).
DUE_LANES = """
-- The lanes of the outbox that have something due: each queue that is not paused, by priority, with the time since
-- which its first row has been due. A few index probes per queue and partition, however many rows are due.
CREATE FUNCTION due_lanes(moment timestamptz)
RETURNS TABLE (queue text, fifo boolean, priority smallint, due_since timestamptz) LANGUAGE sql STABLE
SET enable_sort = off SET enable_incremental_sort = off SET enable_bitmapscan = off SET enable_seqscan = off
SET jit = off
AS $$
    SELECT q.name, q.fifo, level.priority, head.outbox_at
    FROM queues AS q
    -- Most queues have nothing to be sent, now or later: that is one probe instead of one for each priority.
    CROSS JOIN LATERAL (
        SELECT FROM jobs AS j WHERE j.queue = q.name AND j.outbox_at IS NOT NULL
        ORDER BY j.priority, j.outbox_at, j.turn, j.id LIMIT 1
    ) AS anything
    CROSS JOIN (VALUES (1::smallint), (0::smallint), (-1::smallint)) AS level(priority)
    CROSS JOIN LATERAL (
        SELECT j.outbox_at FROM jobs AS j
        WHERE j.queue = q.name AND j.priority = level.priority AND j.outbox_at <= moment
        ORDER BY j.outbox_at, j.turn, j.id LIMIT 1
    ) AS head
    WHERE q.paused_at IS NULL
$$;
"""

TAKE_DUE = """
-- Locks due rows of these queues for a relay to send: about `most` in all, the same number from each queue that has
-- any. Never waits: rows that others hold are skipped.
-- Of a standard queue: by priority, then time, without the ids in `refused`. Of a FIFO queue: by time alone, without
-- the groups in `blocked` (queue/group). There a row that could not be locked comes back too, with `locked` false:
-- what follows it in its group must not overtake it.
CREATE FUNCTION take_due(queues text[], most integer, refused uuid[], blocked text[])
RETURNS TABLE (id uuid, queue text, type text, tenant_id uuid, delivery integer, correlation_id text,
               group_key text, locked boolean) LANGUAGE plpgsql
SET enable_sort = off SET enable_incremental_sort = off SET enable_bitmapscan = off SET enable_seqscan = off
SET enable_nestloop = off SET jit = off SET plan_cache_mode = force_generic_plan
AS $$
#variable_conflict use_column
DECLARE
    moment timestamptz := clock_timestamp();
    standard text[];
    ordered text[];
    share integer;
    candidate_ids uuid[];
    candidate_queues text[];
    candidate_groups text[];
BEGIN
    SELECT array_agg(DISTINCT d.queue) FILTER (WHERE NOT d.fifo), array_agg(DISTINCT d.queue) FILTER (WHERE d.fifo)
    INTO standard, ordered
    FROM due_lanes(moment) AS d WHERE d.queue = ANY(queues);
    share := ceil(most / greatest(coalesce(cardinality(standard), 0) + coalesce(cardinality(ordered), 0), 1)::numeric);

    IF standard IS NOT NULL THEN
        RETURN QUERY
        SELECT due.* FROM unnest(standard) AS lane(queue) CROSS JOIN LATERAL (
            SELECT one.* FROM (VALUES (1::smallint), (0::smallint), (-1::smallint)) AS level(priority)
            CROSS JOIN LATERAL (
                SELECT j.id, j.queue, j.type, j.tenant_id, j.delivery, j.correlation_id, j.group_key, true
                FROM jobs AS j
                WHERE j.queue = lane.queue AND j.priority = level.priority AND j.outbox_at <= moment
                  AND j.id <> ALL(refused)
                ORDER BY j.outbox_at, j.turn, j.id LIMIT share FOR UPDATE SKIP LOCKED
            ) AS one
            LIMIT share
        ) AS due;
    END IF;

    IF ordered IS NOT NULL THEN
        SELECT array_agg(first.id), array_agg(first.queue), array_agg(first.group_key)
        INTO candidate_ids, candidate_queues, candidate_groups
        FROM unnest(ordered) AS lane(queue) CROSS JOIN LATERAL (
            SELECT one.* FROM (VALUES (1::smallint), (0::smallint), (-1::smallint)) AS level(priority)
            CROSS JOIN LATERAL (
                SELECT j.id, j.queue, coalesce(j.group_key, j.id::text) AS group_key, j.outbox_at, j.turn FROM jobs AS j
                WHERE j.queue = lane.queue AND j.priority = level.priority AND j.outbox_at <= moment
                  AND j.queue || '/' || coalesce(j.group_key, j.id::text) <> ALL(blocked)
                ORDER BY j.outbox_at, j.turn, j.id LIMIT share
            ) AS one
            ORDER BY one.outbox_at, one.turn, one.id LIMIT share
        ) AS first;

        RETURN QUERY
        WITH held AS MATERIALIZED (
            SELECT j.id, j.type, j.tenant_id, j.delivery, j.correlation_id, j.outbox_at FROM jobs AS j
            WHERE j.id = ANY(candidate_ids) FOR UPDATE SKIP LOCKED
        )
        SELECT c.id, c.queue, held.type, held.tenant_id, held.delivery, held.correlation_id, c.group_key,
               held.id IS NOT NULL
        FROM unnest(candidate_ids, candidate_queues, candidate_groups) WITH ORDINALITY AS c(id, queue, group_key, place)
        LEFT JOIN held ON held.id = c.id AND held.outbox_at <= moment
        ORDER BY c.place;
    END IF;
END $$;
"""

# A connection that first marked single rows kept their plan, a loop within a loop, for thousands: four seconds instead
# of a fifth for 5,000.
TRANSITION = """
ALTER FUNCTION jobs_transition() SET enable_nestloop = off;
ALTER FUNCTION jobs_transition() SET jit = off;
"""

BACK = """
ALTER FUNCTION jobs_transition() RESET ALL;
DROP FUNCTION take_due(text[], integer, uuid[], text[]), due_lanes(timestamptz);
DROP INDEX jobs_outbox;
CREATE INDEX jobs_outbox ON jobs (priority, outbox_at, id) WHERE outbox_at IS NOT NULL;
"""


def upgrade() -> None:
    for statements in (OUTBOX, DUE_LANES, TAKE_DUE, TRANSITION):
        op.execute(statements)


def downgrade() -> None:
    op.execute(BACK)
