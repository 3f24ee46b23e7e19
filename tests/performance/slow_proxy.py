"""A TCP proxy like a long or narrow cable: `slow_proxy.py DELAY_MS MBIT SIDE:PORT=HOST:PORT ...`.

SIDE is ``a`` or ``b``: from which end of the cable a port is dialled. What goes from a to b shares
one direction of MBIT (0 for no limit), what goes back the other. The delay is one way. At SIGTERM
it prints how many bytes went each way.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field

_PIECE_BYTES = 65_536
_WINDOW_PIECES = 256  # on their way at once, per connection: more than a link of ours holds


@dataclass
class Direction:
    """What all connections share one way."""

    delay_seconds: float
    bytes_per_second: float
    carried: int = 0
    free_at: float = 0.0
    _turn: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Copy until the end, late and slowly."""
        pieces: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(_WINDOW_PIECES)
        sending = asyncio.create_task(self._send(pieces, writer))
        with suppress(OSError):
            while piece := await reader.read(_PIECE_BYTES):
                await pieces.put((await self._pass(len(piece)) + self.delay_seconds, piece))
        await pieces.put((0.0, b""))
        await sending

    async def _pass(self, size: int) -> float:
        """Wait for the turn on a limited cable; returns when the piece has entered it."""
        loop = asyncio.get_running_loop()
        self.carried += size
        if not self.bytes_per_second:
            return loop.time()
        async with self._turn:
            self.free_at = max(self.free_at, loop.time()) + size / self.bytes_per_second
            await asyncio.sleep(max(0.0, self.free_at - loop.time()))
            return loop.time()

    @staticmethod
    async def _send(
        pieces: asyncio.Queue[tuple[float, bytes]], writer: asyncio.StreamWriter
    ) -> None:
        loop, broken = asyncio.get_running_loop(), False
        while (due_and_piece := await pieces.get())[1]:
            due, piece = due_and_piece
            if due > loop.time():
                await asyncio.sleep(due - loop.time())
            if not broken:
                writer.write(piece)
                try:
                    await writer.drain()
                except OSError:
                    broken = True
        if not broken and not writer.is_closing():
            with suppress(OSError):
                writer.write_eof()


async def serve(delay_ms: float, mbit: float, ways: list[str]) -> None:
    """Run until SIGTERM."""
    a_to_b, b_to_a = (Direction(delay_ms / 1000, mbit * 1e6 / 8) for _ in range(2))
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    async with AsyncExitStack() as stack:
        for way in ways:
            side, _, rest = way.partition(":")
            port, _, target = rest.partition("=")
            directions = (a_to_b, b_to_a) if side == "a" else (b_to_a, a_to_b)
            server = await asyncio.start_server(
                _Way(target, *directions).connected, "127.0.0.1", int(port)
            )
            await stack.enter_async_context(server)
        print("ready", flush=True)
        await stopped.wait()
        print(a_to_b.carried, b_to_a.carried, flush=True)


@dataclass
class _Way:
    target: str
    there: Direction
    back: Direction

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carry one connection."""
        host, _, port = self.target.rpartition(":")
        try:
            far_reader, far_writer = await asyncio.open_connection(host, int(port))
        except OSError:
            writer.transport.abort()
            return
        try:
            await asyncio.gather(
                self.there.carry(reader, far_writer), self.back.carry(far_reader, writer)
            )
        finally:
            far_writer.close()
            writer.close()


if __name__ == "__main__":
    asyncio.run(serve(float(sys.argv[1]), float(sys.argv[2]), sys.argv[3:]))
