"""Executions that are ended from outside: cancelled, taken over, or because the node stops."""

from __future__ import annotations

import sqlite3
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Callable, Iterator

import pytest

from secretflow_task.broker.celery_tasks import NodeStopping
from secretflow_task.contract.errors import BadSetting
from secretflow_task.contract.job_spec import JobSpec
from secretflow_task.contract.messages import Status
from secretflow_task.contract.requests import TaskRequest
from secretflow_task.node import intake
from secretflow_task.node.assembly import assembled
from secretflow_task.node.node import Node
from secretflow_task.node.ownership import Claim, SoleOwnership, Verdict
from secretflow_task.node.running import RunningExecutions
from secretflow_task.node.store.event_store import EventStore
from secretflow_task.testing import JobSide, ScriptedTemplate
from tests.bench.waiting import PATIENCE_SECONDS, wait_for
from tests.unit.node.test_node import ACCEPTED, PSI, Bench, never

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
    thread.join(PATIENCE_SECONDS)
    assert not thread.is_alive()


def until_running(node: Node, execution_id: str) -> None:
    """Wait for the execution to run."""
    wait_for(lambda: execution_id in node.running())


def test_a_cancelled_execution_ends_at_every_party(bench: Bench) -> None:
    with bench.node(wait_long) as node:
        with in_a_thread(lambda: node.execute("e-1", PSI)):
            until_running(node, "e-1")
            assert not node.cancel("other")
            assert node.cancel("e-1")
        assert not node.cancel("e-1") and not node.running()
    assert bench.told() == {
        party: [ACCEPTED, (2, "FAILURE", "TaskCancelled")] for party in ("alice", "bob")
    }
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
    assert bench.told() == {
        party: [ACCEPTED, (2, "FAILURE", "NodeLost")] for party in ("alice", "bob")
    }


class Answers:
    """An `Ownership` with one answer to each question.

    Attributes:
        answer: to a claim.
    """

    def __init__(self, answer: Claim = Claim(Verdict.RUN), *holds: bool | None) -> None:
        self.answer = answer
        self._holds = list(holds)

    def claim(self, _request: TaskRequest, _parties: list[str], only_lost: bool = False) -> Claim:
        """The answer."""
        if only_lost and self.answer.verdict is Verdict.RUN:
            return Claim(Verdict.DROP)
        return self.answer

    def release(self, _request: TaskRequest, _parties: list[str]) -> None:
        """Nothing is held."""

    def holds(self, _execution_id: str, _parties: list[str], _epoch: int) -> bool | None:
        """The next answer, the last of them again and again."""
        return self._holds.pop(0) if len(self._holds) > 1 else next(iter(self._holds), True)

    def stop(self) -> None:
        """Nobody waits."""


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
    with bench.node(never, ownership=Answers(claim)) as node:
        node.execute("e-1", PSI)
        assert {unsent.epoch for unsent in node.store.unsent(9)} <= {claim.epoch}
    assert bench.told() == told


def test_what_another_node_took_over_ends_silently(bench: Bench) -> None:
    with bench.node(wait_long) as node:
        with in_a_thread(lambda: node.execute("e-1", PSI)):
            until_running(node, "e-1")
            for party in ("alice", "bob"):
                node.executions.abandon("e-1", party, 1)
        assert node.store.status("e-1", "alice") is None
    assert bench.told() == dict.fromkeys(ENDED, [ACCEPTED])


def test_what_is_inherited_from_oneself_ends_with_its_job(bench: Bench) -> None:
    ownership = Answers()
    with bench.node(wait_long, ownership=ownership) as node:
        with in_a_thread(lambda: node.execute("e-1", PSI)):
            until_running(node, "e-1")
            ownership.answer = Claim(Verdict.LOST, 3, {"alice": 4, "bob": 4})
            node.settle_lost(TaskRequest("e-1", "r-1", PSI), list(ENDED))
    assert bench.told() == dict.fromkeys(ENDED, [ACCEPTED, (5, "FAILURE", "NodeLost")])


def test_what_redis_has_forgotten_is_given_back(bench: Bench) -> None:
    released: list[str] = []

    class Forgetful(Answers):
        """It would let everything run."""

        def release(self, request: TaskRequest, _parties: list[str]) -> None:
            """Note it."""
            released.append(request.execution_id)

    with bench.node(ownership=Forgetful()) as node:
        for _ in range(2):
            node.execute("e-1", PSI)
    assert released == ["e-1"] and len(bench.told()["alice"]) == 3


def test_a_request_that_cannot_be_written_down_goes_back(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_arguments: Any, **_options: Any) -> bool:
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(intake, "_GIVE_BACK_SECONDS", 0.01)
    with bench.node() as node:
        with monkeypatch.context() as patch:
            patch.setattr(node.store, "claim", full)
            with pytest.raises(NodeStopping):
                node.execute("e-1", PSI)
        assert node.execute("e-1", PSI).status is Status.SUCCESS
    assert len(bench.told()["alice"]) == 3


def test_a_request_that_was_just_taken_when_the_node_stops_is_told_of(bench: Bench) -> None:
    class StopsMeanwhile(Answers):
        """The node is told to stop while the nodes agree."""

        def claim(self, request: TaskRequest, parties: list[str], only_lost: bool = False) -> Claim:
            """Take it."""
            node.stop()
            return super().claim(request, parties, only_lost)

    with bench.node(never, ownership=StopsMeanwhile()) as node:
        assert node.execute("e-1", PSI).status is Status.FAILURE
    assert bench.told() == dict.fromkeys(ENDED, [ACCEPTED, (2, "FAILURE", "NodeLost")])


def test_a_node_that_lost_its_lease_moves_nothing(bench: Bench) -> None:
    with bench.node(ownership=Answers(Claim(Verdict.RUN), False)) as node:
        node.execute("e-1", PSI)
    ended = {party: events[-1][1:] for party, events in bench.told().items()}
    assert ended == dict.fromkeys(ENDED, ("FAILURE", "NodeLost")) and bench.files() == []


def test_what_a_dead_node_had_taken_is_settled_for_its_parties(bench: Bench) -> None:
    ownership = Answers(Claim(Verdict.LOST, 2, {"bob": 4}))
    with bench.node(never, ownership=ownership) as node:
        node.settle_lost(TaskRequest("e-1", "r-1", PSI), ["bob"])
        ownership.answer = Claim(Verdict.DROP)
        node.settle_lost(TaskRequest("e-2", "r-2", PSI), ["bob"])
    assert bench.told() == {"bob": [(5, "FAILURE", "NodeLost")]}


def test_what_was_taken_over_and_lost_again_is_settled_by_the_first(bench: Bench) -> None:
    ownership = Answers()
    with bench.node(wait_long, ownership=ownership) as node:
        with in_a_thread(lambda: node.execute("e-1", PSI)):
            until_running(node, "e-1")
            for party in ENDED:
                node.executions.abandon("e-1", party, 1)
        ownership.answer = Claim(Verdict.LOST, 3, {"alice": 2, "bob": 2})
        node.execute("e-1", PSI)
    assert bench.told() == {party: [ACCEPTED, (3, "FAILURE", "NodeLost")] for party in ENDED}


def test_a_wrong_request_is_refused_once_by_whoever_owns_it(bench: Bench) -> None:
    ownership = Answers(Claim(Verdict.DROP))
    with bench.node(never, ownership=ownership) as node:
        node.execute("e-1", {"task_config": {"task_type": "pis"}})
        assert bench.told() == {}
        ownership.answer = Claim(Verdict.LOST, 2, {"alice": 5, "bob": 0})
        node.execute("e-1", {"task_config": {"task_type": "pis"}})
    assert bench.told() == {
        "alice": [(6, "FAILURE", "UnknownTaskType")],
        "bob": [(1, "FAILURE", "UnknownTaskType")],
    }


def test_a_template_is_closed_when_its_node_never_came_up(bench: Bench) -> None:
    template: Any = ScriptedTemplate(never)
    with EventStore(bench.settings.state_dir) as store:
        running = RunningExecutions(store)
        with pytest.raises(BadSetting):
            with assembled(
                bench.settings, store, running, SoleOwnership(), bench.tell, template=template
            ):
                raise BadSetting("Another node has this link.")
    assert template.closed
