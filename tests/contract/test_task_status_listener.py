"""The listener on a real Redis keeps every event once, whatever goes away, dies or is nonsense."""

from __future__ import annotations

import signal
import sqlite3
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Iterator

import pytest
from redis import Redis, RedisError
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from structlog.testing import capture_logs

from secretflow_task.broker.keys import STREAM
from secretflow_task.contract.messages import Status, StatusEvent
from secretflow_task.listener import database as database_module
from secretflow_task.listener import task_status_listener
from secretflow_task.listener.database import Database
from secretflow_task.listener.group import Group
from secretflow_task.listener.task_status_listener import TaskStatusListener
from tests.bench.redis import RedisServer
from tests.bench.waiting import PATIENCE_SECONDS, wait_for
from tests.contract.listening import ListenerProcess
from tests.contract.postgresql import PostgresServer
from tests.contract.status_events import (
    execution,
    expected_ends,
    expected_events,
    stored_ends,
    stored_events,
)

EVENTS = [*execution("e-1", count=6), *execution("e-1", "bob", count=4, ends=Status.FAILURE)]


def publish(redis: Any, events: list[StatusEvent]) -> None:
    """Put events into the stream, as a node does."""
    for event in events:
        redis.xadd(STREAM, {"event": event.to_json()})


def holds(database: Database, events: list[StatusEvent]) -> bool:
    """Whether the database is there and holds exactly these, with the right ends."""
    try:
        if len(stored_events(database)) < len(events):
            return False
    except DBAPIError:
        return False
    assert stored_events(database) == expected_events(events)
    assert stored_ends(database) == expected_ends(events)
    return True


@contextmanager
def running(listener: TaskStatusListener) -> Iterator[None]:
    """The listener in a thread."""
    thread = threading.Thread(target=listener.run)
    thread.start()
    try:
        yield
    finally:
        listener.stop()
        thread.join(PATIENCE_SECONDS)
        assert not thread.is_alive()


@pytest.fixture(name="database")
def _database(database_url: str) -> Iterator[Database]:
    with Database(database_url) as database:
        yield database


@pytest.fixture(name="sqlite")
def _sqlite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Database]:
    monkeypatch.setattr(database_module, "_BUSY_SECONDS", 0.2)
    with Database(f"sqlite:///{tmp_path / 'status.sqlite'}") as opened:
        yield opened


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task_status_listener, "_BLOCK_MILLISECONDS", 50)


def unacknowledged(redis: Any) -> int:
    """How many entries were read and not acknowledged, in all groups."""
    groups = redis.xinfo_groups(STREAM)
    return sum(int(group["pending"]) for group in groups)


def joined(redis: Any, database: Database) -> str:
    """The database's group, made as a listener makes it."""
    database.upgrade()
    group = Group(redis, database)
    group.join()
    return group.name


def test_what_was_there_and_what_comes_is_written_and_acknowledged(
    raw: Redis, database: Database
) -> None:
    publish(raw, EVENTS[:5])
    with running(TaskStatusListener(raw, database, "one")):
        wait_for(lambda: holds(database, EVENTS[:5]))
        publish(raw, EVENTS[5:])
        wait_for(lambda: holds(database, EVENTS))
        wait_for(lambda: unacknowledged(raw) == 0)


def test_a_listener_goes_on_where_the_last_one_stopped(raw: Redis, database: Database) -> None:
    publish(raw, EVENTS[:5])
    first = TaskStatusListener(raw, database, "one")
    assert [first.step() for _ in range(3)] == [0, 5, 0]
    publish(raw, EVENTS[5:])
    second = TaskStatusListener(raw, database, "one")
    assert [second.step() for _ in range(3)] == [0, 5, 0]
    assert holds(database, EVENTS)


def test_what_was_read_and_not_committed_is_read_again_by_the_same_consumer_first(
    raw: Redis, database: Database
) -> None:
    publish(raw, EVENTS[:5])
    group = joined(raw, database)
    assert raw.xreadgroup(group, "one", {STREAM: ">"}, count=3)  # and dies
    publish(raw, EVENTS[5:])
    listener = TaskStatusListener(raw, database, "one")
    assert [listener.step() for _ in range(4)] == [3, 0, 7, 0]
    assert holds(database, EVENTS) and unacknowledged(raw) == 0


def test_what_was_committed_and_not_acknowledged_is_stored_once(
    raw: Redis, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(raw, EVENTS)
    with monkeypatch.context() as patch:
        patch.setattr(raw, "xack", lambda *_: (_ for _ in ()).throw(RedisError("away")))
        with pytest.raises(RedisError):
            listener = TaskStatusListener(raw, database, "one")
            listener.step()
            listener.step()
    assert unacknowledged(raw) == 10
    assert TaskStatusListener(raw, database, "one").step() == 10
    assert holds(database, EVENTS) and unacknowledged(raw) == 0


def test_what_a_dead_consumer_had_read_is_taken_over(
    raw: Redis, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(raw, EVENTS)
    group = joined(raw, database)
    raw.xreadgroup(group, "dead", {STREAM: ">"}, count=8)
    listener = TaskStatusListener(raw, database, "one")
    assert [listener.step() for _ in range(2)] == [0, 2]  # it may still live
    monkeypatch.setattr(task_status_listener, "_DEAD_MILLISECONDS", 0)
    monkeypatch.setattr(task_status_listener, "_BATCH", 3)
    listener = TaskStatusListener(raw, database, "one")
    assert [listener.step() for _ in range(4)] == [3, 3, 2, 0]
    assert holds(database, EVENTS) and unacknowledged(raw) == 0


def test_consumers_that_are_long_gone_are_forgotten_unless_they_left_something(
    raw: Redis, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(raw, EVENTS)
    group = joined(raw, database)
    raw.xreadgroup(group, "left something", {STREAM: ">"}, count=1)
    raw.xgroup_createconsumer(STREAM, group, "left nothing")
    monkeypatch.setattr(task_status_listener, "_FORGOTTEN_MILLISECONDS", 20)
    time.sleep(0.05)
    TaskStatusListener(raw, database, "one").step()
    names = {consumer["name"] for consumer in raw.xinfo_consumers(STREAM, group)}
    assert names == {b"left something", b"one"}


def test_entries_that_were_trimmed_before_they_were_acknowledged_do_not_come_for_ever(
    raw: Redis, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(raw, EVENTS)
    group = joined(raw, database)
    raw.xreadgroup(group, "one", {STREAM: ">"}, count=3)
    raw.xreadgroup(group, "dead", {STREAM: ">"}, count=3)
    raw.xtrim(STREAM, maxlen=4, approximate=False)
    monkeypatch.setattr(task_status_listener, "_DEAD_MILLISECONDS", 0)
    listener = TaskStatusListener(raw, database, "one")
    assert [listener.step() for _ in range(4)] == [6, 0, 4, 0]
    assert stored_events(database) == expected_events(EVENTS[6:])
    assert (unacknowledged(raw), listener.malformed, listener.stored) == (0, 0, 4)


def test_nonsense_is_counted_logged_and_acknowledged(raw: Redis, database: Database) -> None:
    nonsense = [raw.xadd(STREAM, {"event": "nonsense"}), raw.xadd(STREAM, {b"\xff": b"\xff"})]
    publish(raw, EVENTS)
    listener = TaskStatusListener(raw, database, "one")
    with capture_logs() as records:
        assert [listener.step() for _ in range(3)] == [0, 12, 0]
    assert holds(database, EVENTS) and unacknowledged(raw) == 0
    (record,) = [record for record in records if record["action"] == "entries_malformed"]
    assert record["entries"] == [position.decode() for position in nonsense]
    assert (record["in_all"], listener.malformed, listener.stored) == (2, 2, 10)


def test_an_event_that_comes_twice_is_stored_once(raw: Redis, database: Database) -> None:
    publish(raw, [*EVENTS, *EVENTS[3:], *EVENTS[:2]])
    listener = TaskStatusListener(raw, database, "one")
    listener.step()
    assert listener.step() == 19
    assert holds(database, EVENTS)


def test_redis_that_comes_back_empty_gets_its_group_again(raw: Redis, database: Database) -> None:
    publish(raw, EVENTS[:5])
    with running(TaskStatusListener(raw, database, "one")):
        wait_for(lambda: holds(database, EVENTS[:5]))
        raw.flushall()
        publish(raw, EVENTS[2:])
        wait_for(lambda: holds(database, EVENTS))


def test_redis_away_and_back(raw: Redis, redis_server: RedisServer, database: Database) -> None:
    publish(raw, EVENTS[:5])
    with capture_logs() as records, running(TaskStatusListener(raw, database, "one")):
        wait_for(lambda: holds(database, EVENTS[:5]))
        redis_server.stop()
        wait_for(lambda: any(record["action"] == "listener_waits" for record in records))
        redis_server.start()
        publish(raw, EVENTS[5:])
        wait_for(lambda: holds(database, EVENTS))
        wait_for(lambda: records[-1]["action"] == "listener_goes_on")
    assert [record["action"] for record in records] == ["listener_waits", "listener_goes_on"]


def test_postgresql_away_and_back(raw: Redis, postgresql: PostgresServer) -> None:
    with Database(postgresql.new_database()) as database:
        publish(raw, EVENTS[:5])
        with capture_logs() as records, running(TaskStatusListener(raw, database, "one")):
            wait_for(lambda: holds(database, EVENTS[:5]))
            postgresql.crash()
            publish(raw, EVENTS[5:])
            wait_for(lambda: any(record["action"] == "listener_waits" for record in records))
            postgresql.start()
            wait_for(lambda: holds(database, EVENTS))


def test_a_database_that_comes_back_without_tables_gets_them_again(
    raw: Redis, database: Database
) -> None:
    publish(raw, EVENTS[:5])
    with running(TaskStatusListener(raw, database, "one")):
        wait_for(lambda: holds(database, EVENTS[:5]))
        with database.engine.begin() as connection:
            for name in ("executions", "events", "alembic_version"):
                connection.execute(text(f"DROP TABLE {name}"))
        publish(raw, EVENTS)
        wait_for(lambda: holds(database, EVENTS))


def test_an_sqlite_that_somebody_else_has_locked_is_waited_for(
    raw: Redis, sqlite: Database
) -> None:
    sqlite.upgrade()
    other = sqlite3.connect(
        str(sqlite.engine.url.database).removeprefix("file:"), isolation_level=None
    )
    other.execute("BEGIN IMMEDIATE")
    publish(raw, EVENTS)
    with capture_logs() as records, running(TaskStatusListener(raw, sqlite, "one")):
        wait_for(lambda: any(record["action"] == "listener_waits" for record in records))
        other.execute("COMMIT")
        wait_for(lambda: holds(sqlite, EVENTS))
    other.close()


def test_several_listeners_share_the_work(
    raw: Redis, redis_server: RedisServer, database: Database
) -> None:
    events = [event for number in range(300) for event in execution(f"e-{number}", count=5)]
    publish(raw, events[:750])
    clients = [Redis(unix_socket_path=str(redis_server.socket)) for _ in range(3)]
    listeners = [
        TaskStatusListener(client, database, f"listener-{number}")
        for number, client in enumerate(clients)
    ]
    with running(listeners[0]), running(listeners[1]), running(listeners[2]):
        publish(raw, events[750:])
        wait_for(lambda: holds(database, events))
        wait_for(lambda: unacknowledged(raw) == 0)
    assert sum(listener.stored for listener in listeners) == len(events)
    for client in clients:
        client.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_command_stops_in_order(
    number: signal.Signals,
    raw: Redis,
    redis_server: RedisServer,
    database: Database,
    database_url: str,
    tmp_path: Path,
) -> None:
    publish(raw, EVENTS)
    with ListenerProcess(tmp_path, f"unix://{redis_server.socket}", database_url) as process:
        wait_for(lambda: holds(database, EVENTS))
        assert process.end(number) == 0
    assert unacknowledged(raw) == 0
    assert "listener_stopped" in process.log.splitlines()[-1]


def test_the_command_stops_also_while_redis_and_database_are_away(
    postgresql: PostgresServer, tmp_path: Path
) -> None:
    url = postgresql.url("no_such_database")
    with ListenerProcess(tmp_path, "redis://127.0.0.1:1/0", url) as process:
        wait_for(lambda: "listener_waits" in process.log)
        assert process.end(signal.SIGTERM) == 0
