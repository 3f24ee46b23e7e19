"""A tunnel carries a job's bytes in pieces; what was cut off never looks whole."""

from __future__ import annotations

import asyncio
import socket
import struct
from contextlib import asynccontextmanager
from typing import Any, AsyncIterator, Awaitable, Callable

import pytest

from secretflow_task.node.link.peer.tunnel import LocalSide, Tunnel
from secretflow_task.node.link.peer.wire import Wire
from tests.unit.node.link.peer.parties import received, wired

END = struct.pack("!I", 0)


def piece(data: bytes) -> bytes:
    """Bytes as they travel between the nodes."""
    return struct.pack("!I", len(data)) + data


class Ends:
    """A tunnel with the job's end of it, and the other node's."""

    def __init__(self, tunnel: Tunnel, wire: Wire, job: socket.socket, node: socket.socket) -> None:
        self.tunnel, self.wire = tunnel, wire
        self.job, self.node = job, node

    async def send(self, end: socket.socket, data: bytes) -> None:
        """Send bytes from one of them."""
        await asyncio.get_running_loop().sock_sendall(end, data)


@asynccontextmanager
async def opened(early: bytes) -> AsyncIterator[Ends]:
    """A tunnel whose job had said something ``early``, before it started."""
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as server:
        job = socket.create_connection(server.getsockname())
        accepted, _ = server.accept()
    job.setblocking(False)
    async with wired() as (wire, node):
        wire.pause()
        with job:
            job.send(early)
            _, local = await loop.create_connection(LocalSide, sock=accepted)
            while early and not local.early:
                await asyncio.sleep(0.001)
            tunnel = Tunnel(local, wire)
            tunnel.start()
            yield Ends(tunnel, wire, job, node)
            tunnel.abort()


def through(scenario: Callable[[Ends], Awaitable[Any]], early: bytes = b"") -> Any:
    """Do something with the ends of a tunnel."""

    async def run() -> Any:
        async with opened(early) as ends:
            return await scenario(ends)

    return asyncio.run(run())


def test_what_a_job_sends_has_its_length_in_front() -> None:
    async def scenario(ends: Ends) -> bytes:
        await ends.send(ends.job, b"hello")
        return await received(ends.node, 9)

    assert through(scenario) == piece(b"hello")


def test_what_a_job_has_sent_early_comes_first() -> None:
    async def scenario(ends: Ends) -> bytes:
        await ends.send(ends.job, b"late")
        data = await received(ends.node, 9)
        return data + await received(ends.node, 8)

    assert through(scenario, early=b"early") == piece(b"early") + piece(b"late")


@pytest.mark.parametrize("step", [1, 3, 1000])
def test_pieces_arrive_whole_however_they_are_cut(step: int) -> None:
    data = piece(b"one") + piece(b"two") + piece(b"three" * 10)

    async def scenario(ends: Ends) -> bytes:
        for position in range(0, len(data), step):
            await ends.send(ends.node, data[position : position + step])
            await asyncio.sleep(0)
        return await received(ends.job, 56)

    assert through(scenario) == b"onetwo" + b"three" * 10


def test_the_end_of_one_direction_leaves_the_other_open() -> None:
    async def scenario(ends: Ends) -> tuple[bytes, bytes]:
        ends.job.shutdown(socket.SHUT_WR)
        end = await received(ends.node, 4)
        await ends.send(ends.node, piece(b"answer"))
        return end, await received(ends.job, 6)

    assert through(scenario) == (END, b"answer")


def test_when_both_have_ended_the_connections_close() -> None:
    async def scenario(ends: Ends) -> tuple[bytes, bytes]:
        await ends.send(ends.node, piece(b"last") + END + END)
        last = await received(ends.job, 100)
        ends.job.shutdown(socket.SHUT_WR)
        await ends.wire.closed.wait()
        return last, await received(ends.node, 100)

    assert through(scenario) == (b"last", END)


async def reset(end: socket.socket) -> None:
    """The connection was broken off, rather than ended."""
    with pytest.raises(ConnectionResetError):
        while True:
            assert await received(end, 1)


@pytest.mark.parametrize("sent", [b"", piece(b"whole"), piece(b"half")[:-2], b"\x00\x00"])
def test_a_wire_that_breaks_breaks_the_jobs_connection(sent: bytes) -> None:
    async def scenario(ends: Ends) -> None:
        await ends.send(ends.node, sent)
        ends.node.close()
        await reset(ends.job)

    through(scenario)


def test_a_job_that_dies_breaks_the_wire() -> None:
    async def scenario(ends: Ends) -> bytes:
        ends.job.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        ends.job.close()
        return await received(ends.node, 100)

    assert through(scenario) == b""  # without the frame that is a proper end


def test_an_aborted_tunnel_ends_both() -> None:
    async def scenario(ends: Ends) -> bytes:
        ends.tunnel.abort()
        await reset(ends.job)
        return await received(ends.node, 100)

    assert through(scenario) == b""


def test_a_wire_that_takes_no_more_stops_the_job() -> None:
    async def scenario(ends: Ends) -> bool:
        ends.tunnel.pause_writing()
        await ends.send(ends.job, b"waits")
        waiting = asyncio.create_task(received(ends.node, 9))
        for _ in range(100):
            await asyncio.sleep(0)
        was_stopped = not waiting.done()
        ends.tunnel.resume_writing()
        return was_stopped and await waiting == piece(b"waits")

    assert through(scenario)
