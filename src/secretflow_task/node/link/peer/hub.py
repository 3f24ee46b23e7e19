"""The node's one port for other nodes, and the thread in which all of its connections live."""

from __future__ import annotations

import asyncio
import socket
import threading
from concurrent.futures import CancelledError, ThreadPoolExecutor
from concurrent.futures import TimeoutError as CallTimeout
from contextlib import suppress
from typing import Any, Callable, Coroutine, Mapping, TypeVar

from secretflow_task.config.settings import Settings
from secretflow_task.contract.errors import WorkerError
from secretflow_task.node.link.peer.acceptor import Acceptor, listen
from secretflow_task.node.link.peer.agenda import Agenda
from secretflow_task.node.link.peer.conversation import Pace
from secretflow_task.node.link.peer.coordinator import Coordinator
from secretflow_task.node.link.peer.dial import Dialler
from secretflow_task.node.link.peer.inbound import Inbound
from secretflow_task.node.link.peer.member import Member
from secretflow_task.node.link.peer.membership import Deadlines, ask, take_part
from secretflow_task.node.link.peer.refusals import Refusals
from secretflow_task.node.link.peer.settlement import PeerSettlement
from secretflow_task.node.link.peer.tasks import Tasks
from secretflow_task.node.link.peer.tokens import Nonces
from secretflow_task.node.link.peer.tunnels import Tunnels
from secretflow_task.node.link.peer.wire import Message
from secretflow_task.node.ports import Ports
from secretflow_task.utils.log import get_logger

log = get_logger()

_THREADS = 16  # in which peers are heard: that may write to the disk
_CALL_SECONDS = 15.0
_FAREWELL_SECONDS = 1.0
_CLOSING_SECONDS = 0.01

Value = TypeVar("Value")


class PeerHub:
    """Listens for other nodes and dials them; a context manager over its thread.

    Args:
        decide: writes down that an execution has succeeded.
        known_outcome: what the node's store knows of an execution, for those parties that ask.
    """

    def __init__(
        self,
        settings: Settings,
        decide: Callable[[str], None],
        known_outcome: Callable[[str, frozenset[str]], Message],
    ) -> None:
        self._settings = settings
        self._decide = decide
        self._pace = Pace(settings.heartbeat_seconds, settings.peer_lost_seconds)
        self._deadlines = Deadlines(settings.join_seconds, settings.settle_seconds)
        self._settlements: dict[str, PeerSettlement] = {}
        # A join whose clock is further off than the limit is refused for that.
        self._nonces = Nonces(2 * settings.clock_limit_seconds)
        self._refusals = Refusals(2 * settings.join_seconds)
        self._tasks = Tasks()
        self.dialler = Dialler.of(settings)
        inbound = Inbound(self._settlements, self.dialler, self._pace, known_outcome)
        self._acceptor = Acceptor(self.dialler, inbound.handlers(), self._refusals, self._tasks)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="peers", daemon=True)
        self._listener: socket.socket

    def __enter__(self) -> PeerHub:
        self._listener = listen(self._settings.peer_listen)
        self._loop.set_default_executor(ThreadPoolExecutor(_THREADS, "peers"))
        self._loop.set_exception_handler(_on_loop_error)
        self._thread.start()
        self._call(self._begin())
        return self

    def __exit__(self, *_exc: object) -> None:
        self._call(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_CALL_SECONDS)
        self._loop.close()

    def reload(self) -> dict[str, list[str]]:
        """Read the address book and the own certificate again; returns what has changed in it.

        Raises:
            BadSetting: they cannot be used; the old ones stay.
        """
        new = Dialler.of(self._settings)
        changes = new.book.changes_since(self.dialler.book)
        self.dialler.renew(new)
        return changes

    @property
    def port(self) -> int:
        """The port that the node listens on."""
        return int(self._listener.getsockname()[1])

    @property
    def refused(self) -> int:
        """How many connections were refused."""
        return self._refusals.count

    def knows(self, party: str) -> bool:
        """Whether a party is in the address book."""
        return party in self.dialler.book.peers

    def open(self, agenda: Agenda, ports: Ports) -> PeerSettlement:
        """Take part in an execution; raises `PortUnavailable`."""
        return self._call(self._open(agenda, ports))

    def tell(self, agenda: Agenda, error: WorkerError) -> None:
        """Let the other nodes know that the parties here will not take part.

        A coordinator answers those who ask from its store; a member has to say it.
        """
        settlement = self._settlements.get(agenda.execution_id)
        if settlement:
            settlement.fail(error)
        elif agenda.coordinator not in agenda.hosted:
            member = self._member(agenda)
            member.fail(error)
            self._loop.call_soon_threadsafe(self._join_as, member)
            member.close()

    def ask(self, party: str, execution_id: str) -> Message | None:
        """What a party's node knows of how an execution ended; None when it cannot be asked."""
        if self._loop.is_closed() or not self.knows(party):
            return None
        try:
            return self._call(ask(self.dialler, party, execution_id), 3 * _CALL_SECONDS)
        except CancelledError:  # the hub is being closed
            return None

    def _release(self, settlement: PeerSettlement) -> None:
        """Give back what an execution holds; its last messages still go out."""
        if not self._loop.is_closed():
            try:
                self._call(self._close(settlement))
            except (CallTimeout, CancelledError):  # it ends with the hub
                log.warning("A link is closed late.", action="link_closes_late")
        settlement.end.close()

    def _call(self, work: Coroutine[Any, Any, Value], seconds: float = _CALL_SECONDS) -> Value:
        """Do something in the loop's thread and wait for it."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(seconds)

    async def _begin(self) -> None:
        self._acceptor.open(self._listener)

    async def _end(self) -> None:
        self._acceptor.close()
        for settlement in list(self._settlements.values()):
            if isinstance(settlement.end, Member):
                settlement.end.abandon()
            await self._close(settlement)
        await self._tasks.wait(_FAREWELL_SECONDS)
        left = asyncio.all_tasks() - {asyncio.current_task()}
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        await asyncio.sleep(_CLOSING_SECONDS)  # connections that were broken off close in the loop

    async def _open(self, agenda: Agenda, ports: Ports) -> PeerSettlement:
        end: Coordinator | Member
        if agenda.coordinator in agenda.hosted:
            end = self._coordinator(agenda)
            self._tasks.start(self._expect(agenda))
        else:
            end = self._member(agenda)
        tunnels = Tunnels(agenda, ports, self.dialler, lambda: end.session)
        try:
            await tunnels.open()
        except WorkerError:
            end.close()
            raise
        settlement = PeerSettlement(end, tunnels, self._release)
        self._settlements[agenda.execution_id] = settlement
        if isinstance(end, Member):
            self._join_as(end)
        return settlement

    def _coordinator(self, agenda: Agenda) -> Coordinator:
        return Coordinator(
            agenda,
            lambda: self._decide(agenda.execution_id),
            self._nonces.is_new,
            self._refusals.may_concern,
            join_seconds=self._settings.join_seconds,
            clock_limit_seconds=self._settings.clock_limit_seconds,
        )

    def _member(self, agenda: Agenda) -> Member:
        settings = self._settings
        return Member(agenda, settings.peer_lost_seconds, 2 * settings.join_seconds)

    def _join_as(self, member: Member) -> None:
        self._tasks.start(take_part(member, self.dialler, self._pace, self._deadlines))

    async def _close(self, settlement: PeerSettlement) -> None:
        execution_id = settlement.end.agenda.execution_id
        if self._settlements.get(execution_id) is settlement:
            del self._settlements[execution_id]
        await settlement.tunnels.close()
        self._tasks.start(settlement.tunnels.drain())

    async def _expect(self, agenda: Agenda) -> None:
        """Note from which addresses the other nodes of an execution may come."""
        for party in agenda.strangers:
            with suppress(OSError, KeyError):
                host = self.dialler.book.peers[party].host
                found = await self._loop.getaddrinfo(host, None)
                self._refusals.expect(party, {str(address[0]) for *_, address in found})


def _on_loop_error(_loop: asyncio.AbstractEventLoop, context: Mapping[str, Any]) -> None:
    """A connection that breaks is dealt with where it is used."""
    problem = context.get("exception") or context.get("message")
    log.debug("A connection broke.", action="connection_broke", problem=str(problem))
