"""What only the store on disk can do: outlive its process and belong to one node (more: `tests/contract`)."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sqlite3
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from secretflow_task.messages import Status, StatusEvent, TaskRequest
from secretflow_task.node.store import EventStore, StoreInUse

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
        store.mark_sent([store.unsent(1)[0][0]])
    with EventStore(tmp_path) as store:
        assert [item for _, item in store.unsent(10)] == stored[1:]
        assert store.status("e-1", "alice") is Status.SUCCESS
        assert not store.claim(REQUEST, "alice")
        (left,) = store.unfinished()
        assert (left.party, left.task_type, left.status) == ("bob", "psi", Status.RUNNING)
        assert left.request == TaskRequest("e-1", "r-1", {}, "t-1", "s-1")
        failed = store.append(event(Status.FAILURE, "bob"))
        assert failed is not None and failed.seq == 2
        assert store.unfinished() == []


def test_numbers_of_events_are_not_used_again_after_a_restart(tmp_path: Path) -> None:
    with EventStore(tmp_path) as store:
        store.claim(REQUEST, "alice")
        store.append(event())
        (number, _), *_ = store.unsent(1)
        store.mark_sent([number])
    with EventStore(tmp_path) as store:
        store.append(event())
        assert store.unsent(1)[0][0] > number


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
    assert ours.poll(10)
    process.join(10)
    with EventStore(tmp_path) as store:
        assert [item.seq for _, item in store.unsent(100)] == list(range(1, 22))
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
