"""Every event of the node, until Redis has it and for a while after."""

from __future__ import annotations

import sqlite3
import time
from dataclasses import replace
from pathlib import Path
from typing import Iterable

from secretflow_task.contract.messages import StatusEvent
from secretflow_task.node.publisher import Unsent
from secretflow_task.node.store.database import StoreDatabase
from secretflow_task.node.store.executions import TAKEN_OVER

_KEPT_SECONDS = 600.0  # how long a sent event is kept, for a Redis that comes back without it
_FIRST_HELD = 2**62  # numbers of what is held in memory come after all stored ones


class EventOutbox(StoreDatabase):
    """The table of events, and in memory what the disk had no room for.

    Attributes:
        dropped: how many events were dropped, since too many waited, in the life of this process.
    """

    def __init__(self, folder: Path, maxlen: int) -> None:
        super().__init__(folder)
        self._maxlen = maxlen
        # What the disk had no room for: terminal events, and which numbers Redis has.
        self._held: list[Unsent] = []
        self._next_held = _FIRST_HELD
        self._sent: set[int] = set()
        self.dropped = 0
        self._waiting = 0
        self._count_waiting()

    def append(self, event: StatusEvent) -> StatusEvent | None:
        """Number an event of a taken execution and keep it until it is sent; None when it is not
        kept.

        That is so after the execution's end, and for progress when too much waits already.
        """
        if not event.status.terminal and self.waiting() >= self._maxlen:
            self.dropped += 1
            return None
        return next(iter(self.append_all([event])), None)

    def append_all(self, events: Iterable[StatusEvent]) -> list[StatusEvent]:
        """As `append`, for the terminal events of an execution at all parties: all are kept, or
        none.
        """
        with self._mutex:
            held = {_key(unsent.event) for unsent in self._held}
            events = [event for event in events if _key(event) not in held]
            durable = any(event.status.terminal for event in events)
            try:
                with self._transaction(durable) as db:
                    stored = [_store(db, event) for event in events]
            except sqlite3.OperationalError:
                ends = [event for event in events if event.status.terminal]
                return [event for event in map(self._hold, ends) if event is not None]
            kept = [event for event in stored if event is not None]
            self._waiting += len(kept)
            return kept

    def _hold(self, event: StatusEvent) -> StatusEvent | None:
        row = self._row(
            "SELECT last_seq, epoch FROM executions"
            " WHERE execution_id = ? AND party = ? AND status = 'RUNNING'",
            *_key(event),
        )
        if row is None:
            return None
        last_seq, epoch = row
        numbered = replace(event, seq=last_seq + 1)
        self._held.append(Unsent(self._next_held, epoch, numbered))
        self._next_held += 1
        return numbered

    def waiting(self) -> int:
        """How many events Redis does not have yet."""
        return self._waiting + len(self._held)

    def _count_waiting(self) -> None:
        self._waiting = int(self._row("SELECT COUNT(*) FROM events WHERE sent_at IS NULL")[0])

    def unsent(self, limit: int) -> list[Unsent]:
        """The oldest events that Redis does not have, in order."""
        query = (
            "SELECT number, epoch, body FROM events WHERE sent_at IS NULL ORDER BY number LIMIT ?"
        )
        with self._mutex:
            rows = self._rows(query, limit + len(self._sent))
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
        """Write down what is sent, and what was held meanwhile."""
        sent = [(now, number) for number in self._sent]
        with self._transaction(durable=False) as db:
            fewer = db.executemany(
                "UPDATE events SET sent_at = ? WHERE number = ? AND sent_at IS NULL", sent
            ).rowcount
            db.execute("DELETE FROM events WHERE sent_at < ?", (now - _KEPT_SECONDS,))
            for held in self._held:
                is_sent = held.number in self._sent
                _store_held(db, held, now if is_sent else None)
                if not is_sent:
                    fewer -= 1
        self._waiting -= fewer

    def rewind(self) -> int:
        """Make the events that were sent in the last minutes unsent again; returns the highest
        number.
        """
        with self._transaction(durable=False) as db:
            db.execute("DELETE FROM events WHERE sent_at < ?", (time.time() - _KEPT_SECONDS,))
            db.execute("UPDATE events SET sent_at = NULL")
            highest = int(db.execute("SELECT COALESCE(MAX(number), 0) FROM events").fetchone()[0])
        self._count_waiting()
        return highest

    def give_up(self, execution_id: str, party: str, epoch: int) -> None:
        """The execution was taken over since ``epoch``: nothing more is kept of it here but what is
        newer.
        """
        these = "WHERE execution_id = ? AND party = ? AND epoch <= ?"
        values = (execution_id, party, epoch)
        with self._transaction(durable=False) as db:
            db.execute(f"UPDATE executions SET status = ? {these}", (TAKEN_OVER, *values))
            db.execute(f"DELETE FROM events {these}", values)
        self._count_waiting()


def _store(db: sqlite3.Connection, event: StatusEvent) -> StatusEvent | None:
    row = db.execute(
        "UPDATE executions SET last_seq = last_seq + 1, status = ?"
        " WHERE execution_id = ? AND party = ? AND status = 'RUNNING' RETURNING last_seq, epoch",
        (event.status.value, *_key(event)),
    ).fetchone()
    if row is None:
        return None
    seq, epoch = row
    numbered = replace(event, seq=seq)
    db.execute(
        "INSERT INTO events (execution_id, party, epoch, body) VALUES (?, ?, ?, ?)",
        (*_key(event), epoch, numbered.to_json()),
    )
    if event.status.terminal:
        db.execute("DELETE FROM results WHERE execution_id = ? AND party = ?", _key(event))
    return numbered


def _store_held(db: sqlite3.Connection, held: Unsent, sent_at: float | None) -> None:
    event = held.event
    db.execute(
        "UPDATE executions SET last_seq = ?, status = ? WHERE execution_id = ? AND party = ?",
        (event.seq, event.status.value, *_key(event)),
    )
    db.execute(
        "INSERT INTO events (execution_id, party, epoch, body, sent_at) VALUES (?, ?, ?, ?, ?)",
        (*_key(event), held.epoch, event.to_json(), sent_at),
    )


def _key(event: StatusEvent) -> tuple[str, str]:
    return event.execution_id, event.party
