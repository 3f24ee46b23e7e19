"""Tasks of an event loop that nobody waits for."""

from __future__ import annotations

import asyncio
from typing import Any, Coroutine


class Tasks:
    """Holds on to tasks until they end: asyncio itself forgets a task that nobody refers to."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[None]] = set()

    def start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Start a task in the running loop."""
        task = asyncio.get_running_loop().create_task(work)
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return task

    async def wait(self, seconds: float) -> None:
        """Give those that run some time to end."""
        if self._running:
            await asyncio.wait(self._running, timeout=seconds)

    def cancel(self) -> None:
        """Cancel those that run."""
        for task in list(self._running):
            task.cancel()
