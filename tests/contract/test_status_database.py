"""The tables hold every event once and each execution's right end, on SQLite and PostgreSQL."""

from __future__ import annotations

import itertools
import random
import threading
from pathlib import Path
from typing import Iterator

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from secretflow_task.config.settings import Settings
from secretflow_task.contract.errors import DatabaseUnavailable, UnknownExecution
from secretflow_task.contract.messages import Status, StatusEvent
from secretflow_task.listener.database import Database
from secretflow_task.listener.entry import Entry
from secretflow_task.listener.history import find, latest
from secretflow_task.listener.tables import Base
from secretflow_task.listener.writer import Writer
from tests.contract.postgresql import PostgresServer
from tests.contract.status_events import (
    entries,
    execution,
    expected_ends,
    expected_events,
    stored_ends,
    stored_events,
)

EVENTS = [
    *execution("e-1", count=6),
    *execution("e-1", "bob", count=4, ends=Status.FAILURE),
    *execution("e-2", count=1),
    *execution("e-3", count=5)[:-1],
]


@pytest.fixture(name="database")
def _database(database_url: str) -> Iterator[Database]:
    with Database(database_url) as database:
        database.upgrade()
        yield database


def empty(database: Database) -> None:
    """Remove all rows."""
    with database.engine.begin() as connection:
        for table in Base.metadata.tables.values():
            connection.execute(table.delete())


def holds(database: Database, events: list[StatusEvent]) -> None:
    """Assert that the database holds exactly these."""
    assert stored_events(database) == expected_events(events)
    assert stored_ends(database) == expected_ends(events)


def test_the_migrations_make_the_tables_that_the_models_describe(database: Database) -> None:
    with database.engine.begin() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, Base.metadata) == []


def test_migrating_again_changes_nothing(database: Database) -> None:
    Writer(database).write(entries(EVENTS))
    database.upgrade()
    holds(database, EVENTS)


def test_many_that_start_at_once_make_the_tables_once(database_url: str) -> None:
    problems: list[BaseException] = []
    barrier = threading.Barrier(6)

    def start() -> None:
        with Database(database_url) as database:
            barrier.wait()
            try:
                database.upgrade()
            except DBAPIError as error:
                problems.append(error)

    threads = [threading.Thread(target=start) for _ in range(barrier.parties)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert problems == []
    with Database(database_url) as database:
        Writer(database).write(entries(EVENTS))
        holds(database, EVENTS)


def test_events_are_stored_as_they_came(database: Database) -> None:
    assert Writer(database).write(entries(EVENTS)) == []
    holds(database, EVENTS)
    row = next(row for row in latest(database, 10, execution_id="e-1", party="alice"))
    ids = (row["task_request_id"], row["task_type"], row["worker"], row["result"])
    assert ids == ("request of e-1", "psi", "node-1", {"rows": 6})
    times = sorted(event.timestamp for event in EVENTS if event.party == "alice")
    assert (row["first_timestamp"].isoformat(), row["last_timestamp"].isoformat()) == (
        times[0],
        times[5],
    )


@settings(max_examples=25, deadline=None, database=None)
@given(
    order=st.permutations(range(12)),
    sizes=st.lists(st.integers(1, 5), min_size=1),
    again=st.integers(0, 11),
)
def _any_order(database: Database, order: list[int], sizes: list[int], again: int) -> None:
    empty(database)
    events = EVENTS[:12]
    sent = entries(events[number] for number in [*order, *order[:again]])
    batches, writer = itertools.cycle(sizes), Writer(database)
    while sent:
        size = next(batches)
        writer.write(sent[:size])
        sent = sent[size:]
    holds(database, events)
    first = min(events[:6], key=lambda event: event.timestamp).timestamp
    assert (
        latest(database, 1, execution_id="e-1", party="alice")[0]["first_timestamp"].isoformat()
        == first
    )


def test_the_order_of_arrival_and_repetitions_change_nothing(database: Database) -> None:
    _any_order(database)  # pylint: disable=no-value-for-parameter  # hypothesis gives the others


def test_an_end_is_never_overwritten(database: Database) -> None:
    failed = execution(ends=Status.FAILURE)
    late = execution(count=9)
    writer = Writer(database)
    writer.write(entries(failed))
    writer.write(entries(late))
    assert stored_ends(database) == {("e-1", "alice"): ("FAILURE", 5)}
    row = latest(database, 1)[0]
    assert (row["error_code"], row["result"]) == ("MissingFile", None)
    assert len(stored_events(database)) == 14


def test_an_entry_that_the_database_refuses_costs_the_others_nothing(database: Database) -> None:
    good = entries(EVENTS)
    bad = [
        Entry.model_construct(**dict(good[0]) | {"event_id": name, "worker_container": None})
        for name in "ab"
    ]
    assert Writer(database).write([bad[0], *good, bad[1]]) == bad
    holds(database, EVENTS)


def test_several_that_write_the_same_at_once_agree(database: Database, database_url: str) -> None:
    events = [event for number in range(40) for event in execution(f"e-{number}", count=6)]

    def write(seed: int) -> None:
        shuffled = random.Random(seed).sample(events, len(events))
        with Database(database_url) as own:
            for start in range(0, len(shuffled), 50):
                Writer(own).write(entries(shuffled[start : start + 50]))

    threads = [threading.Thread(target=write, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    holds(database, events)


def test_the_latest_come_first_and_can_be_chosen(database: Database) -> None:
    Writer(database).write(entries(EVENTS))
    every = [(row["execution_id"], row["party"]) for row in latest(database, 10)]
    assert every == [("e-3", "alice"), ("e-2", "alice"), ("e-1", "bob"), ("e-1", "alice")]
    assert [(row["execution_id"], row["party"]) for row in latest(database, 2)] == every[:2]
    for wanted, found in [
        ({"status": "RUNNING"}, ["e-3"]),
        ({"status": "FAILURE", "party": "bob"}, ["e-1"]),
        ({"party": "bob", "task_type": None}, ["e-1"]),
        ({"task_type": "psi", "status": "SUCCESS"}, ["e-2", "e-1"]),
        ({"task_type": "ss_lr"}, []),
    ]:
        assert [row["execution_id"] for row in latest(database, 10, **wanted)] == found


def test_an_execution_is_found_with_its_parties_and_their_events_in_order(
    database: Database,
) -> None:
    Writer(database).write(entries(reversed(EVENTS)))
    found = find(database, "e-1")
    assert list(found) == ["alice", "bob"]
    assert [event["seq"] for event in found["alice"].events] == [1, 2, 3, 4, 5, 6]
    assert [event["status"] for event in found["bob"].events] == ["RUNNING"] * 3 + ["FAILURE"]
    assert found["bob"].row["failed_party"] == "bob"


def test_an_unknown_id_is_told_with_the_nearest(database: Database) -> None:
    Writer(database).write(entries(execution("customers-2026-01")))
    with pytest.raises(UnknownExecution) as caught:
        find(database, "customer-2026-01")
    assert caught.value.message.endswith(", did you mean 'customers-2026-01'?")
    with pytest.raises(UnknownExecution) as caught:
        find(database, "zzz")
    assert caught.value.hint == UnknownExecution.default_hint


def test_a_database_without_tables_is_told(database_url: str) -> None:
    with Database(database_url, read_only=True) as database, pytest.raises(DatabaseUnavailable):
        latest(database, 1)


def test_reading_does_not_wait_for_a_writer(database: Database, database_url: str) -> None:
    Writer(database).write(entries(EVENTS))
    with Database(database_url, read_only=True) as reader, database.engine.begin() as connection:
        connection.execute(text("DELETE FROM events"))
        assert len(latest(reader, 10)) == 4
        connection.rollback()


def test_reading_makes_no_file(tmp_path: Path) -> None:
    with Database(f"sqlite:///{tmp_path}/none/status.sqlite", read_only=True) as database:
        with pytest.raises(DatabaseUnavailable):
            latest(database, 1)
    assert list(tmp_path.iterdir()) == []


def test_results_are_readable_by_the_owner_only_and_commits_survive_the_machine(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "a % b?"
    with Database.of(Settings(state_dir=folder)) as database:
        database.upgrade()
        assert (folder / "status.sqlite").stat().st_mode & 0o777 == 0o600
        with database.engine.begin() as connection:
            names = ("journal_mode", "synchronous")
            assert [connection.execute(text(f"PRAGMA {name}")).scalar() for name in names] == [
                "wal",
                2,
            ]


def test_a_postgresql_in_sql_ascii_keeps_the_texts(postgresql: PostgresServer) -> None:
    with Database(postgresql.new_database("SQL_ASCII")) as database:
        database.upgrade()
        events = execution("执行一", count=6)
        Writer(database).write(entries(events))
        holds(database, events)
