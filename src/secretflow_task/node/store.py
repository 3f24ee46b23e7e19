"""The node's own store: which executions it took, and every event until Redis has it."""

from __future__ import annotations

import fcntl
import os
import sqlite3
import threading
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Iterable, Iterator

from secretflow_task.messages import Status, StatusEvent, TaskRequest

_SCHEMA = """
CREATE TABLE IF NOT EXISTS executions (
    execution_id TEXT NOT NULL,
    party TEXT NOT NULL,
    task_request_id TEXT NOT NULL,
    task_id TEXT,
    subtask_id TEXT,
    task_type TEXT NOT NULL,
    status TEXT NOT NULL DEFAULT 'RUNNING',
    last_seq INTEGER NOT NULL DEFAULT 0,
    started_at TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP,
    PRIMARY KEY (execution_id, party)
);
CREATE TABLE IF NOT EXISTS events (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    execution_id TEXT NOT NULL,
    party TEXT NOT NULL,
    body TEXT NOT NULL
);
"""


class StoreInUse(Exception):
    """Another node uses this state folder; give each node its own SFWORKER_STATE_DIR."""


@dataclass(frozen=True)
class Execution:
    """One execution at one party, as the store knows it."""

    request: TaskRequest
    party: str
    task_type: str
    status: Status


class EventStore:
    """SQLite in the state folder, for one node at a time.

    Terminal events are on disk when `append` returns; the others survive the process, not the machine.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock_handle = os.open(folder / "lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock_handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._lock_handle)
            raise StoreInUse(StoreInUse.__doc__) from None
        self._mutex = threading.Lock()
        self._db = sqlite3.connect(folder / "node.sqlite", isolation_level=None, check_same_thread=False)
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.executescript(_SCHEMA)

    def __enter__(self) -> EventStore:
        return self

    def __exit__(self, *_exc: object) -> None:
        self._db.close()
        os.close(self._lock_handle)

    def claim(self, request: TaskRequest, *parties: str) -> bool:
        """Take an execution for all of ``parties``; False, and none taken, when one was taken before."""
        ids = (request.task_request_id, request.task_id, request.subtask_id, request.task_type)
        try:
            with self._transaction(durable=False) as db:
                db.executemany(
                    "INSERT INTO executions"
                    " (execution_id, party, task_request_id, task_id, subtask_id, task_type)"
                    " VALUES (?, ?, ?, ?, ?, ?)",
                    [(request.execution_id, party, *ids) for party in parties],
                )
        except sqlite3.IntegrityError:
            return False
        return True

    def status(self, execution_id: str, party: str) -> Status | None:
        """The status of an execution at a party; None when it was never claimed."""
        with self._mutex:
            row = self._db.execute(
                "SELECT status FROM executions WHERE execution_id = ? AND party = ?", (execution_id, party)
            ).fetchone()
        return Status(row[0]) if row else None

    def unfinished(self) -> list[Execution]:
        """What was claimed and has no terminal event: after a start, what an earlier node process left."""
        with self._mutex:
            rows = self._db.execute(
                "SELECT execution_id, task_request_id, task_id, subtask_id, party, task_type"
                " FROM executions WHERE status = 'RUNNING' ORDER BY rowid"
            ).fetchall()
        return [
            Execution(TaskRequest(row[0], row[1], {}, row[2], row[3]), row[4], row[5], Status.RUNNING)
            for row in rows
        ]

    def append(self, event: StatusEvent) -> StatusEvent | None:
        """Number an event of a claimed execution and keep it until it is sent; None after its end."""
        key = (event.execution_id, event.party)
        with self._transaction(durable=event.status.terminal) as db:
            row = db.execute(
                "UPDATE executions SET last_seq = last_seq + 1, status = ?"
                " WHERE execution_id = ? AND party = ? AND status = 'RUNNING' RETURNING last_seq",
                (event.status.value, *key),
            ).fetchone()
            if row is None:
                return None
            numbered = replace(event, seq=row[0])
            db.execute(
                "INSERT INTO events (execution_id, party, body) VALUES (?, ?, ?)", (*key, numbered.to_json())
            )
            return numbered

    def unsent(self, limit: int) -> list[tuple[int, StatusEvent]]:
        """The oldest events that Redis does not have, with their numbers, in order."""
        with self._mutex:
            rows = self._db.execute(
                "SELECT number, body FROM events ORDER BY number LIMIT ?", (limit,)
            ).fetchall()
        return [(number, StatusEvent.from_json(body)) for number, body in rows]

    def mark_sent(self, numbers: Iterable[int]) -> None:
        """Redis has these events: forget them."""
        with self._transaction(durable=False) as db:
            db.executemany("DELETE FROM events WHERE number = ?", [(number,) for number in numbers])

    @contextmanager
    def _transaction(self, durable: bool) -> Iterator[sqlite3.Connection]:
        with self._mutex:
            self._db.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")
