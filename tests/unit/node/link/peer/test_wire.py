"""A wire carries whole messages of a sensible length, or says that it cannot."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from secretflow_task.node.link.peer.wire import Garbled, Wire, WireClosed
from tests.unit.node.link.peer.parties import frame, heard, received, wired

MESSAGE = {"kind": "beat"}


def test_messages_arrive_in_order_however_they_are_cut() -> None:
    async def scenario() -> list[Any]:
        async with wired() as (wire, peer):
            data = frame(MESSAGE) + frame({"kind": "ask", "execution": "e" * 1000})
            for position in range(0, len(data), 7):
                peer.send(data[position : position + 7])
                await asyncio.sleep(0)
            return [await wire.receive(), await wire.receive()]

    assert asyncio.run(scenario()) == [MESSAGE, {"kind": "ask", "execution": "e" * 1000}]


def test_a_message_travels_as_its_length_and_its_json() -> None:
    async def scenario() -> bytes:
        async with wired() as (wire, peer):
            wire.send(MESSAGE)
            return await received(peer, 20)

    assert asyncio.run(scenario()) == b'\x00\x00\x00\x10{"kind": "beat"}'


@pytest.mark.parametrize(
    "garbage",
    [b"", b"\xff\x00", b"[" * 100_000, [], 5, "text", {}, {"kind": 3}, {"kind": None}],
    ids=lambda value: repr(value)[:20],
)
def test_what_is_not_a_message_is_garbled(garbage: Any) -> None:
    async def scenario() -> None:
        async with wired() as (wire, peer):
            await asyncio.get_running_loop().sock_sendall(peer, frame(garbage))
            with pytest.raises(Garbled):
                await wire.receive()

    asyncio.run(scenario())


def test_a_message_that_is_announced_too_long_is_not_waited_for() -> None:
    async def scenario() -> None:
        async with wired(longest_bytes=20) as (wire, peer):
            peer.send(frame({"kind": "123456789"})[:4])
            with pytest.raises(Garbled):
                await wire.receive()

    asyncio.run(scenario())


def test_a_message_of_the_greatest_length_is_taken() -> None:
    async def scenario() -> Any:
        async with wired(longest_bytes=len(json.dumps(MESSAGE))) as (wire, peer):
            peer.send(frame(MESSAGE) * 3)
            return [await wire.receive() for _ in range(3)]

    assert asyncio.run(scenario()) == [MESSAGE] * 3


def test_a_peer_that_sends_without_end_is_not_read_without_end() -> None:
    async def scenario() -> int:
        async with wired(longest_bytes=1000) as (wire, peer):
            sent = 0
            while True:
                try:
                    sent += peer.send(frame(MESSAGE) * 1000)
                except BlockingIOError:  # the socket is full, and nobody reads it
                    break
                for _ in range(10):
                    await asyncio.sleep(0)
            assert await wire.receive() == MESSAGE
            return sent

    assert asyncio.run(scenario()) < 8 << 20


@pytest.mark.parametrize("rest", [b"", b"\x00\x00", frame(MESSAGE)[:-1]])
def test_a_connection_that_ends_has_no_next_message(rest: bytes) -> None:
    async def scenario() -> None:
        async with wired() as (wire, peer):
            peer.send(frame(MESSAGE) + rest)
            peer.close()
            assert await wire.receive() == MESSAGE
            with pytest.raises(WireClosed):
                await wire.receive()
            wire.send(MESSAGE)  # nobody hears it, and nothing breaks
            await wire.drain()

    asyncio.run(scenario())


class Heir(asyncio.Protocol):
    """Takes a connection over."""

    def __init__(self) -> None:
        self.got = b""
        self.lost = asyncio.Event()

    def data_received(self, data: bytes) -> None:
        self.got += data

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.set()


def test_who_takes_over_gets_what_came_after_the_last_message() -> None:
    async def scenario() -> bytes:
        async with wired() as (wire, peer):
            peer.send(frame(MESSAGE) + b"first ")
            assert await wire.receive() == MESSAGE
            heir = Heir()
            wire.take_over(heir)
            peer.send(b"second")
            peer.close()
            await heir.lost.wait()
            return heir.got

    assert asyncio.run(scenario()) == b"first second"


def test_who_takes_over_what_has_ended_hears_of_its_end() -> None:
    async def scenario() -> bool:
        async with wired() as (wire, peer):
            peer.close()
            await wire.closed.wait()
            heir = Heir()
            wire.take_over(heir)
            return heir.lost.is_set()

    assert asyncio.run(scenario())


def test_the_last_words_are_sent_before_the_end() -> None:
    async def scenario() -> Any:
        async with wired() as (wire, peer):
            wire.send({"kind": "refused"})
            await wire.close()
            return await heard(peer), await received(peer, 1)

    assert asyncio.run(scenario()) == ({"kind": "refused"}, b"")


def test_a_peer_that_does_not_read_does_not_hold_up_the_end() -> None:
    async def scenario() -> Wire:
        async with wired() as (wire, peer):
            wire.send({"kind": "data", "body": "x" * (8 << 20)})
            await wire.close(linger_seconds=0.0)
            await wire.closed.wait()
            return wire

    assert asyncio.run(scenario()).closed.is_set()
