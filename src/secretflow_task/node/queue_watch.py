"""Ends what is cancelled while it waits in a queue, though the node is busy or takes nothing."""

from __future__ import annotations

import threading
from typing import Any, Callable, Iterable, Protocol

from redis import RedisError

from secretflow_task.broker.celery_tasks import NodeStopping, Outcome
from secretflow_task.broker.keys import cancel_key
from secretflow_task.broker.queue import Waiting, remove, waiting_in
from secretflow_task.contract.requests import TaskRequest
from secretflow_task.utils.log import get_logger, problem_of

log = get_logger()

_LOOK_SECONDS = 5.0
_JOIN_SECONDS = 5.0


class Settler(Protocol):
    """The node."""

    def settle_cancelled(self, request: TaskRequest) -> Outcome:
        """Tell of a request that is not run since it was cancelled.

        Raises:
            NodeStopping: another node should do it.
        """


class QueueWatch:
    """A thread that looks at what waits, every 5 s and when told to; a context manager.

    Of the nodes on a queue one claims what is cancelled and tells of its end, as one takes what is
    delivered. What is removed from the queue has been told of before; a node that had taken it
    meanwhile drops it.

    Args:
        withdrawn: called with what was removed and how it ended, for Celery's own result.
    """

    def __init__(
        self,
        redis: Any,
        queues: Iterable[str],
        node: Settler,
        withdrawn: Callable[[Waiting, Outcome], object] = lambda waiting, outcome: None,
    ) -> None:
        self._redis = redis
        self._queues = tuple(queues)
        self._node = node
        self._withdrawn = withdrawn
        self._wake = threading.Event()
        self._closing = threading.Event()
        self._failing = False
        self._left: set[bytes] = set()  # entries that others have ended
        self._thread = threading.Thread(target=self._loop, name="queue-watch", daemon=True)

    def __enter__(self) -> QueueWatch:
        self._thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._closing.set()
        self._wake.set()
        self._thread.join(_JOIN_SECONDS)

    def wake(self) -> None:
        """Look now: something that does not run here was cancelled."""
        self._wake.set()

    def describe(self, queue: str) -> dict[str, Any]:
        """What waits in a queue, for an operator; raises `redis.RedisError`."""
        return {"waiting": [each.describe() for each in waiting_in(self._redis, queue)]}

    def look(self) -> int:
        """End what is cancelled; returns how many were; raises `redis.RedisError`."""
        waiting = [each for queue in self._queues for each in waiting_in(self._redis, queue)]
        self._left &= {each.text for each in waiting}
        new = [each for each in waiting if each.request and each.text not in self._left]
        return sum(map(self._end, self._cancelled(new)))

    def _cancelled(self, waiting: list[Waiting]) -> list[Waiting]:
        with self._redis.pipeline(transaction=False) as pipeline:
            for each in waiting:
                # Celery's `revoke` names the message.
                names = (each.execution_id, each.celery_id)
                pipeline.exists(*(cancel_key(name) for name in names if name))
            answers = pipeline.execute()
        return [each for each, is_cancelled in zip(waiting, answers) if is_cancelled]

    def _end(self, waiting: Waiting) -> bool:
        assert waiting.request is not None
        outcome = self._node.settle_cancelled(waiting.request)
        if outcome.repeated:  # another node tells of it, and removes it
            self._left.add(waiting.text)
            return False
        if remove(self._redis, waiting):
            self._withdrawn(waiting, outcome)
        return True

    def _loop(self) -> None:
        while True:
            self._wake.wait(_LOOK_SECONDS)
            self._wake.clear()
            if self._closing.is_set():
                return
            try:
                self.look()
                self._failing = False
            except NodeStopping:
                return
            except Exception as error:  # pylint: disable=broad-exception-caught  # it looks again
                if not self._failing and not isinstance(error, RedisError):
                    problem = problem_of(error)
                    log.error(
                        "The queue could not be looked at.",
                        action="queue_not_watched",
                        problem=problem,
                    )
                self._failing = True
