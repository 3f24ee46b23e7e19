"""What an earlier process of a node left is settled once, as its parties and peers left it."""

from __future__ import annotations

import sqlite3
import threading
import time
from pathlib import Path
from typing import Any, Iterator, Mapping

import pytest

from secretflow_task.contract.errors import (
    AlgorithmError,
    MissingFile,
    NodeLost,
    TaskCancelled,
    WorkerError,
)
from secretflow_task.contract.messages import Status, StatusEvent
from secretflow_task.contract.paths import staging_name
from secretflow_task.contract.requests import TaskRequest
from secretflow_task.node.inquiry import Inquiry
from secretflow_task.node.job import supervisor, workplace
from secretflow_task.node.job.ending import Ending
from secretflow_task.node.link.local import LocalLink
from secretflow_task.node.ownership import Claim, Ownership, SoleOwnership, Verdict
from secretflow_task.node.recovery import Recovery
from secretflow_task.node.store.event_store import EventStore
from secretflow_task.node.store.executions import TakenExecution
from tests.bench.waiting import wait_for
from tests.unit.node.test_node import PSI, Bench, never
from tests.unit.node.test_node_end import ENDED, Answers

REQUEST = TaskRequest("e-1", "r-1", PSI)


@pytest.fixture(name="bench")
def _bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


class Recovered:
    """A store with what was left in it, and what a recovery makes of that.

    Attributes:
        told: the endings, in the order in which they were told.
        cleaned: ``(party, succeeded)``.
        unclean: what cleaning raises.
    """

    def __init__(self, store: EventStore) -> None:
        self.store = store
        self.told: list[Mapping[str, Ending]] = []
        self.cleaned: list[tuple[str, bool]] = []
        self.unclean: Exception | None = None

    def tell(self, request: TaskRequest, endings: Mapping[str, Ending]) -> None:
        """Note the endings, and store the events."""
        self.told.append(endings)
        for party, ending in endings.items():
            event = StatusEvent(
                request.execution_id,
                request.task_request_id,
                party,
                ending.status,
                ending.data,
                "node",
                "task",
            )
            self.store.append(event)

    def clean(self, execution: TakenExecution, succeeded: bool) -> None:
        """Note it."""
        self.cleaned.append((execution.party, succeeded))
        if self.unclean:
            raise self.unclean

    def settle(
        self, ownership: Ownership = SoleOwnership(), inquiry: Inquiry | None = None
    ) -> None:
        """Settle all, and wait for what is settled later."""
        closing = threading.Event()
        Recovery(self.store, ownership, inquiry, self.clean, self.tell).settle(closing)
        wait_for(lambda: self.store.unfinished() == [])
        closing.set()

    def codes(self) -> list[dict[str, str]]:
        """The code of each ending; empty for a success."""
        return [
            {party: ending.data.get("error_code", "") for party, ending in endings.items()}
            for endings in self.told
        ]


@pytest.fixture
def left(tmp_path: Path) -> Iterator[Recovered]:
    """A store in which an execution of alice and bob was left."""
    with EventStore(tmp_path / "state") as store:
        store.claim(REQUEST, *ENDED)
        yield Recovered(store)


@pytest.mark.parametrize("votes", [(), ("alice",), ("bob",)])
def test_without_the_votes_of_all_the_execution_was_lost_with_its_node(
    votes: tuple[str, ...], left: Recovered
) -> None:
    for party in votes:
        left.store.keep_result("e-1", party, {})
    left.settle()
    assert left.codes() == [dict.fromkeys(ENDED, "NodeLost")]
    assert left.cleaned == [("alice", False), ("bob", False)]


def test_with_the_votes_of_all_it_has_succeeded_with_their_results(left: Recovered) -> None:
    for party in ENDED:
        left.store.keep_result("e-1", party, {"of": party})
    left.settle()
    ((alice, bob),) = [endings.values() for endings in left.told]
    assert [ending.data["result"] for ending in (alice, bob)] == [{"of": "alice"}, {"of": "bob"}]
    assert left.cleaned == [("alice", True), ("bob", True)]


def test_each_execution_that_was_left_is_settled_by_itself(left: Recovered) -> None:
    left.store.claim(TaskRequest("e-2", "r-2", PSI), *ENDED)
    for party in ENDED:
        left.store.keep_result("e-2", party, {})
    left.settle()
    assert left.codes() == [dict.fromkeys(ENDED, "NodeLost"), dict.fromkeys(ENDED, "")]


def test_votes_whose_peers_nobody_can_ask_any_more_say_nothing(tmp_path: Path) -> None:
    with EventStore(tmp_path / "state") as store:
        store.claim(REQUEST, "alice")  # bob is at another node, and the link was taken away
        store.vote("e-1", "alice", {})
        left = Recovered(store)
        left.settle()
    assert left.codes() == [{"alice": "SettlementUnknown"}]


def test_what_the_peers_say_is_the_end(tmp_path: Path) -> None:
    def ask(party: str, execution_id: str) -> dict[str, Any]:
        error = AlgorithmError(party=party).to_dict()
        return {"kind": "outcome", "status": "FAILURE", "error": error, "of": execution_id}

    with EventStore(tmp_path / "state") as store:
        store.claim(REQUEST, "bob")
        left = Recovered(store)
        inquiry = Inquiry(store, ask, lambda request, party, data: None, 5.0, 5.0)
        left.settle(inquiry=inquiry)
    assert left.codes() == [{"bob": "AlgorithmError"}]


def test_what_another_node_has_taken_over_is_cleaned_and_not_told(left: Recovered) -> None:
    left.settle(Answers(Claim(Verdict.DROP), False))
    assert left.told == [{}] and left.cleaned == [("alice", False), ("bob", False)]
    assert left.store.status("e-1", "alice") is None


def test_while_it_is_not_known_whose_it_is_it_waits(left: Recovered) -> None:
    closing = threading.Event()
    ownership = Answers(Claim(Verdict.DROP), None)
    Recovery(left.store, ownership, None, left.clean, left.tell).settle(closing)
    time.sleep(0.1)
    assert left.told == [] and left.cleaned == []
    closing.set()


@pytest.mark.parametrize("unclean", [OSError("the disk"), WorkerError("not allowed any more")])
def test_what_cannot_be_cleaned_is_settled_all_the_same(
    unclean: Exception, left: Recovered
) -> None:
    left.unclean = unclean
    left.settle()
    assert left.codes() == [dict.fromkeys(ENDED, "NodeLost")] and len(left.cleaned) == 2


def test_what_a_killed_node_left_is_settled_when_it_starts_again(bench: Bench) -> None:
    with EventStore(bench.settings.state_dir) as store:
        for party in ("alice", "bob"):
            store.claim(TaskRequest("r-1", "r-1", PSI), party)
        store.append(StatusEvent("r-1", "r-1", "alice", Status.RUNNING, {}, "node-1", "t"))
        store.append(StatusEvent("r-1", "r-1", "bob", Status.SUCCESS, {}, "node-1", "t"))
    with bench.node(never) as node:
        assert node.execute("r-1", PSI).status is not Status.SUCCESS
    assert bench.told() == {"alice": [(2, "FAILURE", "NodeLost")]}
    assert bench.events[0].data["retryable"] is True


def test_outputs_that_a_killed_node_had_staged_are_removed_at_its_next_start(bench: Bench) -> None:
    with bench.node(never) as node:
        node.store.claim(TaskRequest("e-1", "r-1", PSI), "alice", "bob")
    folders = [
        bench.root / "data" / party / staging_name("e-1", party) for party in ("alice", "bob")
    ]
    for folder in folders:
        folder.mkdir()
        (folder / "0.csv").write_text("half an output")
    with bench.node(never):
        assert not any(folder.exists() for folder in folders)
    assert bench.told() == {party: [(1, "FAILURE", "NodeLost")] for party in ("alice", "bob")}


def power_cut(bench: Bench, patch: pytest.MonkeyPatch, votes: int) -> None:
    """Run an execution whose node dies when ``votes`` parties have settled over old outputs."""
    for party in ENDED:
        (bench.root / "data" / party / "psi").mkdir()
        (bench.root / "data" / party / "psi" / f"{party}.csv").write_text("old")
    voted: list[str] = []
    keep_result = EventStore.keep_result

    def keep(store: EventStore, execution_id: str, party: str, result: Mapping[str, Any]) -> None:
        voted.append(party)
        if voted.index(party) < votes:
            keep_result(store, execution_id, party, result)

    patch.setattr(EventStore, "keep_result", keep)
    patch.setattr(EventStore, "append_all", lambda store, events: [])
    patch.setattr(EventStore, "forget_result", lambda store, execution_id, party: None)
    patch.setattr(supervisor, "put_back", lambda folders, rules: True)
    patch.setattr(workplace, "remove_staged", lambda folders, succeeded: None)
    if votes < len(ENDED):
        patch.setattr(LocalLink, "settle", lambda link: link.fail(NodeLost()))
    with bench.node() as node:
        node.execute("e-1", PSI)


@pytest.mark.parametrize("votes", [0, 1, 2])
def test_what_a_node_had_moved_when_it_was_killed_stays_if_all_parties_had_settled(
    votes: int, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        power_cut(bench, patch, votes)
    bench.events.clear()
    with bench.node(never):
        ended = {party: events[-1][1:] for party, events in bench.told().items()}
    assert ended == dict.fromkeys(ENDED, ("SUCCESS", "") if votes == 2 else ("FAILURE", "NodeLost"))
    files = {party: bench.root / "data" / party / "psi" / f"{party}.csv" for party in ENDED}
    expected = {party: f"of {party}\n" if votes == 2 else "old" for party in ENDED}
    assert {party: path.read_text() for party, path in files.items()} == expected
    assert bench.files() == sorted(str(path.relative_to(bench.root)) for path in files.values())
    if votes == 2:
        assert {event.data["result"]["party"] for event in bench.events} == ENDED.keys()


def test_what_one_party_had_failed_with_is_said_of_the_other_after_a_restart(bench: Bench) -> None:
    with bench.node(never) as node:
        node.store.claim(TaskRequest("e-1", "r-1", PSI), *ENDED)
        node.store.keep_result("e-1", "bob", {})
        node._reporter.failed(
            TaskRequest("e-1", "r-1", PSI), ["alice"], MissingFile("alice: no file.", party="alice")
        )
    with bench.node(never):
        pass
    assert bench.told() == dict.fromkeys(ENDED, [(1, "FAILURE", "MissingFile")])


def test_what_another_node_has_settled_since_is_undone_and_not_told_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        power_cut(bench, patch, votes=2)
    bench.events.clear()
    asked = Answers(Claim(Verdict.DROP), None, None, False)  # Redis is away for a while
    with bench.node(never, ownership=asked) as node:
        wait_for(lambda: node.store.unfinished() == [])
    assert bench.told() == {} and [path.split("/")[1] for path in bench.files()] == ["alice", "bob"]
    assert {(bench.root / path).read_text() for path in bench.files()} == {"old"}


def test_a_withdrawn_vote_does_not_count(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LocalLink, "settle", lambda link: link.fail(TaskCancelled()))
    with monkeypatch.context() as patch:
        patch.setattr(EventStore, "append_all", lambda store, events: [])
        with bench.node() as node:
            node.execute("e-1", PSI)
    assert bench.files() == []
    bench.events.clear()
    with bench.node(never):
        assert {party: events[-1][1:] for party, events in bench.told().items()} == dict.fromkeys(
            ENDED, ("FAILURE", "NodeLost")
        )


def test_a_full_disk_does_not_keep_a_node_from_starting(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    with bench.node(never) as node:
        node.store.claim(TaskRequest("e-1", "r-1", PSI), *ENDED)
    with monkeypatch.context() as patch:

        def full(*_arguments: Any) -> None:
            raise sqlite3.OperationalError("database or disk is full")

        patch.setattr(EventStore, "give_up", full)
        taken_over = Answers(Claim(Verdict.DROP), False)
        with bench.node(never, ownership=taken_over) as node:
            patch.undo()
            wait_for(lambda: node.store.unfinished() == [])
    assert bench.told() == {}


def test_a_node_whose_folders_have_changed_starts_and_settles(bench: Bench) -> None:
    with bench.node(never) as node:
        node.store.claim(TaskRequest("e-1", "r-1", PSI), "alice", "bob")
    moved = bench.root / "elsewhere"
    bench.settings = bench.settings.model_copy(update={"data_root": moved})
    request = {
        "task_config": {**PSI["task_config"], "input_paths": dict.fromkeys(ENDED, "/gone/x.csv")}
    }
    with EventStore(bench.settings.state_dir) as store:
        store.claim(TaskRequest("e-2", "r-2", request), "alice")
    with bench.node(never) as node:
        assert node.store.unfinished() == []
