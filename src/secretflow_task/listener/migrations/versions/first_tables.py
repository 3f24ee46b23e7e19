"""Make the tables of executions and events."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "first_tables"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make them."""
    op.create_table(
        "executions",
        sa.Column("execution_id", sa.String, primary_key=True),
        sa.Column("party", sa.String, primary_key=True),
        sa.Column("task_request_id", sa.String, nullable=False),
        sa.Column("task_id", sa.String),
        sa.Column("subtask_id", sa.String),
        sa.Column("task_name", sa.String, nullable=False),
        sa.Column("task_type", sa.String, nullable=False),
        sa.Column("worker", sa.String, nullable=False),
        sa.Column("status", sa.String, nullable=False),
        sa.Column("stage", sa.String, nullable=False),
        sa.Column("progress", sa.Float, nullable=False),
        sa.Column("error", sa.String),
        sa.Column("error_type", sa.String),
        sa.Column("error_code", sa.String),
        sa.Column("hint", sa.String),
        sa.Column("failed_party", sa.String),
        sa.Column("result", sa.JSON),
        sa.Column("first_timestamp", sa.DateTime(timezone=True), nullable=False),
        sa.Column("last_timestamp", sa.DateTime(timezone=True), nullable=False),
        sa.Column("last_seq", sa.Integer, nullable=False),
    )
    op.create_index("executions_by_start", "executions", ["first_timestamp"])
    op.create_table(
        "events",
        sa.Column("event_id", sa.String, primary_key=True),
        sa.Column("execution_id", sa.String, nullable=False),
        sa.Column("party", sa.String, nullable=False),
        sa.Column("seq", sa.Integer, nullable=False),
        sa.Column("status", sa.String, nullable=False),
        sa.Column("timestamp", sa.DateTime(timezone=True), nullable=False),
        sa.Column("data", sa.JSON, nullable=False),
    )
    op.create_index("events_in_order", "events", ["execution_id", "party", "seq"])


def downgrade() -> None:
    """Remove them, with what they hold."""
    op.drop_table("events")
    op.drop_table("executions")
