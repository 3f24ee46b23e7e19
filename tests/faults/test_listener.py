"""The listener, Redis and the database die at random moments under 1,000 events per second."""

from __future__ import annotations

import random
import signal
import time
from pathlib import Path
from typing import Iterator

import pytest

from secretflow_task.listener.database import Database
from tests.contract.listening import Feed, ListenerProcess, executions, wait_for_all
from tests.contract.postgresql import PostgresServer, programs, running_postgresql
from tests.faults.field import redis_of
from tests.faults.report import Report

pytestmark = pytest.mark.faults

EVENTS_PER_SECOND = 1000
MOMENTS_OF_A_LONG_RUN = 50
_REDIS_EVERY = 5
_EMPTY_REDIS_EVERY = 15
_DATABASE_EVERY = 7


@pytest.fixture(name="server", params=["sqlite", "postgresql"])
def _server(request: pytest.FixtureRequest) -> Iterator[PostgresServer | None]:
    binaries = programs()
    if request.param == "sqlite":
        yield None
    elif binaries is None:
        pytest.skip("PostgreSQL is not installed (Debian: postgresql)")
    else:
        with running_postgresql(binaries) as server:
            yield server


@pytest.mark.timeout(1800)
def test_every_event_is_stored_once_and_in_order_whatever_dies(
    server: PostgresServer | None, tmp_path: Path, moments: int, dice: random.Random, report: Report
) -> None:
    deaths = min(MOMENTS_OF_A_LONG_RUN, 3 * moments)
    url = server.new_database() if server else f"sqlite:///{tmp_path / 'status.sqlite'}"
    redis = redis_of(tmp_path, keeps_data=True)
    with (
        redis.running(),
        redis.client() as client,
        ListenerProcess(tmp_path, redis.url, url) as process,
        Feed(client, executions(dice, 1_000_000), EVENTS_PER_SECOND) as feed,
    ):
        for moment in range(1, deaths + 1):
            time.sleep(dice.uniform(0.2, 2.0))
            if moment % _REDIS_EVERY == 0:
                redis.kill()
                time.sleep(dice.uniform(0.1, 1.0))
                redis.start()
            if server and moment % _DATABASE_EVERY == 0:
                server.crash()
                server.start()
            if moment % _EMPTY_REDIS_EVERY == 0:
                feed.lose_and_repeat()
            time.sleep(dice.uniform(0.0, 1.5))
            process.end(signal.SIGKILL)
            process.start()
        feed.stop()
        stopped = time.monotonic()
        with Database(url) as database:
            wait_for_all(database, feed.published, seconds=300)
            assert process.end(signal.SIGTERM) == 0
    kind = "PostgreSQL" if server else "SQLite"
    ended = [event for event in feed.published if event.status.terminal]
    report.add(
        f"listener, Redis and {kind} die under load, {deaths} times",
        executions=len({(event.execution_id, event.party) for event in feed.published}),
        terminal=len(ended),
        seconds=time.monotonic() - stopped,
        leftovers=[],
    )
