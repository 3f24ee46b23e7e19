"""The tables: what is known of an execution at a party, every event of it, and the consumer group.

``migrations/`` makes the first two; a test compares it with what stands here.
"""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

from sqlalchemy import JSON, DateTime, Dialect, Index, String
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.types import TypeDecorator


class UtcDateTime(TypeDecorator[datetime]):
    """A moment, in UTC also where the database keeps no time zone (SQLite)."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """To UTC."""
        del dialect
        return value and value.astimezone(timezone.utc)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """From UTC where no zone is told."""
        del dialect
        if value is None or value.tzinfo is not None:
            return value and value.astimezone(timezone.utc)
        return value.replace(tzinfo=timezone.utc)


class Base(DeclarativeBase):
    """All tables."""

    type_annotation_map = {datetime: UtcDateTime, dict[str, Any]: JSON(none_as_null=True)}


class Execution(Base):
    """An execution at a party: its end, or its newest event.

    Attributes:
        task_name: the Celery task, the same for all; ``task_type`` is what was run.
        last_seq: the number of the event that the row shows.
        first_timestamp: of the earliest event that was seen.
    """

    __tablename__ = "executions"
    __table_args__ = (Index("executions_by_start", "first_timestamp"),)

    execution_id: Mapped[str] = mapped_column(String, primary_key=True)
    party: Mapped[str] = mapped_column(String, primary_key=True)
    task_request_id: Mapped[str]
    task_id: Mapped[str | None]
    subtask_id: Mapped[str | None]
    task_name: Mapped[str]
    task_type: Mapped[str]
    worker: Mapped[str]
    status: Mapped[str]
    stage: Mapped[str]
    progress: Mapped[float]
    error: Mapped[str | None]
    error_type: Mapped[str | None]
    error_code: Mapped[str | None]
    hint: Mapped[str | None]
    failed_party: Mapped[str | None]
    result: Mapped[dict[str, Any] | None]
    first_timestamp: Mapped[datetime]
    last_timestamp: Mapped[datetime]
    last_seq: Mapped[int]


class Event(Base):
    """One status event, as the node sent it."""

    __tablename__ = "events"
    __table_args__ = (Index("events_in_order", "execution_id", "party", "seq"),)

    event_id: Mapped[str] = mapped_column(String, primary_key=True)
    execution_id: Mapped[str]
    party: Mapped[str]
    seq: Mapped[int]
    status: Mapped[str]
    timestamp: Mapped[datetime]
    data: Mapped[dict[str, Any]]


class ListenerGroup(Base):
    """The one row that ties this database to its consumer group on the stream.

    Attributes:
        written: the position of the newest entry that is written, in a form that sorts.
    """

    __tablename__ = "listener_group"

    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    name: Mapped[str]
    written: Mapped[str]
