"""The node's store without a file."""

from __future__ import annotations

import threading
import uuid
from dataclasses import replace
from typing import Iterable, Mapping

from secretflow_task.contract.messages import Status, StatusEvent
from secretflow_task.contract.requests import TaskRequest
from secretflow_task.node.publisher import Unsent
from secretflow_task.node.store.executions import TakenExecution


class MemoryOutbox:
    """An `EventStore` that is gone with its process."""

    def __init__(self, maxlen: int = 100_000) -> None:
        self.node_id = uuid.uuid4().hex
        self.dropped = 0
        self._mutex = threading.Lock()
        self._maxlen = maxlen
        self._executions: dict[tuple[str, str], TakenExecution] = {}
        self._statuses: dict[tuple[str, str], Status | None] = {}
        self._epochs: dict[tuple[str, str], int] = {}
        self._last_seq: dict[tuple[str, str], int] = {}
        self._events: dict[int, Unsent] = {}
        self._sent: set[int] = set()
        self._last_number = 0

    def claim(
        self,
        request: TaskRequest,
        *parties: str,
        epoch: int = 1,
        seqs: Mapping[str, int] | None = None,
        again: bool = False,
    ) -> bool:
        """Take an execution for all of ``parties``; False, and none taken, if one was before."""
        keys = {(request.execution_id, party): party for party in parties}
        with self._mutex:
            if keys.keys() & self._executions.keys() and not again:
                return False
            for key, party in keys.items():
                self._executions[key] = TakenExecution(request, party, epoch)
                self._statuses[key] = Status.RUNNING
                self._epochs[key] = epoch
                self._last_seq[key] = (seqs or {}).get(party, 0)
            return True

    def status(self, execution_id: str, party: str) -> Status | None:
        """The status of an execution at a party; None if not taken, or if another node has it."""
        with self._mutex:
            return self._statuses.get((execution_id, party))

    def knows(self, execution_id: str, party: str) -> bool:
        """Whether an execution was ever taken here."""
        with self._mutex:
            return (execution_id, party) in self._executions

    def unfinished(self) -> list[TakenExecution]:
        """What was taken and has no terminal event."""
        with self._mutex:
            found = []
            for key, execution in self._executions.items():
                if self._statuses[key] is Status.RUNNING:
                    found.append(execution)
            return found

    def append(self, event: StatusEvent) -> StatusEvent | None:
        """Number an event of a taken execution and keep it until sent; None when it is not kept."""
        if not event.status.terminal and self.waiting() >= self._maxlen:
            self.dropped += 1
            return None
        with self._mutex:
            return self._append(event)

    def append_all(self, events: Iterable[StatusEvent]) -> list[StatusEvent]:
        """As `append`, for the terminal events of an execution at all parties."""
        with self._mutex:
            kept = [self._append(event) for event in events]
        return [event for event in kept if event is not None]

    def _append(self, event: StatusEvent) -> StatusEvent | None:
        key = (event.execution_id, event.party)
        if self._statuses.get(key) is not Status.RUNNING:
            return None
        self._statuses[key] = event.status
        self._last_seq[key] += 1
        numbered = replace(event, seq=self._last_seq[key])
        as_stored = StatusEvent.from_json(numbered.to_json())
        self._last_number += 1
        self._events[self._last_number] = Unsent(self._last_number, self._epochs[key], as_stored)
        return numbered

    def waiting(self) -> int:
        """How many events Redis does not have yet."""
        with self._mutex:
            return len(self._events) - len(self._sent)

    def unsent(self, limit: int) -> list[Unsent]:
        """The oldest unsent events, in order."""
        with self._mutex:
            waiting = [number for number in self._events if number not in self._sent]
            return [self._events[number] for number in waiting[:limit]]

    def mark_sent(self, numbers: Iterable[int]) -> None:
        """Redis has these events."""
        with self._mutex:
            self._sent.update(self._events.keys() & set(numbers))

    def rewind(self) -> int:
        """Make all events unsent again; returns the highest number."""
        with self._mutex:
            self._sent.clear()
            return max(self._events, default=0)

    def give_up(self, execution_id: str, party: str, epoch: int) -> None:
        """The execution was taken over since ``epoch``."""
        with self._mutex:
            if self._epochs.get((execution_id, party), 0) <= epoch:
                self._statuses[execution_id, party] = None
            for number, unsent in list(self._events.items()):
                key = (unsent.event.execution_id, unsent.event.party)
                if key == (execution_id, party) and unsent.epoch <= epoch:
                    del self._events[number]
                    self._sent.discard(number)
