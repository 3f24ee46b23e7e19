"""When nodes cannot talk, no party succeeds where another fails, and each ends as soon as that is certain."""

from __future__ import annotations

import asyncio
import socket
import sqlite3
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Iterator

import pytest

from secretflow_task.contract.errors import (
    JobProcessDied,
    PeerUnreachable,
    TaskCancelled,
    TaskTimeout,
    WorkerError,
)
from secretflow_task.node.link.peer.agenda import Agenda
from secretflow_task.node.link.peer.certificates import make_certificate
from secretflow_task.node.link.peer.settlement import PeerSettlement
from secretflow_task.node.link.peer.member import Member
from secretflow_task.node.link.protocol import Unsettled
from secretflow_task.testing import MemorySettlement
from tests.bench.waiting import comes_true
from tests.peers import Hubs


def code(error: WorkerError | None) -> tuple[str, str | None] | None:
    """The code of a failure, and the party where it began."""
    return (error.code, error.party) if error else None


@pytest.fixture
def pair() -> Iterator[MemorySettlement]:
    """Alice, who coordinates, and bob."""
    with closing(MemorySettlement(["alice", "bob"])) as execution:
        execution.join()
        yield execution


def finish(execution: MemorySettlement) -> None:
    """Let both finish."""
    for link in execution.links.values():
        link.finish()


def test_a_link_that_breaks_before_the_votes_is_the_end_at_both(pair: MemorySettlement) -> None:
    finish(pair)
    pair.cables["bob"].cut()
    assert code(pair.links["alice"].failed) == ("PeerLost", "bob")
    assert code(pair.links["bob"].failed) == ("PeerLost", "alice")
    pair.links["bob"].settle()
    assert pair.members["bob"].take() == [] and not pair.links["bob"].succeeded


def test_who_has_voted_waits_and_learns_of_the_failure(pair: MemorySettlement) -> None:
    finish(pair)
    pair.cables["bob"].is_cut = True  # bob's vote is lost
    pair.links["bob"].settle()
    pair.cables["bob"].cut()
    assert pair.links["bob"].failed is None and pair.members["bob"].uncertain
    pair.links["alice"].settle()
    pair.cables["bob"].ask()
    failures = [code(link.failed) for link in pair.links.values()]
    assert failures == [("PeerLost", "bob")] * 2


def test_who_has_voted_waits_and_learns_of_the_success(pair: MemorySettlement) -> None:
    finish(pair)
    pair.links["bob"].settle()
    pair.cables["bob"].cut()  # alice has bob's vote, and needs nothing more from him
    pair.cables["bob"].ask()
    assert pair.members["bob"].uncertain and pair.links["alice"].failed is None
    pair.links["alice"].settle()
    assert pair.links["alice"].succeeded and not pair.links["bob"].succeeded
    pair.cables["bob"].ask()
    assert pair.links["bob"].succeeded


def test_who_has_voted_cannot_fail_alone(pair: MemorySettlement) -> None:
    finish(pair)
    pair.links["bob"].settle()
    pair.cables["bob"].cut()
    pair.links["bob"].fail(TaskTimeout(party="bob"))
    assert pair.links["bob"].failed is None
    pair.links["alice"].settle()
    pair.cables["bob"].ask()
    assert pair.links["bob"].succeeded and pair.links["alice"].succeeded


def test_a_node_that_ends_leaves_open_what_it_has_voted_for(pair: MemorySettlement) -> None:
    finish(pair)
    pair.members["bob"].abandon()
    assert pair.links["bob"].failed is None
    pair.links["bob"].settle()
    pair.cables["bob"].cut()
    with pytest.raises(Unsettled):
        assert pair.links["bob"].failed


def test_a_coordinator_that_knows_nothing_of_it_ends_the_wait(pair: MemorySettlement) -> None:
    finish(pair)
    pair.links["bob"].settle()
    pair.cables["bob"].cut()
    pair.members["bob"].learn({"kind": "outcome", "status": "UNKNOWN"})
    assert code(pair.links["bob"].failed) == ("SettlementUnknown", None)


def test_the_own_failure_counts_when_the_coordinator_does_not_answer_any_more(
    pair: MemorySettlement,
) -> None:
    pair.cables["bob"].is_cut = True
    pair.links["bob"].fail(JobProcessDied(party="bob"))
    assert pair.links["bob"].failed is None
    pair.cables["bob"].cut()
    assert code(pair.links["bob"].failed) == ("JobProcessDied", "bob")


def test_of_three_the_two_that_are_left_hear_who_was_lost() -> None:
    with closing(MemorySettlement(["alice", "bob", "carol"])) as execution:
        execution.join()
        execution.cables["carol"].cut()
        failures = {party: code(link.failed) for party, link in execution.links.items()}
    carol = ("PeerLost", "carol")
    assert failures == {"alice": carol, "bob": carol, "carol": ("PeerLost", "alice")}


def test_a_party_that_has_not_voted_ends_by_itself_when_nobody_answers(
    pair: MemorySettlement,
) -> None:
    pair.members["bob"]._patience_seconds = 0.2
    pair.cables["bob"].is_cut = True  # the coordinator is alive, and says nothing
    pair.links["bob"].fail(TaskCancelled(party="bob"))
    assert pair.links["bob"].failed is None
    assert comes_true(lambda: code(pair.links["bob"].failed) == ("TaskCancelled", "bob"))


def test_who_has_voted_does_not_end_by_itself_however_long_it_takes(pair: MemorySettlement) -> None:
    pair.members["bob"]._patience_seconds = 0.1
    finish(pair)
    pair.cables["bob"].is_cut = True
    pair.links["bob"].settle()
    pair.links["bob"].fail(TaskCancelled(party="bob"))
    time.sleep(0.3)
    assert pair.links["bob"].failed is None


def test_a_coordinator_that_never_begins_is_waited_for_and_no_longer() -> None:
    agenda = Agenda("e", ("alice", "bob"), ("bob",), "digest", "protocol")
    member = Member(agenda, patience_seconds=0.2, join_seconds=0.3)
    member.attach("0" * 32)
    with closing(member), pytest.raises(PeerUnreachable):
        member.join()


@pytest.mark.parametrize("error", [sqlite3.DatabaseError("malformed"), TaskCancelled()])
def test_a_success_that_cannot_be_written_down_is_a_failure_at_both(error: Exception) -> None:
    def decide() -> None:
        raise error

    with closing(MemorySettlement(["alice", "bob"], decide)) as execution:
        execution.join()
        finish(execution)
        for link in execution.links.values():
            link.settle()
        expected = "TaskCancelled" if isinstance(error, TaskCancelled) else "WorkerError"
        assert [
            failed and failed.code for failed in (link.failed for link in execution.links.values())
        ] == [expected] * 2


@pytest.fixture
def hubs(tmp_path: Path) -> Iterator[Hubs]:
    """Two nodes whose link counts as lost after a second."""
    with Hubs(tmp_path, "alice", "bob", settle_seconds=1.5) as running:
        yield running


def test_a_request_that_comes_late_to_one_is_waited_for(hubs: Hubs) -> None:
    with closing(hubs.open("e", "bob")) as bob:
        time.sleep(1.0)
        with closing(hubs.open("e", "alice")) as alice:
            alice.join()
            bob.join()


@pytest.mark.parametrize("present", ["alice", "bob"])
def test_a_request_that_never_comes_to_one_is_told_to_the_other(
    present: str, tmp_path: Path
) -> None:
    with Hubs(tmp_path, "alice", "bob", join_seconds=0.5) as hubs:
        with closing(hubs.open("e", present)) as end, pytest.raises(WorkerError) as raised:
            end.join()
    absent = "bob" if present == "alice" else "alice"
    assert code(raised.value) == ("PeerUnreachable", absent)


def test_a_member_that_refuses_before_it_has_joined_says_so(hubs: Hubs) -> None:
    with closing(hubs.open("e", "bob")) as bob:
        bob.links["bob"].fail(TaskCancelled(party="bob"))
        with pytest.raises(TaskCancelled):
            bob.join()
    with closing(hubs.open("e", "alice")) as alice:
        assert comes_true(lambda: code(alice.links["alice"].failed) == ("TaskCancelled", "bob"))


def test_who_comes_after_the_end_hears_how_it_ended(hubs: Hubs) -> None:
    failure = TaskCancelled(party="alice")
    hubs.outcomes["alice", "e"] = {
        "kind": "outcome",
        "status": "FAILURE",
        "error": failure.to_dict(),
    }
    with closing(hubs.open("e", "bob")) as bob, pytest.raises(TaskCancelled):
        bob.join()


def test_a_node_that_goes_away_is_lost_at_once(hubs: Hubs) -> None:
    with closing(hubs.open("e", "alice")) as alice, closing(hubs.open("e", "bob")) as bob:
        alice.join()
        bob.join()
        started = time.monotonic()
        hubs.stop("bob")
        assert comes_true(lambda: code(alice.links["alice"].failed) == ("PeerLost", "bob"))
        assert time.monotonic() - started < 20.0
        hubs.start("bob")


def undecided(hubs: Hubs) -> tuple[PeerSettlement, PeerSettlement]:
    """An execution for which bob has voted, and whose coordinator went away before it had decided."""
    alice, bob = hubs.open("e", "alice"), hubs.open("e", "bob")
    alice.join()
    bob.join()
    for end, party in ((alice, "alice"), (bob, "bob")):
        end.links[party].finish()
    assert comes_true(lambda: bob.links["bob"].finished)
    bob.links["bob"].settle()
    time.sleep(0.2)
    hubs.stop("alice")
    return alice, bob


def test_a_decision_that_nobody_knows_is_waited_for_and_no_longer(hubs: Hubs) -> None:
    alice, bob = undecided(hubs)
    started = time.monotonic()
    while bob.links["bob"].failed is None:
        assert time.monotonic() - started < 30.0
        time.sleep(0.01)
    assert code(bob.links["bob"].failed) == ("SettlementUnknown", "alice")
    assert time.monotonic() - started > 1.0
    bob.close()
    alice.end.close()


@pytest.mark.parametrize(
    "answer",
    [
        {"kind": "outcome", "status": "FAILURE"},
        {"kind": "outcome", "status": "FAILURE", "error": {"party": "\n"}},
        {"kind": "outcome", "status": "PERHAPS"},
        {"kind": "outcome"},
    ],
)
def test_a_senseless_answer_is_none_and_the_wait_ends_in_time(
    answer: dict[str, object], hubs: Hubs
) -> None:
    alice, bob = undecided(hubs)
    hubs.outcomes["alice", "e"] = answer
    hubs.start("alice")
    assert comes_true(lambda: code(bob.links["bob"].failed) == ("SettlementUnknown", "alice"))
    bob.close()
    alice.end.close()


def test_a_certificate_may_change_while_a_decision_is_waited_for(
    hubs: Hubs, tmp_path: Path
) -> None:
    alice, bob = undecided(hubs)
    hubs.identities["alice"], hubs.fingerprints["alice"] = make_certificate(
        "alice", tmp_path / "next"
    )
    hubs.write_book("bob")
    hubs.hubs["bob"].reload()
    hubs.outcomes["alice", "e"] = {"kind": "outcome", "status": "SUCCESS"}
    hubs.start("alice")
    assert comes_true(lambda: bob.links["bob"].succeeded)
    bob.close()
    alice.end.close()


def test_a_peer_whose_name_does_not_resolve_does_not_disturb_the_others(
    hubs: Hubs, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(hubs.open("e", "alice")) as alice, closing(hubs.open("e", "bob")) as bob:
        alice.join()
        bob.join()
        resolve = socket.getaddrinfo

        def stuck(host: object, *rest: object, **options: object) -> object:
            if host == "stuck.example":
                time.sleep(3.0)
                raise OSError
            return resolve(host, *rest, **options)  # type: ignore[call-overload]

        monkeypatch.setattr(socket, "getaddrinfo", stuck)
        hub = hubs.hubs["alice"]
        hub.dialler.book.peers["bob"] = replace(hub.dialler.book.peers["bob"], host="stuck.example")
        for _ in range(40):
            asyncio.run_coroutine_threadsafe(hub.dialler.dial("bob"), hub._loop)
        time.sleep(2.0)  # twice the time after which a silent peer is lost
        assert alice.links["alice"].failed is None and bob.links["bob"].failed is None


def test_a_node_answers_how_an_execution_ended_as_long_as_it_knows(hubs: Hubs) -> None:
    success = {"kind": "outcome", "status": "SUCCESS"}
    hubs.outcomes["alice", "old"] = success
    assert hubs.hubs["bob"].ask("alice", "old") == success
    assert hubs.hubs["bob"].ask("alice", "none") == {"kind": "outcome", "status": "UNKNOWN"}
    with closing(hubs.open("e", "alice")):
        assert hubs.hubs["bob"].ask("alice", "e") == {"kind": "outcome", "status": "RUNNING"}
