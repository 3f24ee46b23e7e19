"""A node asks others how an execution that it had left ended, and answers when asked."""

from __future__ import annotations

import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Iterator, Mapping

import pytest

from secretflow_task.contract.errors import AlgorithmError, WorkerError
from secretflow_task.contract.messages import Status, StatusEvent
from secretflow_task.contract.requests import TaskRequest
from secretflow_task.node.inquiry import Inquiry, known_outcome
from secretflow_task.node.link.peer.wire import Message
from secretflow_task.node.store.event_store import EventStore
from tests.bench.waiting import wait_for
from tests.unit.node.test_node import PSI, never
from tests.unit.node.test_two_nodes import PARTIES, Pair

REQUEST = TaskRequest("r-1", "r-1", PSI)


class Peers:
    """The stores of alice's and bob's nodes, which answer each other at once.

    Attributes:
        silent: parties whose nodes cannot be asked.
        reported: the RUNNING events of whoever asks.
    """

    def __init__(self, stores: Mapping[str, EventStore]) -> None:
        self.stores = stores
        self.silent: set[str] = set()
        self.reported: list[tuple[str, Mapping[str, Any]]] = []

    def ask(self, party: str, execution_id: str) -> Message | None:
        """What a party's node answers."""
        if party in self.silent:
            return None
        return known_outcome(self.stores[party], execution_id, frozenset(PARTIES))

    def report(self, _request: TaskRequest, party: str, data: Mapping[str, Any]) -> None:
        """Note it."""
        self.reported.append((party, data))

    def failure(
        self, asker: str, voted: bool = True, seconds: tuple[float, float] = (60.0, 60.0)
    ) -> WorkerError | None:
        """What a party's node finds out, which has taken the execution and perhaps voted.

        ``seconds`` are how long it waits with a vote, and without one.
        """
        store = self.stores[asker]
        store.claim(REQUEST, asker)
        others = [party for party in PARTIES if party != asker]
        inquiry = Inquiry(store, self.ask, self.report, *seconds)
        return inquiry.failure(store.taken("r-1"), others, voted, threading.Event())

    def end(self, party: str, status: Status, error: WorkerError | None = None) -> None:
        """Let the execution end at a party's node."""
        data = error.as_event_data() if error else {}
        self.stores[party].claim(REQUEST, party)
        self.stores[party].append(StatusEvent("r-1", "r-1", party, status, data, "node", "task"))


@pytest.fixture
def peers(tmp_path: Path) -> Iterator[Peers]:
    """Both nodes, with empty stores."""
    with ExitStack() as stack:
        yield Peers({party: stack.enter_context(EventStore(tmp_path / party)) for party in PARTIES})


def ended(failure: WorkerError | None) -> tuple[str, str | None]:
    """The code and the party of a failure."""
    assert failure is not None
    return failure.code, failure.party


def test_who_has_voted_hears_of_the_success_that_the_coordinator_wrote_down(peers: Peers) -> None:
    peers.stores["alice"].claim(REQUEST, "alice")
    peers.stores["alice"].decide("r-1")
    assert peers.failure("bob") is None
    assert peers.reported == [("bob", {"stage": "settling", "progress": 0.999})]


def test_the_failure_at_the_coordinator_is_the_failure_here(peers: Peers) -> None:
    peers.end("alice", Status.FAILURE, AlgorithmError("It did not converge.", party="alice"))
    for voted in (True, False):
        failure = peers.failure("bob", voted)
        assert ended(failure) == ("AlgorithmError", "alice")
        assert failure and failure.message == "It did not converge."


@pytest.mark.parametrize(
    ("voted", "expected"), [(True, ("SettlementUnknown", "alice")), (False, ("NodeLost", "bob"))]
)
def test_a_coordinator_that_knows_nothing_ends_the_wait_at_once(
    voted: bool, expected: tuple[str, str], peers: Peers
) -> None:
    started = time.monotonic()
    assert ended(peers.failure("bob", voted)) == expected
    assert time.monotonic() - started < 30


@pytest.mark.parametrize(
    ("voted", "expected", "seconds"),
    [(True, ("SettlementUnknown", "alice"), 0.3), (False, ("NodeLost", "bob"), 0.2)],
)
def test_a_coordinator_that_cannot_be_asked_is_waited_for(
    voted: bool, expected: tuple[str, str], seconds: float, peers: Peers
) -> None:
    peers.silent.add("alice")
    started = time.monotonic()
    assert ended(peers.failure("bob", voted, (0.3, 0.2))) == expected
    assert time.monotonic() - started >= seconds


def test_a_success_is_not_believed_without_the_own_vote(peers: Peers) -> None:
    peers.stores["alice"].claim(REQUEST, "alice")
    peers.stores["alice"].decide("r-1")
    assert ended(peers.failure("bob", False, (60.0, 0.2))) == ("NodeLost", "bob")


def test_an_answer_that_is_not_needed_any_more_is_not_waited_for(peers: Peers) -> None:
    peers.silent.add("alice")
    store, closing = peers.stores["bob"], threading.Event()
    store.claim(REQUEST, "bob")
    closing.set()
    inquiry = Inquiry(store, peers.ask, peers.report, settle_seconds=60.0, lost_seconds=60.0)
    failure = inquiry.failure(store.taken("r-1"), ["alice"], True, closing)
    assert ended(failure) == ("SettlementUnknown", "alice")


def test_the_coordinator_knows_by_itself_that_it_has_succeeded(peers: Peers) -> None:
    peers.silent.add("bob")
    peers.stores["alice"].claim(REQUEST, "alice")
    peers.stores["alice"].decide("r-1")
    assert peers.failure("alice") is None


def test_the_coordinator_takes_over_what_a_member_has_seen_of_its_end(peers: Peers) -> None:
    assert ended(peers.failure("alice")) == ("NodeLost", "alice")
    peers.end("bob", Status.FAILURE, AlgorithmError(party="bob"))
    assert ended(peers.failure("alice")) == ("AlgorithmError", "bob")


def test_what_a_node_says_when_it_is_asked(peers: Peers) -> None:
    store, own = peers.stores["alice"], frozenset({"bob"})

    def answer(askers: frozenset[str]) -> Message:
        return known_outcome(store, "r-1", askers)

    assert answer(own)["status"] == "UNKNOWN"
    store.claim(REQUEST, "alice")
    assert answer(own)["status"] == "RUNNING"
    assert answer(frozenset({"carol"}))["status"] == "UNKNOWN"  # who takes no part in it
    peers.end("alice", Status.SUCCESS)
    assert answer(own)["status"] == "SUCCESS"


def test_a_failure_whose_event_is_forgotten_is_that_of_a_lost_node(peers: Peers) -> None:
    peers.end("alice", Status.FAILURE, AlgorithmError(party="alice"))
    assert peers.ask("alice", "r-1")["error"]["code"] == "AlgorithmError"  # type: ignore[index]
    peers.stores["alice"]._db.execute("DELETE FROM events")
    assert peers.ask("alice", "r-1")["error"]["code"] == "NodeLost"  # type: ignore[index]


class Left:
    """What a node that was killed had written down of an execution."""

    def __init__(self, pair: Pair, party: str) -> None:
        self._pair = pair
        self._party = party

    def note(self, voted: bool = False, decided: bool = False) -> None:
        """Write it down: taken, perhaps voted, perhaps decided."""
        with EventStore(self._pair.settings(self._party).state_dir) as store:
            store.claim(TaskRequest("r-1", "r-1", PSI), self._party)
            if voted:
                store.vote("r-1", self._party, {"of": self._party})
            if decided:
                store.decide("r-1")


@pytest.mark.parametrize("first", PARTIES)
def test_a_success_that_was_written_down_is_one_at_both_after_both_were_killed(
    first: str, pair: Pair
) -> None:
    Left(pair, "alice").note(voted=True, decided=True)
    Left(pair, "bob").note(voted=True)
    second = next(party for party in PARTIES if party != first)
    with pair.node(first, never), pair.node(second, never):
        wait_for(lambda: pair.all_are("SUCCESS"))
    assert {party: events[-1].data["result"] for party, events in pair.events.items()} == {
        party: {"of": party} for party in PARTIES
    }


@pytest.mark.parametrize("first", PARTIES)
@pytest.mark.parametrize("votes", [(), ("alice",), ("bob",), PARTIES])
def test_a_success_that_was_not_written_down_is_none_at_either(
    votes: tuple[str, ...], first: str, pair: Pair
) -> None:
    for party in PARTIES:
        Left(pair, party).note(voted=party in votes)
    second = next(party for party in PARTIES if party != first)
    with pair.node(first, never), pair.node(second, never):
        wait_for(lambda: pair.all_are("FAILURE"))
    codes = {end[1] for end in pair.ends().values()}
    assert codes == {"NodeLost"}


def test_who_has_voted_and_cannot_ask_ends_without_knowing(pair: Pair) -> None:
    Left(pair, "bob").note(voted=True)
    with pair.node("bob", never, settle_seconds=1.0):
        wait_for(lambda: pair.ends().get("bob") == ("FAILURE", "SettlementUnknown", "alice"))
    stages = [event.data.get("stage") for event in pair.events["bob"]]
    assert stages == ["settling", None]


def test_the_next_start_goes_on_with_what_the_last_one_left_open(pair: Pair) -> None:
    Left(pair, "bob").note(voted=True)
    with pair.node("bob", never):
        wait_for(lambda: "bob" in pair.ends())
    assert pair.ends()["bob"][0] == "RUNNING"
    Left(pair, "alice").note(voted=True, decided=True)
    with pair.nodes(never):
        wait_for(lambda: pair.all_are("SUCCESS"))
