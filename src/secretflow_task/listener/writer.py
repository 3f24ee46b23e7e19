"""Entries into tables: each event once; of an execution its end or its newest event, however they
arrive.
"""

from __future__ import annotations

from typing import Any, Sequence

from sqlalchemy import Table, and_, case, or_
from sqlalchemy.exc import DataError, IntegrityError

from secretflow_task.contract.messages import Status
from secretflow_task.listener.database import Database, upsert
from secretflow_task.listener.entry import Entry
from secretflow_task.listener.group import Row, mark_written
from secretflow_task.listener.tables import Base

_EVENTS: Table = Base.metadata.tables["events"]
_EXECUTIONS: Table = Base.metadata.tables["executions"]


class Writer:
    """Writes batches of entries; several may write at once."""

    def __init__(self, database: Database) -> None:
        self._database = database
        insert = upsert(database.engine, _EVENTS)
        self._insert_event = insert.on_conflict_do_nothing(index_elements=["event_id"])
        self._show_newest = _show_newest(upsert(database.engine, _EXECUTIONS))

    def write(self, entries: Sequence[Entry], mark: Row | None = None) -> list[Entry]:
        """Write all in one transaction; one that the database refuses costs the others nothing.

        Args:
            mark: the group that they were read by, and the newest of them.

        Returns:
            What it refused.

        Raises:
            sqlalchemy.exc.DBAPIError: the database is away; nothing, or a part, was written.
        """
        try:
            self._write(entries, mark)
            return []
        except (DataError, IntegrityError):
            if len(entries) == 1:
                return list(entries)
        refused = [refused for entry in entries for refused in self.write([entry])]
        self._write([], mark)
        return refused

    def _write(self, entries: Sequence[Entry], mark: Row | None) -> None:
        # Sorted, since two writers that lock rows in different orders would wait for each other for
        # ever.
        events = sorted(
            (entry.event_row() for entry in entries), key=lambda row: str(row["event_id"])
        )
        rows = [entry.execution_row() for entry in entries]
        rows.sort(key=lambda row: (row["execution_id"], row["party"], row["last_seq"]))
        with self._database.engine.begin() as connection:
            if entries:
                connection.execute(self._insert_event, events)
                connection.execute(self._show_newest, rows)
            if mark:  # last: all listeners lock this row, and only for the commit
                mark_written(connection, mark)


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
