"""Tasks that nobody waits for are held until they end, and can be cancelled together."""

from __future__ import annotations

import asyncio
import gc

from secretflow_task.node.link.peer.tasks import Tasks


def test_a_task_is_held_until_it_ends() -> None:
    async def scenario() -> list[str]:
        tasks, done = Tasks(), []
        go_on = asyncio.Event()

        async def work() -> None:
            await go_on.wait()
            done.append("done")

        tasks.start(work())
        await asyncio.sleep(0)
        gc.collect()
        go_on.set()
        await tasks.wait(30)
        return done + [str(len(tasks._running))]

    assert asyncio.run(scenario()) == ["done", "0"]


def test_those_that_do_not_end_are_cancelled_together() -> None:
    async def scenario() -> list[bool]:
        tasks = Tasks()
        started = [tasks.start(asyncio.sleep(1e6)) for _ in range(3)]
        await tasks.wait(0)
        assert not any(task.done() for task in started)
        tasks.cancel()
        await asyncio.gather(*started, return_exceptions=True)
        return [task.cancelled() for task in started]

    assert asyncio.run(scenario()) == [True] * 3


def test_nothing_is_waited_for_when_nothing_runs() -> None:
    asyncio.run(Tasks().wait(1e6))
