"""What a state folder tells, whether its node runs, has ended, or was never there."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from secretflow_task.contract.messages import Status, StatusEvent
from secretflow_task.contract.requests import TaskRequest
from secretflow_task.node.job.logs import log_path
from secretflow_task.node.store.event_store import EventStore
from secretflow_task.node.store.reader import StateFolder
from tests.unit.plan_requests import PLAN_REQUESTS

PSI = {"task_type": "psi", **PLAN_REQUESTS["psi"]}  # of alice and bob


def request(execution_id: str, params: dict[str, object] | None = None) -> TaskRequest:
    """A request for an execution."""
    return TaskRequest(execution_id, "r-1", params or {"task_config": PSI})


def end(store: EventStore, execution_id: str, party: str, status: Status) -> None:
    """End an execution at a party."""
    store.append(StatusEvent(execution_id, "r-1", party, status, {}, "node", "task"))


def log_of(folder: Path, execution_id: str, party: str) -> Path:
    """The log of a job that has started."""
    log = log_path(folder / "logs", execution_id, party)
    log.parent.mkdir(parents=True, exist_ok=True)
    log.touch()
    return log


def test_statuses_are_told_while_the_node_runs_and_afterwards(tmp_path: Path) -> None:
    folder = StateFolder(tmp_path)
    with EventStore(tmp_path) as store:
        store.claim(request("e-1"), "alice", "bob")
        store.claim(request("e-2"), "alice")
        end(store, "e-1", "alice", Status.SUCCESS)
        assert folder.statuses("e-1") == {"alice": "SUCCESS", "bob": "RUNNING"}
        assert folder.runs("e-1") and folder.runs("e-2")
        end(store, "e-1", "bob", Status.FAILURE)
        assert not folder.runs("e-1")
    assert folder.statuses("e-1") == {"alice": "SUCCESS", "bob": "FAILURE"}
    assert folder.runs("e-2")
    assert folder.statuses("e-3") == {}


def test_reading_keeps_no_node_from_starting_and_changes_nothing(tmp_path: Path) -> None:
    with EventStore(tmp_path) as store:
        store.claim(request("e-1"), "alice")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert StateFolder(tmp_path).statuses("e-1") == {"alice": "RUNNING"}
    for name, content in before.items():
        assert (tmp_path / name).read_bytes() == content
    with EventStore(tmp_path) as store:
        assert len(store.unfinished()) == 1


def test_parties_at_other_nodes_are_told_too(tmp_path: Path) -> None:
    with EventStore(tmp_path) as store:
        store.claim(request("e-1"), "alice")
    assert StateFolder(tmp_path).parties("e-1") == ["alice", "bob"]


def test_a_refused_request_or_an_unknown_execution_has_no_parties(tmp_path: Path) -> None:
    with EventStore(tmp_path) as store:
        store.claim(request("e-1", {"sf_init_config": {"parties": 7}}), "alice")
    assert StateFolder(tmp_path).parties("e-1") == []
    assert StateFolder(tmp_path).parties("e-2") == []


def test_logs_are_found_by_the_store_or_by_their_names(tmp_path: Path) -> None:
    folder = StateFolder(tmp_path)
    with EventStore(tmp_path) as store:
        store.claim(request("e-1"), "bob")
    forgotten = log_of(tmp_path, "e-1", "alice")  # longer ago than the store remembers
    log_of(tmp_path, "e-10", "alice")
    not_started = log_path(tmp_path / "logs", "e-1", "bob")
    assert list(folder.logs("e-1").items()) == [("alice", forgotten), ("bob", not_started)]
    assert not not_started.exists()
    assert folder.logs("e-2") == {}


def test_all_ids_are_told_stored_logged_or_of_a_run(tmp_path: Path) -> None:
    with EventStore(tmp_path) as store:
        store.claim(request("e-2"), "alice", "bob")
    log_of(tmp_path, "e-1", "alice")
    log_of(tmp_path, "e-2", "alice")
    (tmp_path / "runs" / "e-3").mkdir(parents=True)
    assert StateFolder(tmp_path).execution_ids() == ["e-1", "e-2", "e-3"]


def test_a_run_has_a_state_folder_of_its_own(tmp_path: Path) -> None:
    own = tmp_path / "runs" / "e-1"
    with EventStore(own) as store:
        store.claim(request("e-1"), "alice")
    assert StateFolder.holding("e-1", tmp_path) == StateFolder(own)
    assert StateFolder.holding("e-1", tmp_path).runs("e-1")
    assert StateFolder.holding("e-2", tmp_path) == StateFolder(tmp_path)


def test_a_path_that_a_uri_would_read_otherwise_is_read(tmp_path: Path) -> None:
    odd = tmp_path / "state?mode=rw#50%"
    with EventStore(odd) as store:
        store.claim(request("e-1"), "alice")
    assert StateFolder(odd).statuses("e-1") == {"alice": "RUNNING"}


@pytest.mark.parametrize("store", [None, "", "not a store" * 100], ids=["none", "empty", "damaged"])
def test_where_no_store_can_be_read_nothing_is_told_and_nothing_made(
    store: str | None, tmp_path: Path
) -> None:
    if store is not None:
        (tmp_path / "node.sqlite").write_text(store)
    folder = StateFolder(tmp_path)
    assert (folder.statuses("e-1"), folder.parties("e-1"), folder.execution_ids()) == ({}, [], [])
    assert (tmp_path / "node.sqlite").exists() is (store is not None)


def test_a_store_that_is_being_written_is_read_as_it_was(tmp_path: Path) -> None:
    with EventStore(tmp_path) as store:
        store.claim(request("e-1"), "alice")
        with closing(sqlite3.connect(tmp_path / "node.sqlite", isolation_level=None)) as writer:
            writer.execute("BEGIN IMMEDIATE")
            writer.execute("DELETE FROM executions")
            assert StateFolder(tmp_path).statuses("e-1") == {"alice": "RUNNING"}
            writer.execute("ROLLBACK")
