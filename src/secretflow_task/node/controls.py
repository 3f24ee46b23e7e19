"""How a running node is told to pause, to go on and to end: by its door and by signals."""

from __future__ import annotations

import signal
import threading
from contextlib import suppress
from typing import Annotated, Any

from celery import Celery
from celery.worker import state
from pydantic import Field

from secretflow_task.node.health import NODE_PAUSED
from secretflow_task.node.node import Node
from secretflow_task.utils.log import get_logger, problem_of

log = get_logger()

Seconds = Annotated[float, Field(ge=0, le=30 * 24 * 3600)]

_TURN_SECONDS = 5.0  # Celery's event loop turns once a second
_MARK = "paused"  # in the state folder while the node is paused


class Controls:
    """What an operator can do to a node.

    Attributes:
        paused: whether the node takes no requests since its operator wants it so.
    """

    def __init__(self, node: Node, app: Celery) -> None:
        self._node = node
        self._app = app
        self._queues = list(node.settings.queues)
        self._mark = node.settings.state_dir / _MARK
        self._mutex = threading.Lock()
        self._worker: Any = None
        self._signalled = False
        self.paused = self._mark.exists()
        node.health.watch(NODE_PAUSED, lambda: self.paused)

    def begin(self, worker: Any) -> None:
        """Control a worker of Celery that is about to start."""
        self._worker = worker
        if self.paused:
            self._app.amqp.queues.deselect(self._queues)

    def announce(self) -> None:
        """Say in the log that the node has started."""
        queues = self._queues
        if self.paused:
            log.warning(
                "The node is paused, as its operator left it; resumed, it takes requests.",
                action="node_starts_paused",
                queues=queues,
            )
        else:
            log.info("The node takes requests.", action="node_ready", queues=queues)

    def pause(self) -> dict[str, Any]:
        """Take no more requests, also after a new start; what runs goes on."""
        with self._mutex:
            self.paused = True
            self._consume(False)
            running = len(self._node.running())
            log.warning("An operator has paused the node.", action="node_paused", running=running)
            return {"running": running, "kept": self._write_down()}

    def resume(self) -> dict[str, Any]:
        """Take requests again."""
        with self._mutex:
            self.paused = False
            self._consume(True)
            log.info("An operator lets the node take requests again.", action="node_resumed")
            return {"kept": self._write_down()}

    def drain(self, seconds: Seconds | None = None) -> dict[str, Any]:
        """Take no more requests, and end when nothing runs any more.

        Args:
            seconds: after which what still runs is ended; by default never.
        """
        with self._mutex:
            self._consume(False)
        running = len(self._node.running())
        log.warning("An operator lets the node end.", action="node_drains", running=running)
        self._end_within(seconds)
        return {"running": running}

    def reload(self) -> dict[str, Any]:
        """Read the address book again: what has changed in it; nothing without a link to nodes."""
        return {"address_book": self._node.reload()}

    def renew(self) -> dict[str, Any]:
        """Start the next jobs from a new template."""
        self._node.renew()
        return {}

    def on_signal(self, number: int, _frame: object) -> None:
        """End: the first time with what runs ended by `drain_seconds`, then, or by SIGQUIT, now."""
        at_once = self._signalled or number == signal.SIGQUIT
        self._signalled = True
        self._end_within(0.0 if at_once else self._node.settings.drain_seconds)

    def on_hang_up(self, _number: int, _frame: object) -> None:
        """Reload and renew, in a thread: a signal comes at any moment."""
        threading.Thread(target=self._node.hang_up, name="hang-up", daemon=True).start()

    def _end_within(self, seconds: float | None) -> None:
        # Celery takes no more requests, waits for what runs, and ends with this code.
        state.should_stop = 0
        if seconds is None:
            return
        # In a thread: a signal comes at any moment, also when this one holds the node's lock.
        timer = threading.Timer(seconds, self._node.stop)
        timer.daemon = True
        timer.start()

    def _consume(self, consuming: bool) -> None:
        """Let Celery take requests or not, from now on and after its next connection."""
        queues = self._app.amqp.queues
        if consuming:
            queues.select(self._queues)
        else:
            queues.deselect(self._queues)
        if consumer := self._worker.consumer:
            turned = threading.Event()
            consumer.call_soon(self._turn, consumer, consuming, turned)
            turned.wait(_TURN_SECONDS)  # in vain while Redis is away, when nothing is taken anyhow

    def _turn(self, consumer: Any, consuming: bool, turned: threading.Event) -> None:
        """In Celery's thread: do so over the connection that is up, if any.

        A request that Redis hands over after that goes back into the queue.
        """
        with suppress(*consumer.connection_errors, *consumer.channel_errors):
            for name in self._queues:
                if consumer.task_consumer is None:
                    break
                if consuming:
                    consumer.add_task_queue(name)
                else:
                    consumer.task_consumer.cancel_by_queue(name)
        turned.set()

    def _write_down(self) -> bool:
        """Remember over a new start whether the node is paused; whether that was possible."""
        try:
            if self.paused:
                self._mark.touch(mode=0o600)
            else:
                self._mark.unlink(missing_ok=True)
        except OSError as error:
            problem = problem_of(error)
            log.error(
                "Whether the node is paused cannot be written down for its next start.",
                action="pause_not_kept",
                problem=problem,
            )
            return False
        return True
