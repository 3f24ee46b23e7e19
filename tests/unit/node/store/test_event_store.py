"""Only the store on disk outlives its process and belongs to one node (more: `tests/contract`)."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sqlite3
import time
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

from secretflow_task.contract.messages import Status, StatusEvent
from secretflow_task.contract.requests import TaskRequest
from secretflow_task.node.store import executions as store_module
from secretflow_task.node.store.database import StoreInUse
from secretflow_task.node.store.event_store import EventStore
from tests.bench.waiting import PATIENCE_SECONDS

REQUEST = TaskRequest("e-1", "r-1", {"task_config": {"task_type": "psi"}}, "t-1", "s-1")


def event(status: Status = Status.RUNNING, party: str = "alice") -> StatusEvent:
    """An event of the execution."""
    return StatusEvent("e-1", "r-1", party, status, {"progress": 0.5}, "node", "task")


def test_what_was_stored_is_there_after_a_restart(tmp_path: Path) -> None:
    with EventStore(tmp_path) as store:
        store.claim(REQUEST, "alice")
        store.claim(REQUEST, "bob")
        stored = [
            store.append(event()),
            store.append(event(Status.SUCCESS)),
            store.append(event(party="bob")),
        ]
        store.mark_sent([store.unsent(1)[0].number])
    with EventStore(tmp_path) as store:
        assert [unsent.event for unsent in store.unsent(10)] == stored[1:]
        assert store.status("e-1", "alice") is Status.SUCCESS
        assert not store.claim(REQUEST, "alice")
        (left,) = store.unfinished()
        assert (left.party, left.request) == ("bob", REQUEST)
        failed = store.append(event(Status.FAILURE, "bob"))
        assert failed is not None and failed.seq == 2
        assert store.unfinished() == []


def test_numbers_of_events_are_not_used_again_after_a_restart(tmp_path: Path) -> None:
    with EventStore(tmp_path) as store:
        store.claim(REQUEST, "alice")
        store.append(event())
        number = store.unsent(1)[0].number
        store.mark_sent([number])
    with EventStore(tmp_path) as store:
        store.append(event())
        assert store.unsent(1)[0].number > number


def write_and_die(folder: Path, pipe: Connection) -> None:
    """Store events and be killed without closing anything."""
    store = EventStore(folder)
    store.claim(REQUEST, "alice")
    for _ in range(20):
        store.append(event())
    store.append(event(Status.FAILURE))
    pipe.send(None)
    os.kill(os.getpid(), signal.SIGKILL)


def test_nothing_is_lost_when_the_process_is_killed(tmp_path: Path) -> None:
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("fork").Process(
        target=write_and_die, args=(tmp_path, theirs), daemon=True
    )
    process.start()
    assert ours.poll(PATIENCE_SECONDS)
    process.join(PATIENCE_SECONDS)
    with EventStore(tmp_path) as store:
        assert [unsent.event.seq for unsent in store.unsent(100)] == list(range(1, 22))
        assert store.status("e-1", "alice") is Status.FAILURE


def test_a_folder_belongs_to_one_node_at_a_time(tmp_path: Path) -> None:
    with EventStore(tmp_path):
        with pytest.raises(StoreInUse, match="give each node its own SFWORKER_STATE_DIR"):
            EventStore(tmp_path)
    with EventStore(tmp_path) as store:
        assert store.unfinished() == []


def test_the_folder_is_made_for_the_owner_only(tmp_path: Path) -> None:
    with EventStore(tmp_path / "new" / "state"):
        pass
    assert (tmp_path / "new" / "state").stat().st_mode & 0o777 == 0o700


def test_a_failed_change_leaves_nothing_behind(tmp_path: Path) -> None:
    with EventStore(tmp_path) as store:
        store.claim(REQUEST, "alice")
        with pytest.raises(AttributeError):
            store.mark_sent(None.nothing for _ in [1])  # type: ignore[attr-defined]
        stored = store.append(event())
        assert stored is not None and stored.seq == 1


def test_a_closed_store_says_so(tmp_path: Path) -> None:
    with EventStore(tmp_path) as store:
        pass
    with pytest.raises(sqlite3.ProgrammingError):
        store.unsent(1)


class FullDisk:
    """A connection to a database whose disk may be full."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self.full = False

    def execute(self, query: str, *values: Any) -> sqlite3.Cursor:
        """Refuse to write when full."""
        if self.full and query.startswith(("INSERT", "UPDATE", "DELETE")):
            raise sqlite3.OperationalError("database or disk is full")
        return self._connection.execute(query, *values)

    def executemany(self, query: str, values: Any) -> sqlite3.Cursor:
        """Refuse to write when full."""
        return self.execute("INSERT") if self.full else self._connection.executemany(query, values)

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction is open."""
        return self._connection.in_transaction

    def close(self) -> None:
        """Close it."""
        self._connection.close()


def test_a_terminal_event_is_told_also_when_the_disk_is_full(tmp_path: Path) -> None:
    with EventStore(tmp_path) as store:
        store.claim(REQUEST, "alice")
        sent = [store.append(event())]
        disk = FullDisk(store._db)
        store._db = disk  # type: ignore[assignment]
        disk.full = True
        assert store.append(event()) is None  # progress is dropped
        sent.append(store.append(event(Status.SUCCESS)))
        assert store.append(event(Status.FAILURE)) is None
        assert [unsent.event for unsent in store.unsent(10)] == sent
        for unsent in store.unsent(10):
            store.mark_sent([unsent.number])
        assert store.unsent(10) == []
        disk.full = False
        store.mark_sent([])
        assert store.status("e-1", "alice") is Status.SUCCESS
    with EventStore(tmp_path) as store:
        assert store.unfinished() == [] and store.unsent(10) == []


def test_what_is_dropped_when_too_much_waits_is_progress(tmp_path: Path) -> None:
    with EventStore(tmp_path, maxlen=3) as store:
        store.claim(REQUEST, "alice")
        kept = [store.append(event()) for _ in range(5)]
        kept.append(store.append(event(Status.SUCCESS)))
        assert [item and item.seq for item in kept] == [1, 2, 3, None, None, 4]
        assert (store.dropped, store.waiting()) == (2, 4)


def test_what_ended_long_ago_is_forgotten_and_what_runs_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with EventStore(tmp_path) as store:
        for execution_id in ("ended", "runs"):
            store.claim(TaskRequest(execution_id, "r-1", {}), "alice")
        store.append(replace(event(Status.SUCCESS), execution_id="ended"))
        store.forget_old()
        assert store.knows("ended", "alice")
        month = 31 * 24 * 3600
        monkeypatch.setattr(store_module.time, "time", lambda: time.time_ns() / 1e9 + month)
        store.forget_old()
        assert store.knows("runs", "alice") and not store.knows("ended", "alice")


def test_a_result_counts_when_all_parties_have_one_or_have_succeeded(tmp_path: Path) -> None:
    with EventStore(tmp_path) as store:
        store.claim(REQUEST, "alice", "bob")
        store.keep_result("e-1", "alice", {"rows": 3})
        assert store.agreed_result("e-1", "alice") is None
        store.keep_result("e-1", "bob", {"rows": 4})
        assert store.agreed_result("e-1", "alice") == {"rows": 3}
        store.append(event(Status.SUCCESS))
        assert store.agreed_result("e-1", "bob") == {"rows": 4}
        assert store.agreed_result("e-1", "alice") is None and store.failure("e-1") is None


def test_no_result_counts_when_one_party_has_failed(tmp_path: Path) -> None:
    with EventStore(tmp_path) as store:
        store.claim(REQUEST, "alice", "bob")
        for party in ("alice", "bob"):
            store.keep_result("e-1", party, {})
        ending = store.append(event(Status.FAILURE))
        assert ending is not None
        assert store.agreed_result("e-1", "bob") is None and store.failure("e-1") == ending.data
