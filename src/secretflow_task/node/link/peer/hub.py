"""The node's one port for other nodes, and the thread in which all of its connections live."""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
import time
from concurrent.futures import (
    CancelledError,
    ThreadPoolExecutor,
    TimeoutError,
)  # pylint: disable=redefined-builtin
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Awaitable, Callable, Coroutine, Mapping, TypeVar

from secretflow_task.config.settings import Settings
from secretflow_task.contract.errors import BadSetting, NodeLost, PeerRefused, WorkerError
from secretflow_task.node.link.peer.agenda import Agenda
from secretflow_task.node.link.peer.conversation import Pace, converse
from secretflow_task.node.link.peer.coordinator import Coordinator
from secretflow_task.node.link.peer.dial import Dialler
from secretflow_task.node.link.peer.member import Member
from secretflow_task.node.link.peer.membership import Deadlines, ask, take_part
from secretflow_task.node.link.peer.probe import answer
from secretflow_task.node.link.peer.tunnels import Tunnels
from secretflow_task.node.link.peer.wire import LONGEST_BYTES, Garbled, Message, Wire, WireClosed
from secretflow_task.node.link.protocol import PeerLink
from secretflow_task.node.ports import Ports
from secretflow_task.utils.log import execution_context, get_logger

log = get_logger()

_HANDSHAKE_SECONDS = 10.0  # for TLS, and again for the first message
_STRANGERS = (
    256  # connections that have not said yet what they want; beyond that the oldest are closed
)
_HEADER_BYTES = 65_536
_CALL_SECONDS = 15.0
_FAREWELL_SECONDS = 1.0
_REFUSALS_LOGGED_SECONDS = 1.0
_REFUSALS_KEPT = 1000  # addresses

Value = TypeVar("Value")


@dataclass(frozen=True)
class Linked:
    """`Settlement` between nodes: an end of the conversation, and the tunnels."""

    hub: PeerHub
    end: Coordinator | Member
    tunnels: Tunnels

    @property
    def links(self) -> Mapping[str, PeerLink]:
        """The link of each hosted party."""
        return self.end.links

    def join(self) -> None:
        """Wait until every party's node takes part."""
        self.end.join()

    def fail(self, error: WorkerError) -> None:
        """End it in failure, unless it has ended or only the coordinator can."""
        next(iter(self.links.values())).fail(error)

    def close(self) -> None:
        """Give back the ports and what the links hold."""
        self.fail(NodeLost(party=self.end.agenda.hosted[0]))  # for whoever would wait for this node
        self.hub.close_execution(self)


class PeerHub:
    """Listens for other nodes and dials them; a context manager over its thread.

    Args:
        decide: writes down that an execution has succeeded.
        answer: what the node's store knows of an execution, for those parties that ask.
    """

    def __init__(
        self,
        settings: Settings,
        decide: Callable[[str], None],
        answer: Callable[[str, frozenset[str]], Message],
    ) -> None:
        self._settings = settings
        self._decide = decide
        self._answer = answer
        self._pace = Pace(settings.heartbeat_seconds, settings.peer_lost_seconds)
        self._deadlines = Deadlines(settings.join_seconds, settings.settle_seconds)
        self._executions: dict[str, Linked] = {}
        self._addresses: dict[str, set[str]] = {}
        self._refusals: dict[str, float] = {}
        self._nonces: dict[str, float] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._strangers: dict[asyncio.Task[None], None] = {}
        self._next_log = 0.0
        self._loop = asyncio.new_event_loop()
        self._accepting: asyncio.Task[None]
        self._listener: socket.socket
        self.dialler = Dialler.of(settings)
        self._thread = threading.Thread(target=self._loop.run_forever, name="peers", daemon=True)
        self.refused = 0

    def __enter__(self) -> PeerHub:
        self._listener = _listen(self._settings.peer_listen)
        self._loop.set_default_executor(ThreadPoolExecutor(16, "peers"))
        self._loop.set_exception_handler(_on_loop_error)
        self._thread.start()
        self._call(self._begin())
        return self

    def __exit__(self, *_exc: object) -> None:
        self._call(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_CALL_SECONDS)
        self._loop.close()

    def reload(self) -> None:
        """Read the address book and the own certificate again; raises `BadSetting` and keeps the old ones."""
        self.dialler.renew(Dialler.of(self._settings))

    @property
    def port(self) -> int:
        """The port that the node listens on."""
        return int(self._listener.getsockname()[1])

    def knows(self, party: str) -> bool:
        """Whether a party is in the address book."""
        return party in self.dialler.book.peers

    def open(self, agenda: Agenda, ports: Ports) -> Linked:
        """Take part in an execution; raises `PortUnavailable`."""
        return self._call(self._open(agenda, ports))

    def tell(self, agenda: Agenda, error: WorkerError) -> None:
        """Let the other nodes know that the parties here will not take part.

        A coordinator answers those who ask from its store; a member has to say it.
        """
        if linked := self._executions.get(agenda.execution_id):
            linked.fail(error)
        elif agenda.coordinator not in agenda.hosted:
            member = self._member(agenda)
            member.fail(error)
            self._loop.call_soon_threadsafe(
                lambda: self._start(take_part(member, self.dialler, self._pace, self._deadlines))
            )
            member.close()

    def close_execution(self, linked: Linked) -> None:
        """Give back what an execution holds; its last messages still go out."""
        if not self._loop.is_closed():
            try:
                self._call(self._close(linked))
            except (TimeoutError, CancelledError):  # it ends with the hub
                log.warning("A link is closed late.", action="link_closes_late")
        linked.end.close()

    def ask(self, party: str, execution_id: str) -> Message | None:
        """What a party's node knows of how an execution ended; None when it cannot be asked."""
        if self._loop.is_closed() or not self.knows(party):
            return None
        try:
            return self._call(ask(self.dialler, party, execution_id), 3 * _CALL_SECONDS)
        except CancelledError:  # the hub is being closed
            return None

    def _call(self, work: Coroutine[Any, Any, Value], seconds: float = _CALL_SECONDS) -> Value:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(seconds)

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _begin(self) -> None:
        self._accepting = self._loop.create_task(self._accept())

    async def _end(self) -> None:
        self._accepting.cancel()
        self._listener.close()
        for linked in list(self._executions.values()):
            if isinstance(linked.end, Member):
                linked.end.abandon()
            await self._close(linked)
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=_FAREWELL_SECONDS)
        left = asyncio.all_tasks() - {asyncio.current_task()}
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    async def _open(self, agenda: Agenda, ports: Ports) -> Linked:
        end: Coordinator | Member
        if agenda.coordinator in agenda.hosted:
            end = Coordinator(
                agenda,
                lambda: self._decide(agenda.execution_id),
                self._is_new,
                self._was_refused,
                join_seconds=self._settings.join_seconds,
                clock_limit_seconds=self._settings.clock_limit_seconds,
            )
            self._start(self._look_up(agenda))
        else:
            end = self._member(agenda)
        tunnels = Tunnels(agenda, ports, self.dialler, lambda: end.session)
        try:
            await tunnels.open()
        except WorkerError:
            end.close()
            raise
        linked = self._executions[agenda.execution_id] = Linked(self, end, tunnels)
        if isinstance(end, Member):
            self._start(take_part(end, self.dialler, self._pace, self._deadlines))
        return linked

    def _member(self, agenda: Agenda) -> Member:
        settings = self._settings
        return Member(agenda, settings.peer_lost_seconds, 2 * settings.join_seconds)

    async def _close(self, linked: Linked) -> None:
        if self._executions.get(linked.end.agenda.execution_id) is linked:
            del self._executions[linked.end.agenda.execution_id]
        await linked.tunnels.close()
        self._start(linked.tunnels.drain())

    def _is_new(self, nonce: str) -> bool:
        """Whether a join did not come before; those that are older are refused for their clock."""
        now = time.monotonic()
        self._nonces = {known: until for known, until in self._nonces.items() if until > now}
        if nonce in self._nonces:
            return False
        self._nonces[nonce] = now + 2 * self._settings.clock_limit_seconds
        return True

    async def _accept(self) -> None:
        while True:
            try:
                connection, address = await self._loop.sock_accept(self._listener)
            except OSError:  # such as too many open files
                await asyncio.sleep(0.1)
                continue
            if len(self._strangers) >= _STRANGERS:
                next(iter(self._strangers)).cancel()
            self._strangers[self._start(self._serve(connection, str(address[0])))] = None

    async def _serve(self, connection: socket.socket, address: str) -> None:
        """One connection of somebody, from its handshake to its end."""
        wire = Wire(_HEADER_BYTES)
        try:
            header = await self._header(connection, wire, address)
        finally:
            if task := asyncio.current_task():
                self._strangers.pop(task, None)
        if header is None:
            return
        parties = self.dialler.book.parties_of(wire.certificate())
        handle, is_join = self._handlers().get(header["kind"]), header["kind"] == "join"
        try:
            if handle is None or not parties:
                raise PeerRefused("This node does not know what that is.")
            await handle(wire, parties, header)
        except WorkerError as error:
            self._note_refusal(address, f"{', '.join(sorted(parties))}: {error.message}", is_join)
            wire.send({"kind": "refused", "error": error.to_dict()})
        except (WireClosed, Garbled, KeyError, TypeError, ValueError):
            self._note_refusal(
                address, f"{', '.join(sorted(parties))}: no proper {header['kind']}", is_join
            )
        await wire.close()

    def _handlers(self) -> Mapping[str, Callable[[Wire, frozenset[str], Message], Awaitable[None]]]:
        return {
            "join": self._on_join,
            "channel": self._on_channel,
            "ask": self._on_ask,
            "probe": self._on_probe,
        }

    async def _header(self, connection: socket.socket, wire: Wire, address: str) -> Message | None:
        accepting = self._loop.connect_accepted_socket(
            lambda: wire,
            connection,
            ssl=self.dialler.accepting,
            ssl_handshake_timeout=_HANDSHAKE_SECONDS,
        )
        try:
            await asyncio.wait_for(accepting, _HANDSHAKE_SECONDS + 1)
            return await asyncio.wait_for(wire.receive(), _HANDSHAKE_SECONDS)
        except (
            OSError,
            asyncio.TimeoutError,
            asyncio.CancelledError,
            WireClosed,
            Garbled,
        ) as error:
            connection.close()
            if hasattr(wire, "transport"):
                wire.transport.abort()
            self._note_refusal(address, _why(error), may_be_a_join=True)
            if isinstance(error, asyncio.CancelledError):
                raise
            return None

    def _note_refusal(self, address: str, problem: str, may_be_a_join: bool) -> None:
        """Count it, and log it unless there are too many."""
        self.refused += 1
        if may_be_a_join:
            self._refusals[address] = time.monotonic()
        if len(self._refusals) > _REFUSALS_KEPT:
            del self._refusals[min(self._refusals, key=self._refusals.__getitem__)]
        if time.monotonic() >= self._next_log:
            self._next_log = time.monotonic() + _REFUSALS_LOGGED_SECONDS
            log.warning(
                "A connection of a peer was refused.",
                action="peer_refused",
                code=PeerRefused.__name__,
                address=address,
                problem=problem,
                refused=self.refused,
            )

    def _was_refused(self, party: str) -> bool:
        """Whether a join, as it may have been, was refused from a party's address while somebody waited."""
        since = time.monotonic() - 2 * self._settings.join_seconds
        return any(
            self._refusals.get(address, since) > since for address in self._addresses.get(party, ())
        )

    async def _look_up(self, agenda: Agenda) -> None:
        """Note from which addresses the other nodes of an execution may come."""
        for party in agenda.strangers:
            with suppress(OSError, KeyError):
                found = await self._loop.getaddrinfo(self.dialler.book.peers[party].host, None)
                self._addresses[party] = {str(address[0]) for *_, address in found}

    async def _on_join(self, wire: Wire, parties: frozenset[str], header: Message) -> None:
        execution_id, claimed = str(header["execution"]), set(map(str, header["from"]))
        if not claimed or not claimed <= parties:
            raise PeerRefused("The certificate is not that of the parties that it is to speak for.")
        linked = self._executions.get(execution_id)
        if linked is None or not isinstance(linked.end, Coordinator):
            outcome = await asyncio.to_thread(self._answer, execution_id, parties)
            waits = outcome["status"] in ("UNKNOWN", "RUNNING")
            wire.send({"kind": "later"} if waits else outcome)
            return
        seat = linked.end.seat(header)
        wire.longest_bytes = LONGEST_BYTES
        wire.send({"kind": "welcome", "session": linked.end.session})
        with execution_context(execution_id=execution_id):
            await converse(wire, seat, ", ".join(seat.parties), self._pace)

    async def _on_channel(self, wire: Wire, parties: frozenset[str], header: Message) -> None:
        linked = self._executions.get(str(header["execution"]))
        if (
            linked is None
            or not parties & set(linked.end.agenda.parties)
            or not linked.tunnels.admits(header)
        ):
            raise PeerRefused("This node has no such channel.")
        await linked.tunnels.serve(wire, header)

    async def _on_ask(self, wire: Wire, parties: frozenset[str], header: Message) -> None:
        execution_id = str(header["execution"])
        linked = self._executions.get(execution_id)
        if (
            linked
            and isinstance(linked.end, Coordinator)
            and parties & set(linked.end.agenda.parties)
        ):
            wire.send(linked.end.outcome())
        else:
            wire.send(await asyncio.to_thread(self._answer, execution_id, parties))

    async def _on_probe(self, wire: Wire, parties: frozenset[str], _header: Message) -> None:
        async def call_back() -> str | None:
            try:
                way = await self.dialler.dial(min(parties))
            except WorkerError as error:
                return error.message
            await way.close()
            return None

        wire.longest_bytes = LONGEST_BYTES
        with suppress(WireClosed, asyncio.TimeoutError):
            await answer(wire, call_back)


def _listen(address: str) -> socket.socket:
    host, _, port = address.rpartition(":")
    try:
        listener = socket.create_server(
            (host.strip("[]"), int(port)),
            family=socket.AF_INET6 if "[" in host else socket.AF_INET,
            backlog=128,
        )
    except (OSError, OverflowError):
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


def _on_loop_error(_loop: asyncio.AbstractEventLoop, context: Mapping[str, Any]) -> None:
    """A connection that breaks is dealt with where it is used."""
    problem = context.get("exception") or context.get("message")
    log.debug("A connection broke.", action="connection_broke", problem=str(problem))
