"""The ways of one execution's traffic: loopback ports that stand for those of the peers' jobs."""

from __future__ import annotations

import asyncio
import hmac
import time
from contextlib import contextmanager
from functools import partial
from typing import Callable, Iterator

from secretflow_task.contract.errors import PortUnavailable, WorkerError
from secretflow_task.node.link.peer.agenda import Agenda
from secretflow_task.node.link.peer.dial import Dialler
from secretflow_task.node.link.peer.tasks import Tasks
from secretflow_task.node.link.peer.tunnel import LocalSide, Tunnel
from secretflow_task.node.link.peer.wire import Message, Wire
from secretflow_task.node.ports import Ports
from secretflow_task.utils.log import get_logger

log = get_logger()

_LOOPBACK = "127.0.0.1"
_LINES = ("fed", "spu")  # SecretFlow's two connections between two jobs
_LISTENING_SECONDS = 30.0  # a peer's job may reach us before our own listens
_RETRY_SECONDS = 0.02
_LOOK_SECONDS = 0.1
_LINGER_SECONDS = 4.0  # for what the ended jobs have sent and not all got yet


class Tunnels:
    """All tunnels of one execution at one node; used in the loop's thread only.

    Args:
        session: what the coordinator named the execution by, once that is known.
    """

    def __init__(
        self, agenda: Agenda, ports: Ports, dialler: Dialler, session: Callable[[], str | None]
    ) -> None:
        self._agenda = agenda
        self._ports = ports
        self._dialler = dialler
        self._session = session
        self._servers: list[asyncio.AbstractServer] = []
        self._tunnels: set[Tunnel] = set()
        self._opening = 0
        self._tasks = Tasks()
        self._closing = False
        self._drained = False

    async def open(self) -> None:
        """Listen in place of the peers' jobs; raises `PortUnavailable`."""
        try:
            for party in self._agenda.strangers:
                for line in _LINES:
                    await self._listen(party, line)
        except OSError:
            await self.close()
            raise PortUnavailable() from None

    async def _listen(self, party: str, line: str) -> None:
        port = self._ports.line(line)[party]
        make_side = partial(LocalSide, partial(self._accepted, party, line))
        server = await asyncio.get_running_loop().create_server(make_side, _LOOPBACK, port)
        self._servers.append(server)

    def _accepted(self, party: str, line: str, local: LocalSide) -> None:
        self._tasks.start(self._carry(party, line, local))

    async def _carry(self, party: str, line: str, local: LocalSide) -> None:
        """Open the way for a connection of an own job to that of ``party``."""
        try:
            with self._being_opened():
                wire = await self._dialler.dial(party)
        except WorkerError as error:
            log.debug("A connection cannot be carried.", action="tunnel_failed", code=error.code)
            local.reset()
            return
        header = {
            "kind": "channel",
            "execution": self._agenda.execution_id,
            "session": self._session(),
            "to": party,
            "line": line,
        }
        wire.send(header)
        self._join(local, wire)

    def admits(self, header: Message) -> bool:
        """Whether a peer's channel belongs to this execution and leads to a party here."""
        session = self._session()
        if self._closing or session is None:
            return False
        if not hmac.compare_digest(session.encode(), str(header.get("session")).encode()):
            return False
        return header.get("to") in self._agenda.hosted and header.get("line") in _LINES

    async def serve(self, wire: Wire, header: Message) -> None:
        """Lead a peer's channel to the own job."""
        port = self._ports.line(str(header["line"]))[str(header["to"])]
        wire.pause()
        with self._being_opened():
            local = await self._connect(port, wire)
        if local is None:
            wire.transport.abort()
            return
        self._join(local, wire)
        await wire.closed.wait()

    async def _connect(self, port: int, wire: Wire) -> LocalSide | None:
        """A connection to the own job; None if it does not listen while somebody waits."""
        loop = asyncio.get_running_loop()
        deadline = time.monotonic() + _LISTENING_SECONDS
        while not wire.closed.is_set() and time.monotonic() < deadline:
            try:
                _, local = await loop.create_connection(LocalSide, _LOOPBACK, port)
            except OSError:
                if self._closing:
                    return None
                await asyncio.sleep(_RETRY_SECONDS)
            else:
                return local
        return None

    @contextmanager
    def _being_opened(self) -> Iterator[None]:
        """Let `drain` wait for a connection that will be joined after the block."""
        self._opening += 1
        try:
            yield
        finally:
            self._opening -= 1

    def _join(self, local: LocalSide, wire: Wire) -> None:
        tunnel = Tunnel(local, wire)
        if self._drained or local.transport.is_closing():
            tunnel.abort()
            return
        self._tunnels.add(tunnel)
        self._tasks.start(self._forget(tunnel))
        tunnel.start()

    async def _forget(self, tunnel: Tunnel) -> None:
        await tunnel.wire.closed.wait()
        self._tunnels.discard(tunnel)

    async def close(self) -> None:
        """Listen no more; what is on its way may arrive, for some seconds."""
        for server in self._servers:
            server.close()
        self._closing = True

    async def drain(self) -> None:
        """Wait for the tunnels to end, and end those that do not."""
        deadline = time.monotonic() + _LINGER_SECONDS
        try:
            while (self._tunnels or self._opening) and time.monotonic() < deadline:
                await asyncio.sleep(_LOOK_SECONDS)
        finally:
            self._drained = True
            for tunnel in list(self._tunnels):
                tunnel.abort()
            self._tasks.cancel()
