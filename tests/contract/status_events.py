"""Executions as their nodes report them, and what a database must hold of them."""

from __future__ import annotations

from typing import Any, Iterable

from sqlalchemy import select

from secretflow_task.contract.errors import MissingFile
from secretflow_task.contract.messages import Status, StatusEvent
from secretflow_task.listener.database import Database
from secretflow_task.listener.entry import Entry
from secretflow_task.listener.tables import Event, Execution


def execution(
    execution_id: str = "e-1", party: str = "alice", count: int = 5, ends: Status = Status.SUCCESS
) -> list[StatusEvent]:
    """So many events of one execution at one party, the last its end."""
    ending: dict[str, Any] = (
        {"stage": "SUCCESS", "progress": 1.0, "result": {"rows": count}}
        if ends is Status.SUCCESS
        else {"progress": 0.5, **MissingFile(party=party).as_event_data()}
    )
    running = [{"stage": "task_execution", "progress": step / count} for step in range(count - 1)]
    return [
        StatusEvent(
            execution_id,
            f"request of {execution_id}",
            party,
            ends if data is ending else Status.RUNNING,
            data,
            "node-1",
            "tasks.secretflow.execute_task",
            seq,
            task_type="psi",
        )
        for seq, data in enumerate([*running, ending], 1)
    ]


def entries(events: Iterable[StatusEvent]) -> list[Entry]:
    """The events as the listener reads them."""
    return [Entry.from_fields({b"event": event.to_json().encode()}) for event in events]


def stored_events(database: Database) -> list[tuple[Any, ...]]:
    """What the database holds, in the order of each execution."""
    order = (Event.execution_id, Event.party, Event.seq, Event.event_id)
    columns = (*order, Event.status, Event.data)
    with database.engine.begin() as connection:
        return [tuple(row) for row in connection.execute(select(*columns).order_by(*order))]


def expected_events(events: Iterable[StatusEvent]) -> list[tuple[Any, ...]]:
    """What `stored_events` must return for these."""
    rows = [
        (event.execution_id, event.party, event.seq, event.event_id, event.status.value, event.data)
        for event in events
    ]
    return sorted(rows, key=lambda row: row[:4])


def stored_ends(database: Database) -> dict[tuple[str, str], tuple[str, int]]:
    """Status and last number of each execution and party."""
    columns = (Execution.execution_id, Execution.party, Execution.status, Execution.last_seq)
    with database.engine.begin() as connection:
        return {(row[0], row[1]): (row[2], row[3]) for row in connection.execute(select(*columns))}


def expected_ends(events: Iterable[StatusEvent]) -> dict[tuple[str, str], tuple[str, int]]:
    """What `stored_ends` must return for these."""
    newest: dict[tuple[str, str], tuple[str, int]] = {}
    for event in sorted(events, key=lambda event: event.seq):
        newest[event.execution_id, event.party] = (event.status.value, event.seq)
    return newest
