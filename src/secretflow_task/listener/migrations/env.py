"""How Alembic runs here: on the connection, and in the transaction, of the one who asks for it."""

from __future__ import annotations

from alembic import context

from secretflow_task.listener.tables import Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    render_as_batch=True,  # SQLite cannot alter a column
)
with context.begin_transaction():
    context.run_migrations()
