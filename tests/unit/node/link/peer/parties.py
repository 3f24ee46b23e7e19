"""What the tests of the link between nodes have in common."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from contextlib import asynccontextmanager
from typing import Any, AsyncIterator

from secretflow_task.contract.errors import WorkerError
from secretflow_task.node.link.peer.agenda import Agenda
from secretflow_task.node.link.peer.coordinator import Coordinator
from secretflow_task.node.link.peer.wire import Wire

PARTIES = ("alice", "bob")
SESSION = "0123456789abcdef" * 2


def agenda(*hosted: str, parties: tuple[str, ...] = PARTIES, **changes: Any) -> Agenda:
    """An execution as the node of these parties sees it."""
    fields = {"digest": "digest", "protocol": "protocol"} | changes
    return Agenda("e-1", parties, hosted, **fields)


def coordinator(parties: tuple[str, ...] = PARTIES, **changes: Any) -> Coordinator:
    """The first party's end of an execution, which never waits for the others."""
    fields: dict[str, Any] = {
        "decide": lambda: None,
        "is_new": lambda nonce: True,
        "was_refused": lambda party: False,
        "join_seconds": 0.0,
        "clock_limit_seconds": 60.0,
    }
    return Coordinator(agenda(parties[0], parties=parties), **fields | changes)


def code(error: WorkerError | None) -> tuple[str, str | None] | None:
    """The code of a failure, and the party where it began."""
    return (error.code, error.party) if error else None


class Clock:
    """Time that passes when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def frame(message: Any) -> bytes:
    """A message, or bytes, as they travel."""
    body = message if isinstance(message, bytes) else json.dumps(message).encode()
    return struct.pack("!I", len(body)) + body


@asynccontextmanager
async def wired(**options: Any) -> AsyncIterator[tuple[Wire, socket.socket]]:
    """A wire in the running loop, and the other end as the operating system has it."""
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    _, wire = await asyncio.get_running_loop().create_connection(lambda: Wire(**options), sock=ours)
    with theirs:
        yield wire, theirs
        wire.transport.abort()
        await wire.closed.wait()


async def received(end: socket.socket, count: int) -> bytes:
    """So many bytes, or fewer if the connection ends before."""
    data = b""
    while len(data) < count:
        piece = await asyncio.get_running_loop().sock_recv(end, count - len(data))
        if not piece:
            break
        data += piece
    return data


async def heard(end: socket.socket) -> Any:
    """The next message."""
    (length,) = struct.unpack("!I", await received(end, 4))
    return json.loads(await received(end, length))
