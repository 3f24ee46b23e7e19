"""Celery's threads pool, which asks for the next request as soon as a slot is free.

Celery's event loop sleeps up to a second: at the limit of its prefetch it listens to no queue, and
nothing wakes it when a task has ended in a thread.
"""

from __future__ import annotations

import os
from typing import Any

from celery import Celery, bootsteps
from celery.concurrency.thread import TaskPool


def install(app: Celery) -> type[TaskPool]:
    """Let the workers of ``app`` wake up for the pool that is returned."""
    woken = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    class PromptPool(TaskPool):  # type: ignore[misc]  # Celery has no types
        """Wakes the event loop when a task has ended and is acknowledged."""

        def on_apply(self, *arguments: Any, **options: Any) -> Any:
            """Run a task."""
            result = super().on_apply(*arguments, **options)
            result.f.add_done_callback(lambda _future: os.eventfd_write(woken, 1))
            return result

    class Alarm(bootsteps.StartStopStep):  # type: ignore[misc]
        """Lets the event loop, which forgets its files with every lost connection, listen."""

        requires = ("celery.worker.consumer.tasks:Tasks",)

        def start(self, parent: Any) -> None:
            """Listen."""
            parent.hub.add_reader(woken, os.eventfd_read, woken)

    app.steps["consumer"].add(Alarm)
    return PromptPool
