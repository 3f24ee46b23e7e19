"""What two nodes say to each other about an execution, for as long as both give signs of life."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Callable, Protocol

from secretflow_task.contract.errors import PeerLost, PeerRefused, WorkerError
from secretflow_task.node.link.peer.wire import Garbled, Message, Wire, WireClosed
from secretflow_task.utils.log import get_logger

log = get_logger()
_BEAT = {"kind": "beat"}


@dataclass(frozen=True)
class Pace:
    """How often a sign of life is sent, and after how much silence the peer counts as lost."""

    beat_seconds: float
    lost_seconds: float


class End(Protocol):
    """One node's side: `Seat` or `Member`."""

    @property
    def done(self) -> bool:
        """Whether this side has nothing more to hear."""

    def watch(self, changed: Callable[[], None]) -> None:
        """Call ``changed``, from any thread, when there may be something to take."""

    def take(self) -> list[Message]:
        """What is to be sent."""

    def receive(self, message: Message) -> None:
        """What was received; raises `Garbled` for what makes no sense."""

    def lost(self, error: WorkerError) -> None:
        """The peer cannot be reached any more."""


class _Silence(Exception):
    """The peer gives no sign of life."""


async def converse(wire: Wire, end: End, peer: str, pace: Pace) -> None:
    """Carry messages both ways until the end is known or the peer is lost, then close the wire."""
    loop = asyncio.get_running_loop()
    news = asyncio.Event()

    def changed() -> None:
        if not loop.is_closed():
            loop.call_soon_threadsafe(news.set)

    lost = PeerLost(f"The link to the node of {peer} broke.", party=peer)
    end.watch(changed)
    try:
        await _Conversation(wire, end, pace, news).run()
    except Garbled:
        end.lost(PeerRefused(f"The node of {peer} sent a message that makes no sense.", party=peer))
    except (WireClosed, _Silence):
        end.lost(lost)
    except Exception:  # pylint: disable=broad-exception-caught
        # Nobody else would say that it ended.
        log.exception("A conversation with a peer failed.", action="conversation_failed", peer=peer)
        end.lost(lost)
    finally:
        for message in end.take():  # for a peer that was only stopped, and reads it later
            wire.send(message)
        await wire.close()


class _Conversation:
    def __init__(self, wire: Wire, end: End, pace: Pace, news: asyncio.Event) -> None:
        self._wire = wire
        self._end = end
        self._pace = pace
        self._news = news
        self._heard = time.monotonic()
        self._next_beat = self._heard

    async def run(self) -> None:
        """Until the end is known; raises what ends it before."""
        listening = asyncio.create_task(self._listen())
        try:
            while True:
                self._news.clear()
                for message in self._end.take():
                    self._wire.send(message)
                if self._end.done:
                    break
                self._beat()
                await self._wait(listening)
                if listening.done():
                    listening.result()
        finally:
            listening.cancel()

    async def _listen(self) -> None:
        while True:
            message = await self._wire.receive()
            self._heard = time.monotonic()
            if message["kind"] != "beat":
                await asyncio.to_thread(self._end.receive, message)  # it may write to the disk

    def _beat(self) -> None:
        now = time.monotonic()
        if now >= self._next_beat:
            self._wire.send(_BEAT)
            self._next_beat = now + self._pace.beat_seconds
        if now - self._heard > self._pace.lost_seconds:
            raise _Silence

    async def _wait(self, listening: asyncio.Task[None]) -> None:
        """Until something happens or the next sign of life is due."""
        seconds = max(0.0, self._next_beat - time.monotonic())
        woken = asyncio.create_task(self._news.wait())
        before = time.monotonic()
        await asyncio.wait({listening, woken}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        woken.cancel()
        slept = time.monotonic() - before
        if slept > seconds + self._pace.beat_seconds:
            # This node itself was stopped; what the peer sent meanwhile is still to be read.
            self._heard = max(self._heard, time.monotonic() - self._pace.lost_seconds / 2)
