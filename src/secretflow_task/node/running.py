"""The executions that run now at this node, for whoever would end one."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from typing import Iterator

from secretflow_task.contract.errors import NodeLost, WorkerError
from secretflow_task.contract.requests import TaskRequest
from secretflow_task.node.assignment import Assignment
from secretflow_task.node.link.protocol import Settlement
from secretflow_task.node.store.event_store import EventStore

_STOP_SECONDS = 30.0
_SHUT_DOWN = "The node was shut down."


class RunningExecutions:
    """What runs now; each is ended through the settlement of its parties.

    Attributes:
        closed: nothing is begun any more.
    """

    def __init__(self, store: EventStore) -> None:
        self._store = store
        self._mutex = threading.Lock()
        self._running: dict[str, tuple[Assignment, Settlement]] = {}
        self.closed = False

    @contextmanager
    def registered(self, assignment: Assignment, settlement: Settlement) -> Iterator[None]:
        """Count an execution among those that run, while the block does.

        Raises:
            NodeLost: the node is being shut down.
        """
        with self._mutex:
            if self.closed:
                raise NodeLost(_SHUT_DOWN)
            self._running[assignment.execution_id] = (assignment, settlement)
        try:
            yield
        finally:
            with self._mutex:
                del self._running[assignment.execution_id]

    def requests(self) -> dict[str, tuple[TaskRequest, list[str]]]:
        """By execution its request, and its parties at this node."""
        with self._mutex:
            return {
                execution_id: (assignment.request, assignment.hosted)
                for execution_id, (assignment, _) in self._running.items()
            }

    def end(self, execution_id: str, error: WorkerError) -> bool:
        """End an execution in failure; False when it does not run here, or has ended otherwise."""
        with self._mutex:
            if execution_id not in self._running:
                return False
            _, settlement = self._running[execution_id]
            link = next(iter(settlement.links.values()))
        link.fail(error)
        failure = link.failed  # None when a coordinator elsewhere answers later
        if link.succeeded:  # asked last, since the success may have just come
            return False
        # Else it had ended, though it is still being cleaned up.
        return failure is None or failure.code == error.code

    def abandon(self, execution_id: str, party: str, epoch: int) -> None:
        """Forget an execution silently: a node that took it over after ``epoch`` reports it."""
        self._store.give_up(execution_id, party, epoch)
        self.end(execution_id, NodeLost())

    def close(self) -> None:
        """Begin nothing from now on."""
        with self._mutex:
            self.closed = True

    def end_all(self) -> None:
        """End all that runs, and wait a while until each has been told of."""
        for execution_id in self.requests():
            self.end(execution_id, NodeLost(_SHUT_DOWN))
        deadline = time.monotonic() + _STOP_SECONDS
        while self.requests() and time.monotonic() < deadline:
            time.sleep(0.02)
