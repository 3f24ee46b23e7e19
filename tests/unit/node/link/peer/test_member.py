"""A party whose coordinator is elsewhere ends alone only while nothing can succeed."""

from __future__ import annotations

import select
import threading
from contextlib import closing
from typing import Any, Iterator

import pytest

from secretflow_task.contract.errors import (
    JobProcessDied,
    PeerLost,
    PeerUnreachable,
    SettlementUnknown,
    TaskCancelled,
)
from secretflow_task.node.link.peer.member import Member
from secretflow_task.node.link.peer.wire import Garbled
from secretflow_task.node.link.protocol import PeerLink, Unsettled
from tests.bench.waiting import PATIENCE_SECONDS
from tests.unit.node.link.peer.parties import SESSION, Clock, agenda, code


@pytest.fixture
def clock() -> Clock:
    """What the member takes for the time."""
    return Clock()


@pytest.fixture
def member(clock: Clock) -> Iterator[Member]:
    """Bob, whom the coordinator has let in."""
    with closing(Member(agenda("bob"), PATIENCE_SECONDS, 20.0, clock)) as found:
        found.attach(SESSION)
        yield found


@pytest.fixture
def bob(member: Member) -> PeerLink:
    """Bob's link."""
    return member.links["bob"]


@pytest.fixture
def voted(member: Member, bob: PeerLink) -> PeerLink:
    """Bob's link after his vote."""
    bob.finish()
    member.receive({"kind": "finished"})
    bob.settle()
    member.take()
    return bob


def failed(code_: str = "TaskCancelled") -> dict[str, Any]:
    """What the coordinator says of a failure."""
    return {"kind": "failed", "error": {"code": code_, "message": "It ended.", "party": "alice"}}


def test_a_vote_that_comes_twice_is_sent_once(member: Member, bob: PeerLink) -> None:
    bob.settle()
    bob.settle()
    assert member.take() == [{"kind": "settle", "party": "bob"}] and member.take() == []


def test_a_wish_to_end_is_sent_once(member: Member, bob: PeerLink) -> None:
    bob.fail(TaskCancelled(party="bob"))
    bob.fail(JobProcessDied(party="bob"))
    error = TaskCancelled(party="bob").to_dict()
    assert member.take() == [{"kind": "fail", "error": error}]


def test_after_a_failure_there_is_no_vote(member: Member, bob: PeerLink) -> None:
    member.receive(failed())
    bob.settle()
    assert member.take() == [] and code(bob.failed) == ("TaskCancelled", "alice")


def test_the_first_failure_is_the_one_that_counts(member: Member, bob: PeerLink) -> None:
    for name in ("TaskCancelled", "PeerLost"):
        member.receive(failed(name))
    assert code(bob.failed) == ("TaskCancelled", "alice")


def test_facts_are_those_of_the_own_round(member: Member, bob: PeerLink) -> None:
    rounds = [{"alice": {"round": number}, "bob": {"round": number}} for number in range(2)]
    assert bob.agreed() is None
    for facts in rounds:
        bob.offer({})
        assert bob.agreed() is None
        member.receive({"kind": "agreed", "facts": facts})
        assert bob.agreed() == facts


def test_a_party_that_has_not_voted_ends_alone_after_its_patience(
    bob: PeerLink, clock: Clock
) -> None:
    bob.fail(TaskCancelled(party="bob"))
    clock.now += PATIENCE_SECONDS
    assert bob.failed is None
    clock.now += 0.001
    assert code(bob.failed) == ("TaskCancelled", "bob")


def test_a_party_that_asks_for_nothing_waits_for_ever(bob: PeerLink, clock: Clock) -> None:
    clock.now += 1e9
    assert bob.failed is None


def test_a_party_that_has_voted_never_ends_alone(voted: PeerLink, clock: Clock) -> None:
    voted.fail(TaskCancelled(party="bob"))
    clock.now += 1e9
    assert voted.failed is None and not voted.succeeded


def test_a_coordinator_that_is_lost_before_the_vote_is_the_end(
    member: Member, bob: PeerLink
) -> None:
    member.lost(PeerLost(party="alice"))
    assert code(bob.failed) == ("PeerLost", "alice") and member.done


def test_the_own_failure_counts_more_than_the_loss(member: Member, bob: PeerLink) -> None:
    bob.fail(JobProcessDied(party="bob"))
    member.lost(PeerLost(party="alice"))
    assert code(bob.failed) == ("JobProcessDied", "bob")


def test_a_coordinator_that_is_lost_after_the_vote_is_waited_for(
    member: Member, voted: PeerLink
) -> None:
    member.lost(PeerLost(party="alice"))
    assert voted.failed is None and member.uncertain and not member.done


def test_of_two_parties_at_one_node_both_must_have_voted() -> None:
    three = ("alice", "bob", "carol")
    with closing(Member(agenda("bob", "carol", parties=three), 1.0, 1.0)) as member:
        member.attach(SESSION)
        member.links["bob"].settle()
        assert not member.uncertain
        with pytest.raises(Garbled):
            member.receive({"kind": "succeeded"})
        member.links["carol"].settle()
        member.receive({"kind": "succeeded"})
        assert all(link.succeeded for link in member.links.values())


@pytest.mark.parametrize(
    ("answer", "end"),
    [
        ({"status": "SUCCESS"}, None),
        ({"status": "FAILURE", "error": failed()["error"]}, ("TaskCancelled", "alice")),
        ({"status": "UNKNOWN"}, ("SettlementUnknown", None)),
    ],
)
def test_the_answer_to_its_question_is_the_end(
    answer: dict[str, Any], end: object, member: Member, voted: PeerLink
) -> None:
    member.lost(PeerLost(party="alice"))
    member.learn({"status": "RUNNING"})
    assert member.uncertain
    member.learn(answer)
    assert code(voted.failed) == end and voted.succeeded is (end is None)
    member.learn({"status": "UNKNOWN"})
    member.learn({"status": "SUCCESS"})
    assert code(voted.failed) == end and voted.succeeded is (end is None)


def test_a_success_without_the_own_vote_is_not_believed(member: Member, bob: PeerLink) -> None:
    member.learn({"status": "SUCCESS"})
    with pytest.raises(Garbled):
        member.receive({"kind": "succeeded"})
    assert not bob.succeeded


def test_a_success_stays_one(member: Member, voted: PeerLink) -> None:
    member.receive({"kind": "succeeded"})
    member.lost(PeerLost(party="alice"))
    member.give_up(SettlementUnknown())
    member.left_alone()
    voted.fail(TaskCancelled())
    assert voted.succeeded and voted.failed is None


@pytest.mark.parametrize(
    "message",
    [
        {},
        {"kind": "settle"},
        {"kind": "agreed"},
        {"kind": "agreed", "facts": [1]},
        {"kind": "agreed", "facts": {"alice": 5}},
        {"kind": "failed"},
        {"kind": "failed", "error": {"message": 7}},
        {"kind": None},
    ],
    ids=repr,
)
def test_what_makes_no_sense_is_refused_and_changes_nothing(
    message: dict[str, Any], member: Member, bob: PeerLink
) -> None:
    with pytest.raises(Garbled):
        member.receive(message)
    assert bob.failed is None and not bob.succeeded and member.rounds == []


@pytest.mark.parametrize("session", [None, "", "guessed", 5])
def test_what_is_not_a_session_is_refused(session: Any) -> None:
    with closing(Member(agenda("bob"), 1.0, 1.0)) as member:
        with pytest.raises(ValueError, match="no session"):
            member.attach(session)
        assert member.session is None


def test_before_the_coordinator_has_let_it_in_a_party_ends_alone() -> None:
    with closing(Member(agenda("bob"), 1.0, 1.0)) as member:
        assert "refuses" not in member.introduction()
        member.fail(TaskCancelled(party="bob"))
        assert member.introduction()["refuses"] == TaskCancelled(party="bob").to_dict()
        assert code(member.failure) == ("TaskCancelled", "bob")


def test_a_node_that_ends_leaves_open_what_it_has_voted_for(
    member: Member, voted: PeerLink
) -> None:
    member.abandon()
    member.left_alone()
    with pytest.raises(Unsettled):
        assert voted.failed


def test_a_node_that_ends_fails_what_it_has_not_voted_for(member: Member, bob: PeerLink) -> None:
    member.abandon()
    member.left_alone()
    assert code(bob.failed) == ("PeerLost", "alice")


def test_who_is_left_alone_after_the_vote_does_not_know(member: Member, voted: PeerLink) -> None:
    member.left_alone()
    assert code(voted.failed) == ("SettlementUnknown", "alice")


def test_it_waits_until_all_have_joined(member: Member) -> None:
    joining = threading.Thread(target=member.join)
    joining.start()
    member.receive({"kind": "joined"})
    joining.join(PATIENCE_SECONDS)
    assert not joining.is_alive()


def test_a_failure_ends_the_wait_for_the_others(member: Member) -> None:
    member.receive(failed())
    with pytest.raises(TaskCancelled):
        member.join()


def test_a_coordinator_that_never_begins_is_waited_for_and_no_longer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("secretflow_task.node.link.peer.member._LOOK_SECONDS", 0.001)
    with closing(Member(agenda("bob"), patience_seconds=0.0, join_seconds=0.0)) as member:
        member.attach(SESSION)
        with pytest.raises(PeerUnreachable, match="did not join in time"):
            member.join()


def test_every_change_wakes_the_supervisor_and_the_conversation(
    member: Member, bob: PeerLink
) -> None:
    seen: list[str] = []
    member.watch(lambda: seen.append("change"))
    changes = (
        lambda: bob.offer({}),
        lambda: member.receive({"kind": "joined"}),
        bob.finish,
        bob.settle,
        lambda: bob.fail(TaskCancelled()),
        lambda: member.lost(PeerLost()),
        member.abandon,
        lambda: member.learn({"status": "UNKNOWN"}),
    )
    for number, change in enumerate(changes, 1):
        bob.clear()
        change()
        assert len(seen) == number and select.select([bob], [], [], 0)[0]
