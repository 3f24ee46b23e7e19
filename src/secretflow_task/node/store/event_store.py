"""The node's own store: which executions it took, and every event until Redis has it."""

from __future__ import annotations

import fcntl
import json
import os
import sqlite3
import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Iterable, Iterator, Mapping
from uuid import uuid4

from secretflow_task.contract.errors import OutputNotWritable
from secretflow_task.contract.messages import Status, StatusEvent, TaskRequest
from secretflow_task.node.publisher import Unsent
from secretflow_task.node.store.migrations import open_store

_KEPT_SECONDS = 600.0  # how long a sent event is kept, for a Redis that comes back without it
_REMEMBERED_SECONDS = 30 * 24 * 3600.0  # how long a finished execution is known
_FIRST_HELD = 2**62  # numbers of what is held in memory come after all stored ones
_TAKEN_OVER = "TAKEN_OVER"  # the status of what another node settles


class StoreInUse(Exception):
    """Another node uses this state folder; give each node its own SFWORKER_STATE_DIR."""


@dataclass(frozen=True)
class TakenExecution:
    """One execution at one party, as the store has it from when this node took it.

    Attributes:
        epoch: how often it was taken when this node took it.
    """

    request: TaskRequest
    party: str
    epoch: int = 1


class EventStore:
    """SQLite in the state folder, for one node at a time.

    Terminal events are on disk when `append` returns; the others survive the process, not the machine. When
    the disk is full a terminal event is held in memory, and stored when there is room again.

    Args:
        maxlen: so many events may wait for Redis; what is dropped beyond that is progress.
    """

    def __init__(self, folder: Path, maxlen: int = 100_000) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock_handle = os.open(folder / "lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock_handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._lock_handle)
            raise StoreInUse(StoreInUse.__doc__) from None
        self._mutex = threading.RLock()
        self._maxlen = maxlen
        # What the disk had no room for: terminal events, and which numbers Redis has.
        self._held: list[Unsent] = []
        self._next_held = _FIRST_HELD
        self._sent: set[int] = set()
        self.dropped = 0
        try:
            self._db = open_store(folder / "node.sqlite")
        except BaseException:
            os.close(self._lock_handle)
            raise
        self._db.execute(
            "INSERT INTO node SELECT ? WHERE NOT EXISTS (SELECT * FROM node)", (uuid4().hex,)
        )
        self.node_id = str(self._db.execute("SELECT id FROM node").fetchone()[0])
        self._waiting = 0
        self._count_waiting()

    def __enter__(self) -> EventStore:
        return self

    def __exit__(self, *_exc: object) -> None:
        with self._mutex:  # whoever is late gets an error; SQLite itself would crash
            self._db.close()
        os.close(self._lock_handle)

    def claim(
        self,
        request: TaskRequest,
        *parties: str,
        epoch: int = 1,
        seqs: Mapping[str, int] | None = None,
        again: bool = False,
    ) -> bool:
        """Take an execution for all of ``parties``; False, and none taken, when one was taken before.

        Args:
            epoch: how often the execution was taken, by this node or another.
            seqs: the number of each party's last event at an earlier owner.
            again: take it also when it was taken before: its owner since then is gone.
        """
        ids = (request.task_request_id, request.task_id, request.subtask_id)
        common = (*ids, json.dumps(request.params), epoch, time.time())
        try:
            with self._transaction(durable=False) as db:
                db.executemany(
                    f"{'REPLACE' if again else 'INSERT'} INTO executions (execution_id, party, last_seq,"
                    " task_request_id, task_id, subtask_id, params, epoch, taken_at)"
                    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                    [
                        (request.execution_id, party, (seqs or {}).get(party, 0), *common)
                        for party in parties
                    ],
                )
        except sqlite3.IntegrityError:
            return False
        return True

    def status(self, execution_id: str, party: str) -> Status | None:
        """The status of an execution at a party; None when it was never taken, or another node has it."""
        row = self._row(
            "SELECT status FROM executions WHERE execution_id = ? AND party = ?",
            execution_id,
            party,
        )
        return Status(row[0]) if row and row[0] != _TAKEN_OVER else None

    def knows(self, execution_id: str, party: str) -> bool:
        """Whether an execution was ever taken here."""
        query = "SELECT 1 FROM executions WHERE execution_id = ? AND party = ?"
        return self._row(query, execution_id, party) is not None

    def taken_at(self, execution_id: str) -> float:
        """When an execution, which is known here, was taken, in seconds since 1970."""
        query = "SELECT MAX(taken_at) FROM executions WHERE execution_id = ?"
        return float(self._row(query, execution_id)[0])

    def unfinished(self) -> list[TakenExecution]:
        """What was taken and has no terminal event: after a start, what an earlier node process left."""
        return self._executions("status = 'RUNNING'")

    def _executions(self, condition: str, *values: object) -> list[TakenExecution]:
        with self._mutex:
            rows = self._db.execute(
                "SELECT execution_id, task_request_id, params, task_id, subtask_id, party, epoch"
                f" FROM executions WHERE {condition} ORDER BY rowid",
                values,
            ).fetchall()
        return [
            TakenExecution(
                TaskRequest(row[0], row[1], json.loads(row[2]), row[3], row[4]), row[5], row[6]
            )
            for row in rows
        ]

    def keep_result(self, execution_id: str, party: str, result: Mapping[str, Any]) -> None:
        """Note that a party's outputs are in their places, and its result; not when the disk is full."""
        with suppress(OutputNotWritable):
            self.vote(execution_id, party, result, durable=False)

    def vote(
        self, execution_id: str, party: str, result: Mapping[str, Any], durable: bool = True
    ) -> None:
        """As `keep_result`, for a party that other nodes will rely on; raises `OutputNotWritable`."""
        try:
            with self._transaction(durable) as db:
                values = (execution_id, party, json.dumps(result))
                db.execute("REPLACE INTO results VALUES (?, ?, ?)", values)
        except sqlite3.OperationalError as error:
            raise OutputNotWritable(party=party) from error

    def decide(self, execution_id: str) -> None:
        """Note for good that an execution between nodes has succeeded; raises `OutputNotWritable`."""
        try:
            with self._transaction(durable=True) as db:
                db.execute("REPLACE INTO decisions VALUES (?, ?)", (execution_id, time.time()))
        except sqlite3.OperationalError as error:
            raise OutputNotWritable("The success could not be stored.") from error

    def decided(self, execution_id: str) -> bool:
        """Whether `decide` was called."""
        return self._row("SELECT 1 FROM decisions WHERE execution_id = ?", execution_id) is not None

    def taken(self, execution_id: str) -> list[TakenExecution]:
        """An execution at each of its parties here, ended or not."""
        return self._executions("execution_id = ?", execution_id)

    def forget_result(self, execution_id: str, party: str) -> None:
        """Undo `keep_result`."""
        with suppress(sqlite3.OperationalError), self._transaction(durable=False) as db:
            db.execute(
                "DELETE FROM results WHERE execution_id = ? AND party = ?", (execution_id, party)
            )

    def result(self, execution_id: str, party: str) -> dict[str, Any] | None:
        """A party's result, from its vote to its terminal event."""
        query = "SELECT result FROM results WHERE execution_id = ? AND party = ?"
        row = self._row(query, execution_id, party)
        return dict(json.loads(row[0])) if row else None

    def agreed_result(self, execution_id: str, party: str) -> dict[str, Any] | None:
        """A party's result, when no party here that has not ended lacks one, and none has failed."""
        row = self._row(
            "SELECT result FROM results WHERE execution_id = ?1 AND party = ?2 AND NOT EXISTS ("
            "SELECT * FROM executions LEFT JOIN results USING (execution_id, party) WHERE execution_id = ?1"
            " AND (status = 'FAILURE' OR (status = 'RUNNING' AND result IS NULL)))",
            execution_id,
            party,
        )
        return dict(json.loads(row[0])) if row else None

    def failure(self, execution_id: str) -> Mapping[str, Any] | None:
        """The data of the FAILURE event of any party of an execution, while that is kept."""
        with self._mutex:
            rows = self._db.execute(
                "SELECT body FROM events WHERE execution_id = ? ORDER BY number DESC",
                (execution_id,),
            )
            events = (StatusEvent.from_json(body) for (body,) in rows)
            return next((event.data for event in events if event.status is Status.FAILURE), None)

    def append(self, event: StatusEvent) -> StatusEvent | None:
        """Number an event of a taken execution and keep it until it is sent; None when it is not kept.

        That is so after the execution's end, and for progress when too much waits already.
        """
        if not event.status.terminal and self.waiting() >= self._maxlen:
            self.dropped += 1
            return None
        return next(iter(self.append_all([event])), None)

    def append_all(self, events: Iterable[StatusEvent]) -> list[StatusEvent]:
        """As `append`, for the terminal events of an execution at all parties: all are kept, or none."""
        with self._mutex:
            held = {_key(unsent.event) for unsent in self._held}
            events = [event for event in events if _key(event) not in held]
            try:
                with self._transaction(
                    durable=any(event.status.terminal for event in events)
                ) as db:
                    kept = [_store(db, event) for event in events]
                self._waiting += sum(event is not None for event in kept)
            except sqlite3.OperationalError:
                kept = [self._hold(event) if event.status.terminal else None for event in events]
            return [event for event in kept if event is not None]

    def _hold(self, event: StatusEvent) -> StatusEvent | None:
        row = self._row(
            "SELECT last_seq, epoch FROM executions"
            " WHERE execution_id = ? AND party = ? AND status = 'RUNNING'",
            *_key(event),
        )
        if row is None:
            return None
        numbered = replace(event, seq=row[0] + 1)
        self._held.append(Unsent(self._next_held, row[1], numbered))
        self._next_held += 1
        return numbered

    def waiting(self) -> int:
        """How many events Redis does not have yet."""
        return self._waiting + len(self._held)

    def _count_waiting(self) -> None:
        self._waiting = int(self._row("SELECT COUNT(*) FROM events WHERE sent_at IS NULL")[0])

    def unsent(self, limit: int) -> list[Unsent]:
        """The oldest events that Redis does not have, in order."""
        with self._mutex:
            rows = self._db.execute(
                "SELECT number, epoch, body FROM events WHERE sent_at IS NULL ORDER BY number LIMIT ?",
                (limit + len(self._sent),),
            ).fetchall()
            stored = [
                Unsent(number, epoch, StatusEvent.from_json(body)) for number, epoch, body in rows
            ]
            waiting = [
                unsent for unsent in [*stored, *self._held] if unsent.number not in self._sent
            ]
            return waiting[:limit]

    def mark_sent(self, numbers: Iterable[int]) -> None:
        """Redis has these events: forget them after a while."""
        with self._mutex:
            self._sent.update(numbers)
            try:
                self._note_sent(time.time())
            except sqlite3.OperationalError:
                return  # the next time, when the disk has room again
            self._sent.clear()
            self._held.clear()

    def _note_sent(self, now: float) -> None:
        with self._transaction(durable=False) as db:
            sent = [(now, number) for number in self._sent]
            noted = db.executemany(
                "UPDATE events SET sent_at = ? WHERE number = ? AND sent_at IS NULL", sent
            ).rowcount
            db.execute("DELETE FROM events WHERE sent_at < ?", (now - _KEPT_SECONDS,))
            for number, epoch, event in (
                (held.number, held.epoch, held.event) for held in self._held
            ):
                db.execute(
                    "UPDATE executions SET last_seq = ?, status = ? WHERE execution_id = ? AND party = ?",
                    (event.seq, event.status.value, *_key(event)),
                )
                db.execute(
                    "INSERT INTO events (execution_id, party, epoch, body, sent_at) VALUES (?, ?, ?, ?, ?)",
                    (*_key(event), epoch, event.to_json(), now if number in self._sent else None),
                )
                noted -= number not in self._sent
        self._waiting -= noted

    def rewind(self) -> int:
        """Make the events that were sent in the last minutes unsent again; returns the highest number."""
        with self._transaction(durable=False) as db:
            db.execute("DELETE FROM events WHERE sent_at < ?", (time.time() - _KEPT_SECONDS,))
            db.execute("UPDATE events SET sent_at = NULL")
            highest = int(db.execute("SELECT COALESCE(MAX(number), 0) FROM events").fetchone()[0])
        self._count_waiting()
        return highest

    def give_up(self, execution_id: str, party: str, epoch: int) -> None:
        """The execution was taken over since ``epoch``: nothing more is kept of it here but what is newer."""
        these = "WHERE execution_id = ? AND party = ? AND epoch <= ?"
        with self._transaction(durable=False) as db:
            values = (execution_id, party, epoch)
            db.execute(f"UPDATE executions SET status = ? {these}", (_TAKEN_OVER, *values))
            db.execute(f"DELETE FROM events {these}", values)
        self._count_waiting()

    def forget_old(self) -> None:
        """Forget what ended long ago."""
        with self._transaction(durable=False) as db:
            db.execute(
                "DELETE FROM executions WHERE status != 'RUNNING' AND taken_at < ?",
                (time.time() - _REMEMBERED_SECONDS,),
            )
            db.execute(
                "DELETE FROM decisions WHERE decided_at < ?", (time.time() - _REMEMBERED_SECONDS,)
            )

    def _row(self, query: str, *values: object) -> Any:
        with self._mutex:
            return self._db.execute(query, values).fetchone()

    @contextmanager
    def _transaction(self, durable: bool) -> Iterator[sqlite3.Connection]:
        with self._mutex:
            self._db.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
            except BaseException:
                if self._db.in_transaction:  # a full disk ends it by itself
                    self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")


def _store(db: sqlite3.Connection, event: StatusEvent) -> StatusEvent | None:
    row = db.execute(
        "UPDATE executions SET last_seq = last_seq + 1, status = ?"
        " WHERE execution_id = ? AND party = ? AND status = 'RUNNING' RETURNING last_seq, epoch",
        (event.status.value, *_key(event)),
    ).fetchone()
    if row is None:
        return None
    numbered = replace(event, seq=row[0])
    db.execute(
        "INSERT INTO events (execution_id, party, epoch, body) VALUES (?, ?, ?, ?)",
        (*_key(event), row[1], numbered.to_json()),
    )
    if event.status.terminal:
        db.execute("DELETE FROM results WHERE execution_id = ? AND party = ?", _key(event))
    return numbered


def _key(event: StatusEvent) -> tuple[str, str]:
    return event.execution_id, event.party
