"""When nodes cannot talk, no party succeeds where another fails."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import Iterator

import pytest

from secretflow_task.contract.errors import JobProcessDied, TaskCancelled, TaskTimeout
from secretflow_task.node.link.protocol import Unsettled
from secretflow_task.testing import MemorySettlement
from tests.unit.node.link.peer.parties import code


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
