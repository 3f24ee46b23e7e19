"""What the listener costs: from XADD to a visible row, and how many events it sustains.

`python -m tests.performance.benchmark_listener [--seconds N]` prints a table in Markdown. The
listener is a process of its own. A row counts as seen when a query, about every 2 ms, finds it.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from collections import deque
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from redis import Redis
from sqlalchemy import func, select

from secretflow_task.broker.embedded_redis import embedded_redis
from secretflow_task.broker.keys import STREAM
from secretflow_task.listener.database import Database
from secretflow_task.listener.tables import Event
from tests.contract.listening import ListenerProcess, executions
from tests.contract.postgresql import programs, running_postgresql

_RATE = 200
_BULK = 30_000
_LOOK_SECONDS = 0.002


def count(database: Database) -> int:
    """How many events the database has."""
    with database.engine.begin() as connection:
        return int(connection.execute(select(func.count()).select_from(Event)).scalar_one())


class Lookout:
    """Notes when the events that were sent can be seen, the oldest first."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._waiting: deque[tuple[str, float]] = deque()
        self.milliseconds: list[float] = []

    def sent(self, event_id: str) -> None:
        """Wait for this one, too."""
        self._waiting.append((event_id, time.monotonic()))

    def look(self) -> bool:
        """Returns whether some are still waited for."""
        with self._database.engine.begin() as connection:
            while self._waiting:
                event_id, since = self._waiting[0]
                if (
                    connection.execute(select(Event.seq).where(Event.event_id == event_id)).first()
                    is None
                ):
                    break
                self.milliseconds.append(1000 * (time.monotonic() - since))
                self._waiting.popleft()
        time.sleep(_LOOK_SECONDS)
        return bool(self._waiting)


def latencies(redis: Redis, database: Database, seconds: float) -> list[float]:
    """Milliseconds from publish to row at a steady rate, through one thread that does both."""
    lookout, started = Lookout(database), time.monotonic()
    for number, event in enumerate(executions(random.Random(started), int(seconds * _RATE))):
        while time.monotonic() < started + number / _RATE:
            lookout.look()
        lookout.sent(event.event_id)
        redis.xadd(STREAM, {"event": event.to_json()})
    while lookout.look():
        pass
    return lookout.milliseconds


def throughput(redis: Redis, database: Database) -> float:
    """Events per second of what waits in the stream, from the first row to the last."""
    with redis.pipeline(transaction=False) as pipeline:
        for event in executions(random.Random(2), _BULK):
            pipeline.xadd(STREAM, {"event": event.to_json()})
        before, started = count(database), time.monotonic()
        pipeline.execute()
    while count(database) < before + _BULK:
        time.sleep(0.02)
    return _BULK / (time.monotonic() - started)


def measure(name: str, redis_url: str, database_url: str, seconds: float) -> None:
    """Print the row of one database."""
    with (
        tempfile.TemporaryDirectory() as folder,
        Redis.from_url(redis_url) as redis,
        ExitStack() as stack,
    ):
        stack.enter_context(Database(database_url)).upgrade()
        database = stack.enter_context(
            Database(database_url, read_only=True)
        )  # the other locks SQLite
        redis.flushall()
        stack.enter_context(ListenerProcess(Path(folder), redis_url, database_url))
        latencies(redis, database, 2.0)  # until it runs
        took = latencies(redis, database, seconds)
        quantiles = [f"{value:.1f}" for value in np.percentile(took, [50, 99, 100])]
        print(
            f"| {name} | {' | '.join(quantiles)} | {throughput(redis, database):,.0f} |", flush=True
        )


def main() -> None:
    """Measure both databases."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=30.0)
    seconds = parser.parse_args().seconds
    print(
        f"| database | p50 (ms) at {_RATE} per second "
        "| p99 | slowest | events per second sustained |"
    )
    print("|---|---|---|---|---|")
    with embedded_redis() as redis_url, ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        measure("SQLite", redis_url, f"sqlite:///{folder}/status.sqlite", seconds)
        if binaries := programs():
            server = stack.enter_context(running_postgresql(binaries))
            measure("PostgreSQL", redis_url, server.new_database(), seconds)


if __name__ == "__main__":
    main()
