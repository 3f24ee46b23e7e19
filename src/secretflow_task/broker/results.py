"""Celery's result backend on our own connections; a node stores results as well as it can.

How an execution ended is told by its status events. Celery's result is for applications that ask
Celery for it: no trouble with it may keep a request from being acknowledged, or its slot from the
next one.
"""

from __future__ import annotations

import queue
import threading
import time
from contextlib import suppress
from functools import partial
from typing import Any, Callable, ClassVar

from celery.backends.redis import RedisBackend
from redis import Redis
from redis.exceptions import NoPermissionError

from secretflow_task.broker.connection import pool_of
from secretflow_task.utils.log import get_logger

log = get_logger()

_TIMEOUT_SECONDS = 5.0
_RETRY_SECONDS = 1.0
_KEEP_SECONDS = 120.0  # how long a result is tried to be stored
_WAITING = 200  # results; each may hold its request
_FAREWELL_SECONDS = 3.0


class ResultBackend(RedisBackend):  # type: ignore[misc]  # Celery has no types
    """Celery's backend, whose connections are made as all of ours are."""

    def _create_client(self, **_parameters: Any) -> Redis:
        address = self._transport_options["address"]
        return Redis.from_pool(pool_of(address, socket_timeout=_TIMEOUT_SECONDS))

    def remove_pending_result(self, result: Any) -> Any:
        """Called when Python forgets a result, at any moment, when an error reaches nobody."""
        with suppress(Exception):
            super().remove_pending_result(result)
        return result


class _StoringBackend(ResultBackend):
    """Tries once: a `ResultWriter` has its own patience."""

    retry_policy: ClassVar[dict[str, int]] = {"max_retries": 0}


def _later(name: str) -> Callable[..., None]:
    def put(self: NodeBackend, *arguments: Any, **options: Any) -> None:
        self.writer.put(partial(getattr(self.storing, name), *arguments, **options))

    return put


class NodeBackend(ResultBackend):
    """Leaves all that a worker writes to a `ResultWriter`."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.storing = _StoringBackend(*arguments, **options)
        self.writer: ResultWriter = self._transport_options["writer"]

    mark_as_started = _later("mark_as_started")
    mark_as_done = _later("mark_as_done")
    mark_as_failure = _later("mark_as_failure")
    mark_as_revoked = _later("mark_as_revoked")
    mark_as_retry = _later("mark_as_retry")
    store_result = _later("store_result")
    on_chord_part_return = _later("on_chord_part_return")


class ResultWriter:
    """A thread that stores results, one after the other; a context manager.

    A result that Redis does not take is tried again for two minutes; then, or when too many wait,
    it is dropped.

    Args:
        on_dropped: called at each result that is dropped.
    """

    def __init__(self, on_dropped: Callable[[], object] = lambda: None) -> None:
        self._on_dropped = on_dropped
        self._waiting: queue.Queue[tuple[float, Callable[[], object]]] = queue.Queue(_WAITING)
        self._closing = threading.Event()
        self._failing = False
        self._thread = threading.Thread(target=self._loop, name="results", daemon=True)

    def __enter__(self) -> ResultWriter:
        self._thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        """Store what can be stored within a few seconds."""
        self._closing.set()
        self.put(lambda: None)  # for a thread that waits for something
        self._thread.join(_FAREWELL_SECONDS)

    def put(self, store: Callable[[], object]) -> None:
        """Store a result later, from any thread; returns at once."""
        try:
            self._waiting.put_nowait((time.monotonic() + _KEEP_SECONDS, store))
        except queue.Full:
            self._drop("TooManyWait")

    def _loop(self) -> None:
        while not (self._closing.is_set() and self._waiting.empty()):
            deadline, store = self._waiting.get()
            while not self._stored(store, deadline):
                self._closing.wait(_RETRY_SECONDS)

    def _stored(self, store: Callable[[], object], deadline: float) -> bool:
        """Whether nothing is left to do for a result."""
        try:
            store()
        except NoPermissionError as error:  # that does not pass
            self._drop(type(error).__name__)
            return True
        except Exception as error:  # pylint: disable=broad-exception-caught
            # Without this thread no result would be stored any more.
            self._note(type(error).__name__)
            if time.monotonic() < deadline and not self._closing.is_set():
                return False
            self._drop(type(error).__name__)
            return True
        if self._failing:
            self._failing = False
            log.info("Celery's results are stored again.", action="results_go_on")
        return True

    def _drop(self, problem: str) -> None:
        self._note(problem)
        self._on_dropped()

    def _note(self, problem: str) -> None:
        """Log the first failure of an outage."""
        if not self._failing:
            self._failing = True
            log.warning(
                "Celery's results cannot be stored; executions and events go on.",
                action="results_wait",
                problem=problem,
            )
