"""A listener killed under load leaves every event once, in order, with the right ends."""

from __future__ import annotations

import random
import signal
import time
from pathlib import Path

from secretflow_task.listener.database import Database
from tests.bench.redis import RedisServer
from tests.contract.listening import Feed, ListenerProcess, executions, wait_for_all

MOMENTS = 3
EVENTS_PER_SECOND = 300


def test_a_listener_that_is_killed_loses_and_doubles_nothing(
    redis: object, redis_server: RedisServer, database_url: str, tmp_path: Path
) -> None:
    del redis  # it is empty
    dice = random.Random(6)
    address = f"unix://{redis_server.socket}"
    with (
        redis_server.client() as client,
        ListenerProcess(tmp_path, address, database_url) as process,
        Feed(client, executions(dice, 10_000), EVENTS_PER_SECOND) as feed,
    ):
        for _ in range(MOMENTS):
            time.sleep(dice.uniform(0.8, 1.8))  # at the first it may not have made the tables
            process.end(signal.SIGKILL)
            process.start()
        feed.stop()
        with Database(database_url) as database:
            wait_for_all(database, feed.published)
            assert process.end(signal.SIGTERM) == 0
