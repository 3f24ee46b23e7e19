"""A seat says for the parties of another node what they say, and no more than they may say now."""

from __future__ import annotations

from contextlib import closing
from typing import Any, Iterator

import pytest

from secretflow_task.contract.errors import PeerLost, TaskCancelled
from secretflow_task.node.link.local import LocalSettlement
from secretflow_task.node.link.peer.seat import Seat
from secretflow_task.node.link.peer.wire import Garbled
from tests.unit.node.link.peer.parties import code

OFFER = {"kind": "offer", "party": "bob", "facts": {"rows": 3}}
FINISH = {"kind": "finish", "party": "bob"}
SETTLE = {"kind": "settle", "party": "bob"}


@pytest.fixture
def shared() -> Iterator[LocalSettlement]:
    """Of alice, whose node decides, and bob."""
    with closing(LocalSettlement(["alice", "bob"])) as found:
        yield found


@pytest.fixture
def seat(shared: LocalSettlement) -> Seat:
    """Bob's."""
    return Seat(shared, ("bob",))


def test_a_success_step_by_step(shared: LocalSettlement, seat: Seat) -> None:
    alice = shared.links["alice"]
    seat.receive(OFFER)
    alice.offer({"rows": 5})
    facts = {"alice": {"rows": 5}, "bob": {"rows": 3}}
    assert seat.take() == [{"kind": "agreed", "facts": facts}] and alice.agreed() == facts
    seat.receive(FINISH)
    alice.finish()
    assert seat.take() == [{"kind": "finished"}]
    seat.receive(SETTLE)
    alice.settle()
    assert seat.take() == [{"kind": "succeeded"}] and shared.succeeded


def test_what_is_told_is_told_once(shared: LocalSettlement, seat: Seat) -> None:
    seat.all_are_here = True
    shared.fail(TaskCancelled(party="alice"))
    failed = {"kind": "failed", "error": TaskCancelled(party="alice").to_dict()}
    assert seat.take() == [{"kind": "joined"}, failed]
    shared.fail(PeerLost())
    assert seat.take() == []


def test_rounds_that_were_agreed_at_once_are_told_in_order(
    shared: LocalSettlement, seat: Seat
) -> None:
    for number in range(3):
        shared.links["alice"].offer({"round": number})
    for number in range(2):
        seat.receive(OFFER | {"facts": {"round": number}})
    told = [message["facts"]["bob"]["round"] for message in seat.take()]
    assert told == [0, 1] and seat.take() == []


def test_a_vote_that_comes_twice_counts_once(shared: LocalSettlement, seat: Seat) -> None:
    shared.links["alice"].finish()
    for message in (FINISH, SETTLE, SETTLE):
        seat.receive(message)
    assert shared.settled == {"bob"} and not shared.succeeded


def test_a_party_offers_once_a_round(shared: LocalSettlement, seat: Seat) -> None:
    seat.receive(OFFER)
    with pytest.raises(Garbled):
        seat.receive(OFFER)
    shared.links["alice"].offer({})
    seat.receive(OFFER)


def test_a_vote_before_all_have_finished_is_refused(shared: LocalSettlement, seat: Seat) -> None:
    seat.receive(FINISH)
    with pytest.raises(Garbled):
        seat.receive(SETTLE)
    assert shared.settled == set()


@pytest.mark.parametrize(
    "message",
    [
        {},
        {"kind": "offer"},
        OFFER | {"party": "alice"},
        OFFER | {"party": ["bob"]},
        OFFER | {"facts": 5},
        OFFER | {"facts": None},
        FINISH | {"party": "alice"},
        {"kind": "fail"},
        {"kind": "fail", "error": "text"},
        {"kind": "succeeded", "party": "bob"},
        {"kind": None, "party": "bob"},
    ],
    ids=repr,
)
def test_what_makes_no_sense_is_refused_and_changes_nothing(
    message: dict[str, Any], shared: LocalSettlement, seat: Seat
) -> None:
    with pytest.raises(Garbled):
        seat.receive(message)
    assert shared.failure is None and shared.finished == set()
    assert shared.links["bob"].agreed() is None


def test_a_failure_names_who_failed(shared: LocalSettlement, seat: Seat) -> None:
    seat.receive({"kind": "fail", "error": TaskCancelled(party="bob").to_dict()})
    assert code(shared.failure) == ("TaskCancelled", "bob")


def test_a_node_that_is_lost_before_its_vote_ends_the_execution(
    shared: LocalSettlement, seat: Seat
) -> None:
    seat.lost(PeerLost(party="bob"))
    assert code(shared.failure) == ("PeerLost", "bob")


def test_a_node_that_is_lost_after_its_vote_is_not_needed(
    shared: LocalSettlement, seat: Seat
) -> None:
    shared.links["alice"].finish()
    for message in (FINISH, SETTLE):
        seat.receive(message)
    seat.lost(PeerLost(party="bob"))
    shared.links["alice"].settle()
    assert shared.succeeded


def test_a_node_of_two_parties_is_needed_until_both_have_voted() -> None:
    with closing(LocalSettlement(["alice", "bob", "carol"])) as shared:
        seat = Seat(shared, ("bob", "carol"))
        shared.settle("bob")
        seat.lost(PeerLost(party="bob"))
        assert code(shared.failure) == ("PeerLost", "bob")
