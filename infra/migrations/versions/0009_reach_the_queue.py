"""An open job is on its way to its queue, or was sent there: a row that says neither would be missed by nobody."""

from alembic import op

revision = "0009"
down_revision = "0008"

# Left by a relay that died between send and mark, and a run that failed afterwards. The next delivery number, since
# their message may still be there: the claim takes one of the two.
REPAIR = """
UPDATE jobs SET outbox_at = now(), delivery = delivery + 1
WHERE closed_at IS NULL AND state IN ('delayed', 'waiting', 'retrying', 'active')
  AND outbox_at IS NULL AND sent_at IS NULL;
"""

# Not validated: reading every finished job would hold up everybody, and of the open ones the rest holds it already.
INVARIANT = """
ALTER TABLE jobs ADD CONSTRAINT jobs_reach_their_queue CHECK (
    outbox_at IS NOT NULL OR sent_at IS NOT NULL OR state NOT IN ('delayed', 'waiting', 'retrying', 'active')
) NOT VALID;
"""


def upgrade() -> None:
    op.execute(REPAIR)
    op.execute(INVARIANT)


def downgrade() -> None:
    op.execute("ALTER TABLE jobs DROP CONSTRAINT jobs_reach_their_queue")
