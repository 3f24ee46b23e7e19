"""What the parties share where it is decided: each counts once, and it is decided once."""

from __future__ import annotations

from contextlib import closing
from typing import Iterator

import pytest

from secretflow_task.contract.errors import OutputNotWritable, PeerLost, TaskCancelled
from secretflow_task.node.link.local import LocalSettlement


@pytest.fixture
def decided() -> list[str]:
    """The successes that were written down."""
    return []


@pytest.fixture
def shared(decided: list[str]) -> Iterator[LocalSettlement]:
    """Of alice and bob."""
    with closing(LocalSettlement(["alice", "bob"], lambda: decided.append("success"))) as found:
        yield found


def test_a_vote_that_comes_twice_counts_once(shared: LocalSettlement, decided: list[str]) -> None:
    shared.settle("alice")
    shared.settle("alice")
    assert not shared.succeeded and decided == []
    shared.settle("bob")
    shared.settle("bob")
    assert shared.succeeded and decided == ["success"]


def test_a_result_that_comes_twice_counts_once(shared: LocalSettlement) -> None:
    shared.links["alice"].finish()
    shared.links["alice"].finish()
    assert not shared.all_finished
    shared.links["bob"].finish()
    assert shared.all_finished


def test_nothing_is_agreed_before_the_first_offer(shared: LocalSettlement) -> None:
    assert shared.links["alice"].agreed() is None
    shared.links["bob"].offer({"rows": 3})
    assert shared.links["alice"].agreed() is None


def test_a_party_that_is_ahead_waits_for_its_own_round(shared: LocalSettlement) -> None:
    alice, bob = shared.links["alice"], shared.links["bob"]
    for number in range(2):
        alice.offer({"round": number})
    bob.offer({"round": 0})
    assert alice.agreed() is None
    assert bob.agreed() == {"alice": {"round": 0}, "bob": {"round": 0}}


def test_while_the_success_is_written_down_nobody_can_fail_it(decided: list[str]) -> None:
    def decide() -> None:
        shared.fail(TaskCancelled())
        decided.append("success")

    with closing(LocalSettlement(["alice"], decide)) as shared:
        shared.settle("alice")
        assert shared.succeeded and shared.failure is None


def test_after_a_failure_nothing_is_decided(shared: LocalSettlement, decided: list[str]) -> None:
    shared.fail(PeerLost(party="bob"))
    for party in ("alice", "bob"):
        shared.settle(party)
    assert decided == [] and not shared.succeeded


@pytest.mark.parametrize(
    ("error", "code"), [(OutputNotWritable(), "OutputNotWritable"), (OSError(), "WorkerError")]
)
def test_a_success_that_is_not_written_down_is_a_failure(error: Exception, code: str) -> None:
    def decide() -> None:
        raise error

    with closing(LocalSettlement(["alice"], decide)) as shared:
        shared.settle("alice")
        assert shared.failure and shared.failure.code == code and not shared.succeeded


def test_every_change_is_told_to_the_watchers(shared: LocalSettlement) -> None:
    seen: list[str] = []
    shared.watchers.append(lambda: seen.append("change"))
    link = shared.links["alice"]
    for change in (lambda: link.offer({}), link.finish, link.settle, lambda: link.fail(PeerLost())):
        before = len(seen)
        change()
        assert len(seen) == before + 1
