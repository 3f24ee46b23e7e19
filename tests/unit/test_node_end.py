"""Executions that are ended from outside: cancelled, taken over, or because the node stops."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Callable, Iterator

import pytest

from secretflow_task.celery_tasks import NodeStopping
from secretflow_task.job_spec import JobSpec
from secretflow_task.messages import Status, TaskRequest
from secretflow_task.node.node import Node, _staging_name
from secretflow_task.node.ownership import Claim, Verdict
from secretflow_task.node.store import EventStore
from secretflow_task.testing import JobSide
from tests.unit.test_node import PSI, Bench, never

ENDED = {party: [(1, "FAILURE", "TaskCancelled")] for party in ("alice", "bob")}


@pytest.fixture(name="bench")
def _bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def wait_long(_spec: JobSpec, job: JobSide) -> None:
    """Agree, and no more."""
    job.agree({})
    job.hang()


@contextmanager
def in_a_thread(action: Callable[[], object]) -> Iterator[None]:
    """Run beside the block, which must make it end."""
    thread = threading.Thread(target=action)
    thread.start()
    yield
    thread.join(10)
    assert not thread.is_alive()


def until_running(node: Node, execution_id: str) -> None:
    """Wait for the execution to run."""
    deadline = time.monotonic() + 5
    while execution_id not in node.running():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_a_cancelled_execution_ends_at_every_party(bench: Bench) -> None:
    with bench.node(wait_long) as node:
        with in_a_thread(lambda: node.execute("e-1", PSI)):
            until_running(node, "e-1")
            assert not node.cancel("other")
            assert node.cancel("e-1")
        assert not node.cancel("e-1") and node.running() == []
    assert bench.told() == ENDED
    assert bench.files() == []


def test_a_node_that_stops_ends_what_runs_and_takes_nothing_more(bench: Bench) -> None:
    with bench.node(wait_long) as node:
        with in_a_thread(lambda: node.execute("e-1", PSI)):
            until_running(node, "e-1")
            node.stop()
        with pytest.raises(NodeStopping):
            node.execute("e-2", PSI)
        assert node.store.status("e-1", "alice") is Status.FAILURE
        assert node.store.status("e-2", "alice") is None
    assert bench.told() == {party: [(1, "FAILURE", "NodeLost")] for party in ("alice", "bob")}


class Answers:
    """An `Ownership` with one answer."""

    def __init__(self, claim: Claim) -> None:
        self._claim = claim

    def claim(self, _execution_id: str, _parties: list[str]) -> Claim:
        """The answer."""
        return self._claim


@pytest.mark.parametrize(
    ("claim", "told"),
    [
        (Claim(Verdict.DROP), {}),
        (Claim(Verdict.OWN), {party: [(1, "FAILURE", "NodeLost")] for party in ("alice", "bob")}),
        (Claim(Verdict.CANCELLED), ENDED),
        (
            Claim(Verdict.LOST, 2, {"alice": 3}),
            {"alice": [(4, "FAILURE", "NodeLost")], "bob": [(1, "FAILURE", "NodeLost")]},
        ),
    ],
)
def test_what_the_nodes_have_agreed_on_decides(
    claim: Claim, told: dict[str, list[tuple[int, str, str]]], bench: Bench
) -> None:
    with bench.node(never) as node:
        node.ownership = Answers(claim)
        node.execute("e-1", PSI)
        assert {unsent.epoch for unsent in node.store.unsent(9)} <= {claim.epoch}
    assert bench.told() == told


def test_what_another_node_took_over_ends_silently(bench: Bench) -> None:
    with bench.node(wait_long) as node:
        with in_a_thread(lambda: node.execute("e-1", PSI)):
            until_running(node, "e-1")
            for party in ("alice", "bob"):
                node.abandon("e-1", party)
        assert node.store.status("e-1", "alice") is None
    assert bench.told() == {}


def test_outputs_that_a_killed_node_had_staged_are_removed_at_its_next_start(bench: Bench) -> None:
    with bench.node(never) as node:
        node.store.claim(TaskRequest("e-1", "r-1", PSI), "alice", "bob")
    folders = [bench.root / "data" / party / _staging_name("e-1", party) for party in ("alice", "bob")]
    for folder in folders:
        folder.mkdir()
        (folder / "0.csv").write_text("half an output")
    with bench.node(never):
        assert not any(folder.exists() for folder in folders)
    assert bench.told() == {party: [(1, "FAILURE", "NodeLost")] for party in ("alice", "bob")}


def test_a_node_whose_folders_have_changed_starts_and_settles(bench: Bench) -> None:
    with bench.node(never) as node:
        node.store.claim(TaskRequest("e-1", "r-1", PSI), "alice", "bob")
    moved = bench.root / "elsewhere"
    bench.settings = bench.settings.model_copy(update={"data_root": moved})
    request = {"task_config": {**PSI["task_config"], "input_paths": dict.fromkeys(ENDED, "/gone/x.csv")}}
    with EventStore(bench.settings.state_dir) as store:
        store.claim(TaskRequest("e-2", "r-2", request), "alice")
    with bench.node(never) as node:
        assert node.store.unfinished() == []


def test_what_was_taken_over_and_lost_again_is_settled_by_the_first(bench: Bench) -> None:
    with bench.node(wait_long) as node:
        with in_a_thread(lambda: node.execute("e-1", PSI)):
            until_running(node, "e-1")
            for party in ENDED:
                node.abandon("e-1", party)
        node.ownership = Answers(Claim(Verdict.LOST, 3, {"alice": 2, "bob": 2}))
        node.execute("e-1", PSI)
    assert bench.told() == {party: [(3, "FAILURE", "NodeLost")] for party in ENDED}


def test_a_wrong_request_is_refused_once_by_whoever_owns_it(bench: Bench) -> None:
    with bench.node(never) as node:
        node.ownership = Answers(Claim(Verdict.DROP))
        node.execute("e-1", {"task_config": {"task_type": "pis"}})
        assert bench.told() == {}
        node.ownership = Answers(Claim(Verdict.LOST, 2, {"alice": 5, "bob": 0}))
        node.execute("e-1", {"task_config": {"task_type": "pis"}})
    assert bench.told() == {
        "alice": [(6, "FAILURE", "UnknownTaskType")],
        "bob": [(1, "FAILURE", "UnknownTaskType")],
    }
