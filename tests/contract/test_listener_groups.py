"""Each database gets every event, whoever else reads the stream, and whatever it is restored to."""

from __future__ import annotations

import re
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Iterator

import pytest
from redis import Redis
from sqlalchemy import select
from structlog.testing import capture_logs
from typer.testing import CliRunner

from secretflow_task.broker.keys import GROUP, STREAM
from secretflow_task.broker.listener_groups import listener_groups
from secretflow_task.cli import app
from secretflow_task.cli.listeners import state_and_advice
from secretflow_task.config.settings import Settings
from secretflow_task.listener import task_status_listener
from secretflow_task.listener.database import Database
from secretflow_task.listener.group import group_of, sortable
from secretflow_task.listener.tables import Base
from secretflow_task.listener.task_status_listener import TaskStatusListener
from tests.bench.redis import RedisServer
from tests.bench.waiting import wait_for
from tests.contract.listening import ListenerProcess
from tests.contract.status_events import execution
from tests.contract.test_task_status_listener import holds, joined, publish, running

EVENTS = [event for number in range(4) for event in execution(f"e-{number}", count=5)]
Rows = dict[str, list[dict[str, Any]]]


@pytest.fixture(name="database")
def _database(database_url: str) -> Iterator[Database]:
    with Database(database_url) as database:
        yield database


@pytest.fixture(name="other")
def _other(tmp_path: Path) -> Iterator[Database]:
    with Database(f"sqlite:///{tmp_path / 'other.sqlite'}") as other:
        yield other


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task_status_listener, "_BLOCK_MILLISECONDS", 20)
    monkeypatch.setattr(task_status_listener, "_LOOK_SECONDS", 0.05)


def backup(database: Database) -> Rows:
    """All rows of all tables."""
    tables = Base.metadata.sorted_tables
    with database.engine.begin() as connection:
        return {
            table.name: [dict(row) for row in connection.execute(select(table)).mappings()]
            for table in tables
        }


def restore(database: Database, rows: Rows) -> None:
    """Put all rows back, and remove what came since."""
    database.upgrade()
    with database.engine.begin() as connection:
        for table in Base.metadata.sorted_tables:
            connection.execute(table.delete())
            if rows[table.name]:
                connection.execute(table.insert(), rows[table.name])


def drain(redis: Redis, database: Database, from_start: bool = False) -> TaskStatusListener:
    """Run a listener until it has written all there is."""
    listener = TaskStatusListener(redis, database, "one", from_start)
    nothing = 0
    while nothing < 3:  # of its own, of others, new
        nothing = 0 if listener.step() else nothing + 1
    return listener


def names(redis: Redis) -> list[str]:
    """The groups of listeners."""
    return [group.name for group in listener_groups(redis)]


def test_two_databases_on_one_redis_both_get_every_event(
    raw: Redis, redis_server: RedisServer, database: Database, other: Database
) -> None:
    publish(raw, EVENTS[:5])
    with (
        Redis(unix_socket_path=str(redis_server.socket)) as second,
        running(TaskStatusListener(raw, database, "same name")),
        running(TaskStatusListener(second, other, "same name")),
    ):
        wait_for(lambda: holds(database, EVENTS[:5]) and holds(other, EVENTS[:5]))
        publish(raw, EVENTS[5:])
        wait_for(lambda: holds(database, EVENTS) and holds(other, EVENTS))
    assert sorted(names(raw)) == sorted(str(group_of(one)) for one in (database, other))


def test_a_new_database_begins_with_all_that_the_stream_holds(
    raw: Redis, database: Database, other: Database
) -> None:
    publish(raw, EVENTS)
    drain(raw, other)
    drain(raw, database)
    assert holds(database, EVENTS) and holds(other, EVENTS)


def test_a_database_of_an_earlier_version_loses_and_doubles_nothing(
    raw: Redis, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(raw, EVENTS)
    database.upgrade()
    earlier = backup(database)
    drain(raw, database)
    with database.engine.begin() as connection:  # as the version before left it
        Base.metadata.tables["listener_group"].drop(connection)
        tables = Base.metadata.tables
        for name in ("executions", "events"):
            late = tables[name].c.execution_id.in_(["e-2", "e-3"])
            connection.execute(tables[name].delete().where(late))
    assert not earlier["listener_group"]
    raw.xgroup_destroy(STREAM, names(raw)[0])
    raw.xgroup_create(STREAM, GROUP, id="0")
    raw.xreadgroup(GROUP, "one", {STREAM: ">"}, count=12)  # of these two were not written
    drain(raw, database)
    assert holds(database, EVENTS)
    assert GROUP in names(raw)  # its listener was heard a moment ago
    monkeypatch.setattr("secretflow_task.broker.listener_groups.DEAD_MILLISECONDS", 20)
    time.sleep(0.05)
    drain(raw, database)
    assert names(raw) == [group_of(database)]


def test_a_database_that_is_restored_reads_again_what_it_lacks(
    raw: Redis, database: Database
) -> None:
    publish(raw, EVENTS[:7])
    drain(raw, database)
    before = backup(database)
    publish(raw, EVENTS[7:])
    drain(raw, database)
    restore(database, before)
    with capture_logs() as records:
        drain(raw, database)
    assert holds(database, EVENTS)
    assert [record["action"] for record in records] == ["listener_group_renewed"]
    assert names(raw) == [group_of(database)] != [before["listener_group"][0]["name"]]
    with capture_logs() as records:
        drain(raw, database)
    assert records == []


def test_a_database_that_is_restored_under_two_listeners_gets_everything(
    raw: Redis, redis_server: RedisServer, database: Database
) -> None:
    publish(raw, EVENTS[:7])
    drain(raw, database)
    before = backup(database)
    with ExitStack() as stack:
        for name in ("one", "two"):
            client = stack.enter_context(Redis(unix_socket_path=str(redis_server.socket)))
            stack.enter_context(running(TaskStatusListener(client, database, name)))
        publish(raw, EVENTS[7:12])
        wait_for(lambda: holds(database, EVENTS[:12]))
        restore(database, before)
        wait_for(lambda: holds(database, EVENTS[:12]))
        publish(raw, EVENTS[12:])
        wait_for(lambda: holds(database, EVENTS))
        wait_for(lambda: names(raw) == [group_of(database)])


def test_a_database_and_its_copy_part_and_lose_nothing(
    raw: Redis, redis_server: RedisServer, database: Database, other: Database
) -> None:
    publish(raw, EVENTS[:7])
    drain(raw, database)
    restore(other, backup(database))
    assert group_of(database) == group_of(other)
    with (
        Redis(unix_socket_path=str(redis_server.socket)) as second,
        running(TaskStatusListener(raw, database, "of the first")),
        running(TaskStatusListener(second, other, "of its copy")),
    ):
        for event in EVENTS[7:]:
            publish(second, [event])
            time.sleep(0.01)
        wait_for(lambda: holds(database, EVENTS) and holds(other, EVENTS))
        wait_for(lambda: group_of(database) != group_of(other))
        wait_for(lambda: {group_of(database), group_of(other)} == set(names(raw)))


def test_an_entry_that_is_skipped_is_no_reason_to_read_again(
    raw: Redis, database: Database
) -> None:
    publish(raw, EVENTS)
    raw.xadd(STREAM, {"event": "nonsense"})
    before = drain(raw, database)
    with capture_logs() as records:
        after = drain(raw, database)
    assert (before.malformed, after.stored, records) == (1, 0, [])


def test_what_another_listener_has_in_hand_is_no_reason_to_read_again(
    raw: Redis, database: Database
) -> None:
    publish(raw, EVENTS[:5])
    drain(raw, database)
    publish(raw, EVENTS[5:])
    raw.xreadgroup(str(group_of(database)), "another", {STREAM: ">"}, count=3)
    listener = drain(raw, database)
    assert listener.stored == len(EVENTS) - 8
    assert [group.pending for group in listener_groups(raw)] == [3]


def test_from_start_reads_again_what_was_deleted(raw: Redis, database: Database) -> None:
    publish(raw, EVENTS)
    drain(raw, database)
    group = group_of(database)
    with database.engine.begin() as connection:
        for name in ("events", "executions"):
            connection.execute(Base.metadata.tables[name].delete())
    assert drain(raw, database).stored == 0
    assert drain(raw, database, from_start=True).stored == len(EVENTS)
    assert holds(database, EVENTS) and group_of(database) == group


def test_the_command_reads_from_the_start(
    raw: Redis, redis_server: RedisServer, other: Database, tmp_path: Path
) -> None:
    publish(raw, EVENTS)
    raw.xgroup_setid(STREAM, joined(raw, other), id="$")
    with ListenerProcess(
        tmp_path,
        f"unix://{redis_server.socket}",
        f"sqlite:///{tmp_path / 'other.sqlite'}",
        "--from-start",
    ):
        wait_for(lambda: holds(other, EVENTS))


def test_a_group_that_is_removed_under_its_listener_is_made_again(
    raw: Redis, redis: Redis, database: Database
) -> None:
    publish(raw, EVENTS[:5])
    with running(TaskStatusListener(raw, database, "one")):
        wait_for(lambda: holds(database, EVENTS[:5]))
        redis.xgroup_destroy(STREAM, str(group_of(database)))
        publish(redis, EVENTS[5:])
        wait_for(lambda: holds(database, EVENTS))


def test_a_redis_that_is_restored_makes_no_difference(
    raw: Redis, redis_server: RedisServer, database: Database
) -> None:
    publish(raw, EVENTS[:5])
    drain(raw, database)
    stream = raw.dump(STREAM)
    publish(raw, EVENTS[5:10])
    drain(raw, database)
    raw.restore(STREAM, 0, stream, replace=True)  # with its groups, as they were
    publish(raw, EVENTS[5:])  # the nodes send again what it may lack
    drain(raw, database)
    assert holds(database, EVENTS)


def test_groups_are_told_with_who_reads_them_and_what_they_have_not_written(
    raw: Redis, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert listener_groups(raw) == []
    now = int(raw.time()[0])
    for age in (3600, 600):
        raw.xadd(STREAM, {"event": "x"}, id=f"{(now - age) * 1000}-0")
    raw.xgroup_create(STREAM, "web", id="0")
    group = joined(raw, database)
    raw.xgroup_create(STREAM, GROUP, id="$")
    raw.xreadgroup(group, "reader", {STREAM: ">"}, count=1)
    shared, own = listener_groups(raw)
    assert (shared.name, shared.readers, shared.pending, shared.lag_seconds) == (GROUP, (), 0, 0)
    assert (own.name, own.readers, own.pending) == (group, ("reader",), 1)
    assert 3600 <= own.lag_seconds < 3700
    monkeypatch.setattr("secretflow_task.broker.listener_groups.DEAD_MILLISECONDS", -1)
    assert listener_groups(raw)[1].readers == ()


@pytest.mark.parametrize(
    ("older", "newer"),
    [("0-0", "1-0"), ("9-9", "10-0"), ("1700000000000-9", "1700000000000-10")],
)
def test_positions_sort_as_redis_sorts_them(older: str, newer: str) -> None:
    assert sortable(older) < sortable(newer)


@pytest.fixture(name="operator")
def _operator(
    redis_server: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Settings:
    """The environment of somebody at the command line, on the other database's host."""
    redis_url, database_url = f"unix://{redis_server.socket}", f"sqlite:///{tmp_path}/other.sqlite"
    monkeypatch.setenv("SFWORKER_REDIS_URL", redis_url)
    monkeypatch.setenv("SFWORKER_DATABASE_URL", database_url)
    monkeypatch.setenv("COLUMNS", "250")
    return Settings()


def test_a_database_that_is_given_up_is_told_and_can_be_removed(
    raw: Redis,
    other: Database,
    operator: Settings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def listeners(*words: str) -> str:
        return CliRunner().invoke(app, ["listeners", *words], env={"COLUMNS": "250"}).output

    assert "No database" in listeners()
    assert state_and_advice(raw, operator) == ("none has run", "")
    gone = f"{GROUP}:gone"
    raw.xgroup_create(STREAM, gone, id="0", mkstream=True)
    raw.xadd(STREAM, {"event": EVENTS[0].to_json()}, id="1000-0")
    drain(raw, other)
    state, advice = state_and_advice(raw, operator)
    own = group_of(other)
    assert f"{own} (of this database): one, 0 in hand, all written" in state
    assert re.search(rf"{gone}: no listener, 0 in hand, \d+ s behind", state)
    assert f"sfworker listeners --remove {gone}" in advice and str(own) not in advice
    assert re.search(rf"{gone} .* none .* 0 .* \d+ s behind", listeners())
    for wrong, said in [(f"{GROUP}:gnoe", f"did you mean '{gone}'"), (str(own), "stop that")]:
        assert said in listeners("--remove", wrong)
    listeners("--remove", gone)
    assert names(raw) == [own] and state_and_advice(raw, operator)[1] == ""
    monkeypatch.setattr("secretflow_task.broker.listener_groups.DEAD_MILLISECONDS", -1)
    assert state_and_advice(raw, operator)[1] == ""  # it stands still, and nothing waits for it
