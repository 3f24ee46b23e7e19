"""Celery's threads pool, which asks for the next request as soon as a slot is free.

Celery's event loop sleeps up to a second: at the limit of its prefetch it listens to no queue, and
nothing wakes it when a task has ended in a thread. And a request that Celery itself stumbles over
would keep its slot: nobody hears of what a thread of the pool raises.
"""

from __future__ import annotations

import os
from typing import Any, Callable

from billiard.einfo import ExceptionInfo
from celery import Celery, bootsteps
from celery.concurrency.thread import TaskPool

from secretflow_task.node.watchdog import Slots
from secretflow_task.utils.log import get_logger

log = get_logger()


def install(app: Celery, slots: Slots) -> type[TaskPool]:
    """Let the workers of ``app`` wake up for the pool that is returned, which counts ``slots``."""
    woken = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def on_end(_future: object) -> None:
        slots.give_back()
        os.eventfd_write(woken, 1)

    # pylint: disable-next=abstract-method  # of pools of processes
    class PromptPool(TaskPool):  # type: ignore[misc]  # Celery has no types
        """Wakes the event loop when a task has ended and is acknowledged."""

        def on_apply(self, target: Any, *arguments: Any, **options: Any) -> Any:
            """Run a task."""
            slots.take()
            result = super().on_apply(_settling(target), *arguments, **options)
            result.f.add_done_callback(on_end)
            return result

    class Alarm(bootsteps.StartStopStep):  # type: ignore[misc]
        """Lets the event loop, which forgets its files with every lost connection, listen."""

        requires = ("celery.worker.consumer.tasks:Tasks",)

        def start(self, parent: Any) -> None:
            """Listen."""
            parent.hub.add_reader(woken, os.eventfd_read, woken)

    app.steps["consumer"].add(Alarm)
    return PromptPool


def _settling(target: Callable[..., Any]) -> Callable[..., Any]:
    """Celery's function that traces a task, whose own failure counts as that of the task."""

    def traced(*arguments: Any, **options: Any) -> Any:
        try:
            return target(*arguments, **options)
        except Exception as error:  # pylint: disable=broad-exception-caught
            problem = type(error).__name__
            log.exception("Celery could not run a request.", action="task_broke", problem=problem)
            return 1, ExceptionInfo(), 0.0

    return traced
