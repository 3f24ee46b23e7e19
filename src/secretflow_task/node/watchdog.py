"""Notices that a node takes nothing although requests wait and slots are free, and mends it.

Whatever keeps Celery's consumer from its queue, a new consumer with new connections begins afresh.
What runs is not touched.
"""

from __future__ import annotations

import threading
import time
from typing import Any, Callable

from redis import RedisError

from secretflow_task.broker.keys import queue_keys
from secretflow_task.config.settings import Settings
from secretflow_task.node import lua
from secretflow_task.utils.log import get_logger

log = get_logger()

LOOK_SECONDS = 2.0
STALL_SECONDS = 12.0  # longer than Celery needs for a new connection to a Redis that is well


class Slots:
    """How many requests are in the pool of a node, and how many have ever come.

    A request that waits for its peers is in the pool too.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._mutex = threading.Lock()
        self._busy = 0
        self._taken = 0

    def take(self) -> None:
        """A request has come."""
        with self._mutex:
            self._busy += 1
            self._taken += 1

    def give_back(self) -> None:
        """A request has left."""
        with self._mutex:
            self._busy -= 1

    def look(self) -> tuple[int, bool]:
        """How many requests have ever come, and whether there is place for one more."""
        with self._mutex:
            return self._taken, self._busy < self._limit


class Watchdog:
    """Looks every two seconds; a context manager.

    Args:
        redis: a connection of its own, with short timeouts.
        consuming: whether the node means to take requests now.
        restart: asks the consumer to begin afresh; it may take its time.
    """

    def __init__(
        self,
        settings: Settings,
        redis: Any,
        slots: Slots,
        consuming: Callable[[], bool],
        restart: Callable[[], object],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._keys = [key for queue in settings.queues for key in queue_keys(queue)]
        self._script = redis.register_script(lua.script("heads"))
        self._slots = slots
        self._consuming = consuming
        self._restart = restart
        self._clock = clock
        self._taken = -1
        self._heads: list[Any] = []
        self._since: float | None = None  # when it was first seen to take nothing
        self._stalled = False
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="watchdog", daemon=True)

    def __enter__(self) -> Watchdog:
        self._thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._closing.set()
        self._thread.join(LOOK_SECONDS)

    def stalled(self) -> bool:
        """Whether nothing is taken although it should be."""
        return self._stalled

    def look(self) -> None:
        """Look once, and mend what has lasted too long."""
        if not self._takes_nothing():
            self._since = None
            if self._stalled:
                self._stalled = False
                log.info("Requests are taken again.", action="consumer_goes_on")
            return
        if self._since is None:
            self._since = self._clock()
        if self._clock() - self._since < STALL_SECONDS:
            return
        self._stalled = True
        self._since = self._clock()  # the new one has as much time
        log.error(
            "Requests wait and nothing is taken: the consumer begins afresh.",
            action="consumer_restarted",
        )
        self._restart()

    def _takes_nothing(self) -> bool:
        """Whether a slot is free and requests wait, of which nobody has taken one since the last
        look.
        """
        before, self._taken, has_place = self._taken, *self._slots.look()
        if not has_place or self._taken != before or not self._consuming():
            return False
        try:
            waited, self._heads = self._heads, self._script(self._keys)
        except RedisError:
            return False  # that is told apart from this, and nothing can be taken
        return any(self._heads) and self._heads == waited

    def _loop(self) -> None:
        while not self._closing.wait(LOOK_SECONDS):
            try:
                self.look()
            except Exception:  # pylint: disable=broad-exception-caught
                # Without this thread a stall would last until somebody comes.
                log.exception("The watchdog could not look.", action="watchdog_failed")
