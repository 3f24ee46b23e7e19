"""How good the way to a peer is: what `sfworker doctor --peer` measures, and the peer's answers."""

from __future__ import annotations

import asyncio
import statistics
import time
from dataclasses import dataclass
from typing import Awaitable, Callable

from secretflow_task.node.link.peer.agenda import versions
from secretflow_task.node.link.peer.dial import Dialler
from secretflow_task.node.link.peer.wire import LONGEST_BYTES, Message, Wire

_ANSWER_SECONDS = 30.0
_PINGS = 5
_PIECE = "x" * (1 << 20)
_MOST_PIECES = 32
_FIRST_PIECES = 2
_ENOUGH_SECONDS = 0.5  # a measurement that took longer needs no larger one


@dataclass(frozen=True)
class Way:
    """What was measured.

    Attributes:
        clock_seconds: how far the peer's clock is ahead.
        back: why the peer's node cannot reach this one; None when it can.
        bytes_per_second: to the peer, and from it.
    """

    versions: Message
    clock_seconds: float
    round_trip_seconds: float
    back: str | None
    bytes_per_second: tuple[float, float]


async def answer(wire: Wire, call_back: Callable[[], Awaitable[str | None]]) -> None:
    """Answer the questions of a peer's `measure` until it hangs up or falls silent."""
    while True:
        question = await asyncio.wait_for(wire.receive(), _ANSWER_SECONDS)
        if question["kind"] == "ping":
            wire.send({"kind": "pong", "clock": time.time(), "versions": versions()})
        elif question["kind"] == "call":
            wire.send({"kind": "called", "problem": await call_back()})
        elif question["kind"] == "fetch":
            for _ in range(min(int(question["pieces"]), _MOST_PIECES)):
                wire.send({"kind": "data", "body": _PIECE})
                await asyncio.wait_for(wire.drain(), _ANSWER_SECONDS)


async def measure(dialler: Dialler, party: str) -> Way:
    """Measure the way to the node of a party.

    Raises:
        PeerUnreachable, PeerRefused: there is none.
        WireClosed: the peer hung up.
        asyncio.TimeoutError: it fell silent.
    """
    wire = await dialler.dial(party)
    try:
        wire.longest_bytes = LONGEST_BYTES
        wire.send({"kind": "probe"})
        trips = []
        for _ in range(_PINGS):
            asked = time.monotonic()
            pong = await _ask(wire, {"kind": "ping"})
            trips.append(time.monotonic() - asked)
        trip = statistics.median(trips)
        ahead = float(pong["clock"]) + trips[-1] / 2 - time.time()
        called = await _ask(wire, {"kind": "call"})
        rates = (await _rate(wire, _push), await _rate(wire, _fetch))
        return Way(pong["versions"], ahead, trip, called["problem"], rates)
    finally:
        await wire.close()


async def _ask(wire: Wire, question: Message) -> Message:
    wire.send(question)
    return await asyncio.wait_for(wire.receive(), _ANSWER_SECONDS)


async def _rate(wire: Wire, move: Callable[[Wire, int], Awaitable[None]]) -> float:
    pieces = _FIRST_PIECES
    while True:
        started = time.monotonic()
        await move(wire, pieces)
        taken = time.monotonic() - started
        if taken > _ENOUGH_SECONDS or pieces == _MOST_PIECES:
            return pieces * len(_PIECE) / taken
        pieces = _MOST_PIECES


async def _push(wire: Wire, pieces: int) -> None:
    for _ in range(pieces):
        wire.send({"kind": "data", "body": _PIECE})
        await wire.drain()
    await _ask(wire, {"kind": "ping"})


async def _fetch(wire: Wire, pieces: int) -> None:
    wire.send({"kind": "fetch", "pieces": pieces})
    for _ in range(pieces):
        await asyncio.wait_for(wire.receive(), _ANSWER_SECONDS)
