"""What is told of an execution: each event is made, stored, counted and announced here."""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import Any, Callable, Iterable, Iterator, Mapping

from secretflow_task.broker.celery_app import TASK_NAME
from secretflow_task.contract.errors import WorkerError
from secretflow_task.contract.messages import ACCEPTED, WAITING_FOR_PEER, Status, StatusEvent
from secretflow_task.contract.requests import TaskRequest
from secretflow_task.node.job.ending import Ending
from secretflow_task.node.kept_results import bounded
from secretflow_task.node.metrics.counters import Metrics
from secretflow_task.node.store.event_store import EventStore
from secretflow_task.utils.log import get_logger

log = get_logger()


class Reporter:
    """Tells how executions go and end; from any thread.

    Args:
        node_name: the ``worker_container`` of the events.
        announce: called with every event after it is stored.
        limit_bytes: what RUNNING and FAILURE may carry; a result was bounded when it was kept.
    """

    def __init__(
        self,
        store: EventStore,
        node_name: str,
        metrics: Metrics,
        announce: Callable[[StatusEvent], object],
        limit_bytes: int,
    ) -> None:
        self._store = store
        self._node_name = node_name
        self._metrics = metrics
        self._announce = announce
        self._limit_bytes = limit_bytes

    def taken(self, request: TaskRequest, sent_at: object) -> None:
        """Count a request; ``sent_at`` is what its sender says."""
        with _counting():
            self._metrics.taken(request.task_type, sent_at)

    def accepted(self, request: TaskRequest, parties: Iterable[str]) -> None:
        """Publish that the node has taken a request for these parties."""
        for party in parties:
            self.running(request, party, {"stage": ACCEPTED, "progress": 0.0})

    def waits(self, request: TaskRequest, parties: Iterable[str], others: list[str]) -> None:
        """Publish that these parties wait for the nodes of ``others``."""
        waiting = {"stage": WAITING_FOR_PEER, "progress": 0.0, "waiting_for": others}
        for party in parties:
            self.running(request, party, waiting)

    def running(self, request: TaskRequest, party: str, data: Mapping[str, Any]) -> None:
        """Publish a RUNNING event."""
        event = self._store.append(self._event(request, party, Status.RUNNING, data))
        if event is not None:
            self._tell(event)

    def failed(self, request: TaskRequest, parties: Iterable[str], error: WorkerError) -> None:
        """Publish the same failure for all of these parties."""
        self.ended(request, dict.fromkeys(parties, Ending.of(error)))

    def ended(self, request: TaskRequest, endings: Mapping[str, Ending]) -> None:
        """Publish the terminal events of all parties here, together."""
        events = [
            self._event(request, party, ending.status, ending.data)
            for party, ending in endings.items()
        ]
        kept = self._store.append_all(events)
        for event in kept:
            self._tell(event)
        if kept:
            with _counting():
                seconds = time.time() - self._store.taken_at(request.execution_id)
                self._metrics.ended(request.task_type, list(endings.values()), seconds)

    def _tell(self, event: StatusEvent) -> None:
        with _counting():
            self._metrics.stored(event)
        self._announce(event)

    def _event(
        self, request: TaskRequest, party: str, status: Status, data: Mapping[str, Any]
    ) -> StatusEvent:
        if status is not Status.SUCCESS:
            data = bounded(data, self._limit_bytes)
        return StatusEvent(
            execution_id=request.execution_id,
            task_request_id=request.task_request_id,
            party=party,
            status=status,
            data=data,
            worker_container=self._node_name,
            task_name=TASK_NAME,
            task_id=request.task_id,
            subtask_id=request.subtask_id,
            task_type=request.task_type,
        )


@contextmanager
def _counting() -> Iterator[None]:
    """Let the block, which counts what happens, not keep it from happening."""
    try:
        yield
    except Exception:  # pylint: disable=broad-exception-caught  # the request matters more
        log.exception("Something could not be counted.", action="counting_failed")
