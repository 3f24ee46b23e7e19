"""The event loop hears of every task that ended in a thread (what that gains: `make faults`)."""

from __future__ import annotations

import select
from types import SimpleNamespace
from typing import Any

from celery import Celery

from secretflow_task.node import prompt_pool
from secretflow_task.node.watchdog import Slots
from tests.bench.waiting import PATIENCE_SECONDS


class Hub:
    """What of Celery's event loop is needed."""

    def __init__(self) -> None:
        self.readers: dict[int, tuple[Any, ...]] = {}

    def add_reader(self, file: int, callback: Any, *arguments: Any) -> None:
        """Listen to a file."""
        self.readers[file] = (callback, *arguments)

    def turn(self) -> bool:
        """One turn of the loop; whether it was woken."""
        ready = select.select(list(self.readers), [], [], 5)[0]
        for file in ready:
            callback, *arguments = self.readers[file]
            callback(*arguments)
        return bool(ready)


def test_a_task_that_ends_wakes_the_event_loop_also_after_a_lost_connection() -> None:
    app, slots = Celery(), Slots(1)
    pool = prompt_pool.install(app, slots)(limit=1)
    (step,) = app.steps["consumer"]
    for hub in (Hub(), Hub()):  # Celery makes a new one of the old when it connects again
        parent = SimpleNamespace(hub=hub)
        step(parent).start(parent)
        done: list[str] = []
        result = pool.on_apply(
            done.append, ("ran",), {}, lambda *_: done.append("acknowledged"), None
        )
        result.wait(PATIENCE_SECONDS)
        assert hub.turn() and done == ["ran", "acknowledged"]
    pool.on_stop()
    assert slots.look() == (2, True)


def test_what_celery_stumbles_over_counts_as_a_failed_task() -> None:
    slots = Slots(1)
    pool = prompt_pool.install(Celery(), slots)(limit=1)
    heard: list[Any] = []
    result = pool.on_apply(stumble, (), {}, heard.append, None)
    result.wait(PATIENCE_SECONDS)
    ((failed, problem, _seconds),) = heard
    assert failed and problem.type is KeyError
    assert slots.look() == (1, True)
    pool.on_stop()


def stumble() -> None:
    """As Celery does over a header that it did not expect."""
    raise KeyError("chain")
