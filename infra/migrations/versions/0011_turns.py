"""Turns: the jobs of a FIFO group first start in the order in which they were ordered, and the ledger sees to it."""

from alembic import op

revision = "0011"
down_revision = "0010"

# `turn` is null for every job of a standard queue, so that index and column cost those nothing.
TURNS = """
ALTER TABLE job_types ADD group_by text[];
COMMENT ON COLUMN job_types.group_by IS 'FIFO queues: the payload fields that name a job''s group; kept by migrate';

ALTER TABLE jobs ADD turn timestamptz;
COMMENT ON COLUMN jobs.turn IS 'FIFO queues: when it came due; later ones of its group wait. Null once it has started';
COMMENT ON COLUMN jobs.group_key IS 'its group on a FIFO queue; null on a standard one, where the tenant is the group';
CREATE INDEX jobs_turn ON jobs (queue, group_key, turn, id) WHERE turn IS NOT NULL;
"""

# Of what a release before this one ordered, that which has not started yet.
BACKFILL = """
UPDATE jobs SET turn = run_at FROM queues
WHERE queues.name = jobs.queue AND queues.fifo AND jobs.closed_at IS NULL AND jobs.runs = 0
  AND jobs.group_key IS NOT NULL;
"""


def upgrade() -> None:
    op.execute(TURNS)
    op.execute(BACKFILL)


def downgrade() -> None:
    op.execute("ALTER TABLE jobs DROP COLUMN turn; ALTER TABLE job_types DROP COLUMN group_by")
