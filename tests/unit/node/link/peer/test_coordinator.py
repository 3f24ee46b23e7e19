"""The coordinator gives each party of the execution one seat, and says how it ended."""

from __future__ import annotations

from contextlib import closing
from typing import Any, Iterator

import pytest

from secretflow_task.contract.errors import (
    PeerLost,
    PeerRefused,
    PeerUnreachable,
    RequestMismatch,
    TaskCancelled,
)
from secretflow_task.node.link.peer.coordinator import Coordinator
from secretflow_task.node.link.peer.tokens import Nonces, is_token
from secretflow_task.node.link.peer.wire import Garbled
from tests.unit.node.link.peer.parties import agenda, code, coordinator

THREE = ("alice", "bob", "carol")


@pytest.fixture
def alice() -> Iterator[Coordinator]:
    """Alice's, who coordinates an execution with bob."""
    with closing(coordinator()) as found:
        yield found


def test_it_waits_until_every_party_has_its_seat() -> None:
    with closing(coordinator(THREE)) as alice:
        seats = [alice.seat(agenda(party, parties=THREE).join()) for party in ("carol", "bob")]
        assert [seat.take() for seat in seats] == [[], []]
        alice.join()
        assert [seat.take() for seat in seats] == [[{"kind": "joined"}]] * 2


def test_a_node_of_two_parties_takes_both_seats() -> None:
    with closing(coordinator(THREE)) as alice:
        seat = alice.seat(agenda("bob", "carol", parties=THREE).join())
        assert seat.parties == ("bob", "carol")
        alice.join()


def test_a_party_that_does_not_come_is_unreachable_for_all() -> None:
    with closing(coordinator(THREE)) as alice:
        seat = alice.seat(agenda("bob", parties=THREE).join())
        with pytest.raises(PeerUnreachable, match="carol did not join within 0 s"):
            alice.join()
        (failed,) = seat.take()
        assert (failed["kind"], failed["error"]["party"]) == ("failed", "carol")


def test_a_party_that_may_have_been_turned_away_is_told_so() -> None:
    with closing(coordinator(was_refused=lambda party: party == "bob")) as alice:
        with pytest.raises(PeerRefused, match="may have been that of bob"):
            alice.join()


def test_a_failure_ends_the_wait() -> None:
    with closing(coordinator(join_seconds=600.0)) as alice:
        alice.links["alice"].fail(TaskCancelled(party="alice"))
        with pytest.raises(TaskCancelled):
            alice.join()


def test_a_seat_is_given_once(alice: Coordinator) -> None:
    alice.seat(agenda("bob").join())
    with pytest.raises(PeerRefused, match="have a seat already"):
        alice.seat(agenda("bob").join())
    alice.join()


@pytest.mark.parametrize("claimed", [[], ["carol"], ["alice"], ["bob", "carol"]])
def test_who_has_no_part_in_it_gets_no_seat_and_ends_nothing(
    claimed: list[str], alice: Coordinator
) -> None:
    with pytest.raises(PeerRefused, match="no seat here"):
        alice.seat(agenda("bob", digest="another").join() | {"from": claimed})
    assert alice.failure is None


def test_a_join_counts_once() -> None:
    with closing(coordinator(is_new=Nonces(60.0).is_new)) as alice:
        join = agenda("bob").join()
        alice.seat(join)
        with pytest.raises(PeerRefused, match="came before"):
            alice.seat(join)


@pytest.mark.parametrize("nonce", ["", "1", 5, None])
def test_a_join_without_a_proper_nonce_is_refused(nonce: object, alice: Coordinator) -> None:
    with pytest.raises(PeerRefused, match="came before"):
        alice.seat(agenda("bob").join() | {"nonce": nonce})
    assert alice.failure is None


@pytest.mark.parametrize(
    "change", [{"clock": "noon"}, {"clock": None}, {"from": 5}, {"refuses": "no"}]
)
def test_a_join_that_makes_no_sense_is_refused(change: dict[str, Any], alice: Coordinator) -> None:
    with pytest.raises(Garbled):
        alice.seat(agenda("bob").join() | change)
    assert alice.failure is None


@pytest.mark.parametrize("missing", ["from", "digest", "protocol", "versions", "clock", "nonce"])
def test_a_join_that_says_too_little_is_refused(missing: str, alice: Coordinator) -> None:
    join = agenda("bob").join()
    del join[missing]
    with pytest.raises(Garbled):
        alice.seat(join)


def test_a_different_request_is_the_end_at_both(alice: Coordinator) -> None:
    with pytest.raises(RequestMismatch):
        alice.seat(agenda("bob", digest="another").join())
    with pytest.raises(RequestMismatch):
        alice.join()


def test_a_node_that_will_not_take_part_ends_it(alice: Coordinator) -> None:
    refusal = TaskCancelled(party="bob").to_dict()
    with pytest.raises(TaskCancelled):
        alice.seat(agenda("bob").join() | {"refuses": refusal})
    assert code(alice.failure) == ("TaskCancelled", "bob")


def test_who_joins_after_a_failure_hears_of_it(alice: Coordinator) -> None:
    alice.links["alice"].fail(PeerLost(party="alice"))
    with pytest.raises(PeerLost):
        alice.seat(agenda("bob").join())


def test_each_execution_has_a_session_of_its_own(alice: Coordinator) -> None:
    with closing(coordinator()) as other:
        assert is_token(alice.session) and alice.session != other.session


def test_only_the_hosted_parties_have_links_here(alice: Coordinator) -> None:
    assert alice.links.keys() == {"alice"}


def test_the_success_is_written_down_once_and_before_anybody_is_told() -> None:
    told_before: list[list[Any]] = []
    with closing(coordinator(decide=lambda: told_before.append(seat.take()))) as alice:
        seat = alice.seat(agenda("bob").join())
        alice.join()
        alice.links["alice"].finish()
        seat.receive({"kind": "finish", "party": "bob"})
        seat.take()
        alice.links["alice"].settle()
        for _ in range(2):
            seat.receive({"kind": "settle", "party": "bob"})
        assert told_before == [[]] and seat.take() == [{"kind": "succeeded"}]
        assert alice.outcome()["status"] == "SUCCESS"
