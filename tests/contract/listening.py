"""`sfworker listen` as a process that can be killed, and nodes faster than real ones."""

from __future__ import annotations

import itertools
import os
import random
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Iterator, Sequence

from redis import RedisError
from sqlalchemy import func, select
from sqlalchemy.exc import DBAPIError

from secretflow_task.broker.keys import STREAM
from secretflow_task.contract.messages import Status, StatusEvent
from secretflow_task.listener.database import Database
from secretflow_task.listener.tables import Event
from tests.bench.waiting import PATIENCE_SECONDS
from tests.contract.status_events import (
    execution,
    expected_ends,
    expected_events,
    stored_ends,
    stored_events,
)

_STEP_SECONDS = 0.02
_PIPELINE = 1000
_AT_ONCE = 60


class ListenerProcess:
    """A process of `sfworker listen`; ended in any case when the block ends."""

    def __init__(self, folder: Path, redis_url: str, database_url: str, *options: str) -> None:
        self._command = [sys.executable, "-m", "secretflow_task", "listen", *options]
        self._log = folder / "listener.log"
        self._environment = os.environ | {
            "SFWORKER_REDIS_URL": redis_url,
            "SFWORKER_DATABASE_URL": database_url,
            "SFWORKER_NAME": "listener",
        }
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> ListenerProcess:
        self.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self.end(signal.SIGKILL)

    @property
    def log(self) -> str:
        """What it has written so far."""
        return self._log.read_text(encoding="utf-8")

    def start(self) -> None:
        """Start it, or start it again."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(self._command, env=self._environment, stderr=log)

    def end(self, number: signal.Signals) -> int:
        """Send it a signal; returns its exit code."""
        assert self._process is not None
        self._process.send_signal(number)
        return self._process.wait(PATIENCE_SECONDS)


def executions(dice: random.Random, count: int) -> Iterator[StatusEvent]:
    """Events of many executions at two parties, dozens at once, as they come to a stream."""
    open_ones: list[list[StatusEvent]] = []
    for number in itertools.count():
        for party in ("alice", "bob"):
            ends = dice.choice([Status.SUCCESS, Status.FAILURE])
            open_ones.append(execution(f"e-{number}", party, dice.randint(1, 20), ends))
        while len(open_ones) >= _AT_ONCE:
            chosen = dice.choice(open_ones)
            yield chosen.pop(0)
            if not chosen:
                open_ones.remove(chosen)
            if (count := count - 1) == 0:
                return


def wait_for_all(
    database: Database, events: Sequence[StatusEvent], seconds: float = PATIENCE_SECONDS
) -> None:
    """Assert that in time the database holds exactly these, in order, with the right ends."""
    deadline = time.monotonic() + seconds
    while _count(database) < len(events) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert stored_events(database) == expected_events(events)
    assert stored_ends(database) == expected_ends(events)


def _count(database: Database) -> int:
    try:
        with database.engine.begin() as connection:
            return int(connection.execute(select(func.count()).select_from(Event)).scalar_one())
    except DBAPIError:
        return 0  # the listener has not come to making its tables


class Feed:
    """Publishes steadily and, like the nodes, again what a Redis that came back may lack."""

    def __init__(self, redis: Any, events: Iterator[StatusEvent], per_second: int) -> None:
        self._redis = redis
        self._events = events
        self._per_second = per_second
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run)
        self.published: list[StatusEvent] = []

    def __enter__(self) -> Feed:
        self._thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Publish no more."""
        self._stopping.set()
        self._thread.join()

    def lose_and_repeat(self) -> None:
        """Empty Redis and publish everything again, as the nodes do for the last minutes."""
        with self._lock:
            self._redis.flushall()
            for start in range(0, len(self.published), _PIPELINE):
                self._send(self.published[start : start + _PIPELINE])

    def _run(self) -> None:
        started = time.monotonic()
        waiting: list[StatusEvent] = []
        while not self._stopping.wait(_STEP_SECONDS):
            due = int((time.monotonic() - started) * self._per_second)
            waiting += itertools.islice(self._events, due - len(self.published) - len(waiting))
            with self._lock, suppress(RedisError):  # perhaps some of it arrived: all is sent again
                self._send(waiting)
                self.published += waiting
                waiting = []

    def _send(self, batch: Sequence[StatusEvent]) -> None:
        with self._redis.pipeline(transaction=False) as pipeline:
            for event in batch:
                pipeline.xadd(STREAM, {"event": event.to_json()})
            pipeline.execute()
