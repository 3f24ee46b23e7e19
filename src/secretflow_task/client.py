"""Sending requests and following them, for a web application or the command line."""

from __future__ import annotations

import time
from typing import Any, Iterable, Iterator

from secretflow_task.broker.celery_app import CANCEL_COMMAND, SENT_AT, TASK_NAME, create_app
from secretflow_task.broker.connection import connect
from secretflow_task.broker.keys import CANCEL_SECONDS, STREAM, cancel_key, record_key
from secretflow_task.broker.nodes import living_nodes
from secretflow_task.broker.queue import Waiting, waiting_in
from secretflow_task.broker.replicas import is_replicated
from secretflow_task.config.settings import Settings
from secretflow_task.contract.messages import StatusEvent
from secretflow_task.contract.requests import TaskRequest

_BATCH = 1000
_CONTROL_SECONDS = 1.0  # how long the nodes may take to answer a command


class Client:
    """Talks to nodes through their Redis.

    Attributes:
        replicated: whether a replica has what was sent or cancelled last, so that it outlives the
            server; None for a Redis without replicas.
    """

    def __init__(self, settings: Settings) -> None:
        self._app = create_app(settings)
        self._queue = settings.queues[0]
        self._redis = connect(settings, decode_responses=True)
        self.replicated: bool | None = None

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_exc: object) -> None:
        self._redis.connection_pool.disconnect()
        self._app.close()

    def submit(self, request: TaskRequest, queue: str | None = None) -> None:
        """Send a request to a queue; with replicas, wait up to a second until one of them has it.

        Raises:
            redis.RedisError, kombu.exceptions.OperationalError: Redis cannot be reached.
        """
        ids = {
            "execution_id": request.execution_id,
            "task_id": request.task_id,
            "subtask_id": request.subtask_id,
        }
        arguments = [request.task_request_id, {**request.params, **ids}]
        self._app.send_task(
            TASK_NAME,
            args=arguments,
            queue=queue,
            argsrepr="(...)",
            headers={SENT_AT: time.time()},
            retry=False,
        )
        self.replicated = is_replicated(self._redis)

    def cancel(self, execution_id: str) -> bool:
        """Cancel an execution, also one that is still in the queue or not yet sent.

        Returns:
            Whether a node was running it. If not, it ends as `TaskCancelled` where it waits, or
            when it comes within a day; one that has ended stays as it is.
        """
        self._redis.set(cancel_key(execution_id), "1", ex=CANCEL_SECONDS)
        self.replicated = is_replicated(self._redis)
        answers = self._app.control.broadcast(
            CANCEL_COMMAND,
            arguments={"execution_id": execution_id},
            reply=True,
            timeout=_CONTROL_SECONDS,
        )
        return any(said.get("cancelled") for answer in answers for said in answer.values())

    def result(
        self,
        execution_id: str,
        parties: Iterable[str],
        timeout_seconds: float = 3600.0,
        since: str = "0",
    ) -> dict[str, StatusEvent]:
        """The terminal event of each of ``parties``; waits for those that have not ended.

        Of a result that is too large for an event it has the head, with `truncated` and the size
        and digest of the whole, which `sfworker result` prints at its node.

        Raises:
            TimeoutError: not all ended within the timeout.
        """
        wanted, ended = set(parties), dict[str, StatusEvent]()
        for event in self.events(execution_id, since, timeout_seconds):
            if event is not None and event.status.terminal:
                ended[event.party] = event
                if wanted <= ended.keys():
                    break
        return {party: ended[party] for party in sorted(wanted)}

    def newest(self, execution_id: str, parties: Iterable[str]) -> dict[str, StatusEvent | None]:
        """The newest event of an execution at those of ``parties`` that have taken it.

        None where nothing was told yet, or so long ago that the stream has dropped it.
        """
        found: dict[str, StatusEvent | None] = {}
        for party in parties:
            record: Any = self._redis.hgetall(record_key(execution_id, party))
            if record:
                found[party] = self._event_at(record.get("at"))
        return found

    def _event_at(self, position: str | None) -> StatusEvent | None:
        if position is None:
            return None
        entries: Any = self._redis.xrange(STREAM, position, position)
        if not entries:
            return None
        return StatusEvent.from_json(entries[0][1]["event"])

    def hosted(self, parties: Iterable[str], queue: str | None = None) -> set[str] | None:
        """Those of ``parties`` that some living node on a queue hosts; None if no node says so."""
        wanted = queue or self._queue
        nodes = [node for node in living_nodes(self._redis) if wanted in node.get("queues", ())]
        if not nodes:
            return None
        return {
            party
            for party in parties
            if any(not node["parties"] or party in node["parties"] for node in nodes)
        }

    def waiting(self, queue: str | None = None) -> list[Waiting]:
        """The requests of a queue that are taken next, in order, `queue.MOST` of them at most."""
        return waiting_in(self._redis, queue or self._queue)

    def place(self, execution_id: str, queue: str | None = None) -> int | None:
        """In which place an execution waits, 1 for the next; None if the queue has it not."""
        for each in self.waiting(queue):
            if each.execution_id == execution_id:
                return each.place
        return None

    def position(self) -> str:
        """The present end of the status stream, from which `events` can follow what comes."""
        newest: Any = self._redis.xrevrange(STREAM, count=1)
        return str(newest[0][0]) if newest else "0"

    def events(
        self, execution_id: str, since: str = "0", timeout_seconds: float = 3600.0
    ) -> Iterator[StatusEvent | None]:
        """The events of an execution as they come, and None when there is no more for the moment.

        Raises:
            TimeoutError: nothing ended the iteration within the timeout.
        """
        deadline = time.monotonic() + timeout_seconds
        while time.monotonic() < deadline:
            answer: Any = self._redis.xread({STREAM: since}, count=_BATCH, block=1000)
            entries = answer[0][1] if answer else []
            for position, fields in entries:
                since = position
                event = StatusEvent.from_json(fields["event"])
                if event.execution_id == execution_id:
                    yield event
            if len(entries) < _BATCH:
                yield None
        raise TimeoutError(f"No end of {execution_id} was seen within {timeout_seconds:g} s.")
