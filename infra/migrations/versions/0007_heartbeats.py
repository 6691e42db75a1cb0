"""Heartbeats: when relay and sweep last did their round, and what the sweep found."""

from alembic import op

revision = "0007"
down_revision = "0006"

HEARTBEATS = """
CREATE TABLE heartbeats (
    name    text PRIMARY KEY,
    at      timestamptz NOT NULL,
    report  jsonb NOT NULL
);
COMMENT ON TABLE heartbeats IS 'when relay and sweep last did their round, and what they found';
"""


def upgrade() -> None:
    op.execute(HEARTBEATS)


def downgrade() -> None:
    op.execute("DROP TABLE heartbeats")
