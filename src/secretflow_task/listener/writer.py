"""Entries into tables: each event once; of an execution its end or its newest event, however they
arrive.
"""

from __future__ import annotations

from typing import Any, Sequence

from sqlalchemy import Table, and_, case, or_
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DataError, IntegrityError

from secretflow_task.contract.messages import Status
from secretflow_task.listener.database import Database
from secretflow_task.listener.entry import Entry
from secretflow_task.listener.tables import Base

_INSERT: dict[str, Any] = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}
_EVENTS: Table = Base.metadata.tables["events"]
_EXECUTIONS: Table = Base.metadata.tables["executions"]


class Writer:
    """Writes batches of entries; several may write at once."""

    def __init__(self, database: Database) -> None:
        self._database = database
        insert = _INSERT[database.kind]
        self._insert_event = insert(_EVENTS).on_conflict_do_nothing(index_elements=["event_id"])
        self._show_newest = _show_newest(insert(_EXECUTIONS))

    def write(self, entries: Sequence[Entry]) -> list[Entry]:
        """Write all in one transaction; one that the database refuses costs the others nothing.

        Returns:
            What it refused.

        Raises:
            sqlalchemy.exc.DBAPIError: the database is away; nothing, or a part, was written.
        """
        try:
            self._write(entries)
            return []
        except (DataError, IntegrityError):
            if len(entries) == 1:
                return list(entries)
        return [refused for entry in entries for refused in self.write([entry])]

    def _write(self, entries: Sequence[Entry]) -> None:
        # Sorted, since two writers that lock rows in different orders would wait for each other for
        # ever.
        events = sorted(
            (entry.event_row() for entry in entries), key=lambda row: str(row["event_id"])
        )
        rows = [entry.execution_row() for entry in entries]
        rows.sort(key=lambda row: (row["execution_id"], row["party"], row["last_seq"]))
        with self._database.engine.begin() as connection:
            connection.execute(self._insert_event, events)
            connection.execute(self._show_newest, rows)


def _show_newest(insert: Any) -> Any:
    """The statement that lets an event change its execution's row if it is newer, or the end."""
    old, new = _EXECUTIONS.c, insert.excluded
    running = Status.RUNNING.value
    newer = and_(old.status == running, or_(new.status != running, new.last_seq > old.last_seq))
    shown = {
        column.name: case((newer, new[column.name]), else_=column)
        for column in old
        if not column.primary_key
    }
    shown["first_timestamp"] = case(
        (new.first_timestamp < old.first_timestamp, new.first_timestamp), else_=old.first_timestamp
    )
    return insert.on_conflict_do_update(index_elements=["execution_id", "party"], set_=shown)
