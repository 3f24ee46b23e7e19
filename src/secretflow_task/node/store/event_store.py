"""The node's own store: which executions it took, and every event until Redis has it."""

from __future__ import annotations

from pathlib import Path
from uuid import uuid4

from secretflow_task.node.store.executions import Executions
from secretflow_task.node.store.outbox import EventOutbox
from secretflow_task.node.store.results import Results


class EventStore(Executions, Results, EventOutbox):
    """SQLite in the state folder, for one node at a time; a context manager.

    Terminal events are on disk when `append` returns; the others survive the process, not the
    machine. When the disk is full a terminal event is held in memory, and stored when there is room
    again.

    Args:
        maxlen: so many events may wait for Redis; what is dropped beyond that is progress.

    Attributes:
        node_id: the node's own name among all nodes, the same after a restart.
    """

    def __init__(self, folder: Path, maxlen: int = 100_000) -> None:
        super().__init__(folder, maxlen)
        self._db.execute(
            "INSERT INTO node SELECT ? WHERE NOT EXISTS (SELECT * FROM node)", (uuid4().hex,)
        )
        self.node_id = str(self._row("SELECT id FROM node")[0])

    def __enter__(self) -> EventStore:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()
