"""Two nodes tell each other all about an execution, until its end is known or one is lost."""

from __future__ import annotations

import asyncio
from contextlib import closing
from typing import Any, Iterator

import pytest

from secretflow_task.contract.errors import TaskCancelled
from secretflow_task.node.link.peer.conversation import Pace, converse
from secretflow_task.node.link.peer.coordinator import Coordinator
from secretflow_task.node.link.peer.member import Member
from secretflow_task.node.link.peer.seat import Seat
from secretflow_task.node.link.peer.wire import Wire
from tests.unit.node.link.peer.parties import agenda, code, coordinator, frame, heard, wired

PATIENT = Pace(beat_seconds=0.01, lost_seconds=600.0)


@pytest.fixture
def alice() -> Iterator[Coordinator]:
    """Who coordinates."""
    with closing(coordinator()) as found:
        yield found


@pytest.fixture
def bob(alice: Coordinator) -> Iterator[Member]:
    """A member that alice has let in."""
    with closing(Member(agenda("bob"), 5.0, 5.0)) as found:
        found.attach(alice.session)
        yield found


def test_both_ends_carry_an_execution_to_its_success(alice: Coordinator, bob: Member) -> None:
    seat = alice.seat(bob.introduction())

    async def scenario() -> None:
        async with wired() as (here, there):
            _, other = await asyncio.get_running_loop().create_connection(Wire, sock=there)
            talking = [
                asyncio.create_task(converse(here, seat, "bob", PATIENT)),
                asyncio.create_task(converse(other, bob, "alice", PATIENT)),
            ]
            await asyncio.to_thread(alice.join)
            await asyncio.to_thread(bob.join)
            links = (alice.links["alice"], bob.links["bob"])
            for link in links:
                link.finish()
            while not all(link.finished for link in links):
                await asyncio.sleep(0.001)
            for link in links:
                link.settle()
            await asyncio.gather(*talking)

    asyncio.run(scenario())
    assert alice.links["alice"].succeeded and bob.links["bob"].succeeded


def test_who_has_nothing_to_say_gives_signs_of_life(bob: Member) -> None:
    async def scenario() -> list[Any]:
        async with wired() as (wire, peer):
            talking = asyncio.create_task(converse(wire, bob, "alice", PATIENT))
            beats = [await heard(peer) for _ in range(3)]
            peer.close()
            await talking
            return beats

    assert asyncio.run(scenario()) == [{"kind": "beat"}] * 3


def ending(member: Member, data: bytes, pace: Pace = PATIENT, closes: bool = False) -> object:
    """How a conversation ends at a member when the coordinator sends this, and perhaps hangs up."""

    async def scenario() -> None:
        async with wired() as (wire, peer):
            peer.send(data)
            if closes:
                peer.close()
            await converse(wire, member, "alice", pace)

    asyncio.run(scenario())
    return code(member.failure)


def test_a_peer_that_falls_silent_is_lost(bob: Member) -> None:
    assert ending(bob, b"", Pace(beat_seconds=0.01, lost_seconds=0.05)) == ("PeerLost", "alice")


def test_a_peer_that_hangs_up_is_lost(bob: Member) -> None:
    assert ending(bob, frame({"kind": "joined"}), closes=True) == ("PeerLost", "alice")


@pytest.mark.parametrize(
    "garbage",
    [{"kind": "obey"}, {"kind": "succeeded"}, {"kind": "failed"}, [], b"\xff", b"x" * 100],
    ids=repr,
)
def test_a_peer_that_talks_nonsense_is_refused(garbage: Any, bob: Member) -> None:
    assert ending(bob, frame(garbage)) == ("PeerRefused", "alice")


def test_a_message_that_is_too_long_is_nonsense(bob: Member) -> None:
    assert ending(bob, b"\xff\xff\xff\xff") == ("PeerRefused", "alice")


def test_the_end_that_the_peer_tells_is_the_end(bob: Member) -> None:
    error = TaskCancelled(party="alice").to_dict()
    data = frame({"kind": "beat"}) + frame({"kind": "failed", "error": error})
    assert ending(bob, data) == ("TaskCancelled", "alice")


def test_what_is_said_last_is_sent_to_a_peer_that_was_only_stopped(bob: Member) -> None:
    async def scenario() -> list[Any]:
        async with wired() as (wire, peer):
            bob.fail(TaskCancelled(party="bob"))
            await converse(wire, bob, "alice", Pace(beat_seconds=0.01, lost_seconds=0.0))
            return [message["kind"] for message in [await heard(peer), await heard(peer)]]

    assert "fail" in asyncio.run(scenario())


def test_an_end_that_breaks_ends_the_conversation_and_is_told(
    alice: Coordinator, bob: Member
) -> None:
    class Broken(Seat):
        """A seat with a defect."""

        def receive(self, message: Any) -> None:
            raise RuntimeError

    seat = alice.seat(bob.introduction())
    broken = Broken(seat._settlement, seat.parties)

    async def scenario() -> None:
        async with wired() as (wire, peer):
            peer.send(frame({"kind": "finish", "party": "bob"}))
            await converse(wire, broken, "bob", PATIENT)

    asyncio.run(scenario())
    assert code(alice.failure) == ("PeerLost", "bob")
