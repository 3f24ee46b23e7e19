"""Connections that come in, from the handshake to the first message, which says what they want."""

from __future__ import annotations

import asyncio
import socket
import ssl
from typing import Awaitable, Callable, Mapping

from secretflow_task.contract.errors import BadSetting, PeerRefused, WorkerError
from secretflow_task.node.link.peer.dial import Dialler
from secretflow_task.node.link.peer.refusals import Refusals
from secretflow_task.node.link.peer.tasks import Tasks
from secretflow_task.node.link.peer.wire import Garbled, Message, Wire, WireClosed
from secretflow_task.utils.network import address_family, host_and_port

Handler = Callable[[Wire, frozenset[str], Message], Awaitable[None]]

_HANDSHAKE_SECONDS = 10.0  # for TLS, and again for the first message
_STRANGERS = 256  # connections that have said nothing yet; beyond that the oldest are closed
_HEADER_BYTES = 65_536
_RETRY_SECONDS = 0.1


class Acceptor:
    """Lets in the nodes of the address book; a handler serves what each asks for.

    Args:
        handlers: by the kind of the first message. Each is given the wire, the parties that the
            certificate stands for, and the message; it raises `WorkerError` to refuse.
        tasks: hold the connections.
    """

    def __init__(
        self, dialler: Dialler, handlers: Mapping[str, Handler], refusals: Refusals, tasks: Tasks
    ) -> None:
        self._dialler = dialler
        self._handlers = handlers
        self._refusals = refusals
        self._tasks = tasks
        self._strangers: dict[asyncio.Task[None], socket.socket] = {}  # in the order they came
        self._listener: socket.socket
        self._retry: asyncio.TimerHandle | None = None

    def open(self, listener: socket.socket) -> None:
        """Serve all who come, until `close`; in the running loop."""
        self._listener = listener
        self._look()

    def close(self) -> None:
        """Let nobody in any more; those who are in stay."""
        if self._retry:
            self._retry.cancel()
        asyncio.get_running_loop().remove_reader(self._listener)
        self._listener.close()

    def _look(self) -> None:
        asyncio.get_running_loop().add_reader(self._listener, self._accept)

    def _accept(self) -> None:
        """Take one connection.

        Without a task, since one that is cancelled can lose a connection that it has just taken.
        """
        try:
            connection, address = self._listener.accept()
        except BlockingIOError:  # who came has left
            return
        except OSError:  # such as too many open files
            loop = asyncio.get_running_loop()
            loop.remove_reader(self._listener)
            self._retry = loop.call_later(_RETRY_SECONDS, self._look)
            return
        connection.setblocking(False)
        if len(self._strangers) >= _STRANGERS:
            oldest = next(iter(self._strangers))
            oldest.cancel()
        task = self._tasks.start(self._serve(connection, str(address[0])))
        self._strangers[task] = connection
        task.add_done_callback(self._close_unserved)

    def _close_unserved(self, task: asyncio.Task[None]) -> None:
        """Close the connection of a task that was cancelled before it began."""
        connection = self._strangers.pop(task, None)
        if connection:
            connection.close()

    async def _serve(self, connection: socket.socket, address: str) -> None:
        """One connection of somebody, from its handshake to its end."""
        wire = Wire(_HEADER_BYTES)
        try:
            header = await self._header(connection, wire, address)
        finally:
            task = asyncio.current_task()
            if task:
                self._strangers.pop(task, None)
        if header is None:
            return
        parties = self._dialler.book.parties_of(wire.certificate())
        problem: str | None = None
        try:
            await self._handle(wire, parties, header)
        except WorkerError as error:
            problem = error.message
            wire.send({"kind": "refused", "error": error.to_dict()})
        except (WireClosed, Garbled, KeyError, TypeError, ValueError):
            problem = f"no proper {header['kind']}"
        if problem:
            names = ", ".join(sorted(parties))
            self._refusals.note(address, f"{names}: {problem}", header["kind"] == "join")
        await wire.close()

    async def _handle(self, wire: Wire, parties: frozenset[str], header: Message) -> None:
        handler = self._handlers.get(header["kind"])
        if handler is None or not parties:
            raise PeerRefused("This node does not know what that is.")
        await handler(wire, parties, header)

    async def _header(self, connection: socket.socket, wire: Wire, address: str) -> Message | None:
        """The first message; None, and the connection is closed, when there is none."""
        accepting = asyncio.get_running_loop().connect_accepted_socket(
            lambda: wire,
            connection,
            ssl=self._dialler.accepting,
            ssl_handshake_timeout=_HANDSHAKE_SECONDS,
        )
        try:
            await asyncio.wait_for(accepting, _HANDSHAKE_SECONDS + 1)
            return await asyncio.wait_for(wire.receive(), _HANDSHAKE_SECONDS)
        except asyncio.CancelledError as error:
            self._turn_away(connection, wire, address, error)
            raise
        except (OSError, asyncio.TimeoutError, WireClosed, Garbled) as error:
            self._turn_away(connection, wire, address, error)
            return None

    def _turn_away(
        self, connection: socket.socket, wire: Wire, address: str, error: BaseException
    ) -> None:
        connection.close()
        if hasattr(wire, "transport"):
            wire.transport.abort()
        self._refusals.note(address, _why(error), may_be_a_join=True)


def listen(address: str) -> socket.socket:
    """The socket of ``host:port``; raises `BadSetting`."""
    host, port = host_and_port(address)
    try:
        listener = socket.create_server((host, port), family=address_family(host), backlog=128)
    except OSError:
        raise BadSetting(f"SFWORKER_PEER_LISTEN: {address} cannot be listened on.") from None
    listener.setblocking(False)
    return listener


def _why(error: BaseException) -> str:
    """What was wrong with a connection, for the log."""
    cause = error.__cause__ or error
    if isinstance(cause, ssl.SSLCertVerificationError):
        return f"certificate refused: {cause.verify_message}"
    if isinstance(cause, ssl.SSLError):
        return f"no proper TLS: {cause.reason}"
    return type(cause).__name__
