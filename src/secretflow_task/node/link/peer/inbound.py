"""What other nodes may ask of this one, with the first message of a connection."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Callable, Mapping

from secretflow_task.contract.errors import PeerRefused, WorkerError
from secretflow_task.node.link.peer.acceptor import Handler
from secretflow_task.node.link.peer.conversation import Pace, converse
from secretflow_task.node.link.peer.coordinator import Coordinator
from secretflow_task.node.link.peer.dial import Dialler
from secretflow_task.node.link.peer.probe import answer
from secretflow_task.node.link.peer.settlement import PeerSettlement
from secretflow_task.node.link.peer.wire import LONGEST_BYTES, Message, Wire, WireClosed
from secretflow_task.utils.log import execution_context


class Inbound:
    """Serves the peers: a seat in an execution, a channel to a job, an outcome, a measurement.

    Args:
        settlements: by execution, those that take place now.
        known_outcome: what the node's store knows of an execution, for those parties that ask.
    """

    def __init__(
        self,
        settlements: Mapping[str, PeerSettlement],
        dialler: Dialler,
        pace: Pace,
        known_outcome: Callable[[str, frozenset[str]], Message],
    ) -> None:
        self._settlements = settlements
        self._dialler = dialler
        self._pace = pace
        self._known_outcome = known_outcome

    def handlers(self) -> Mapping[str, Handler]:
        """What serves each kind of first message."""
        return {
            "join": self._join,
            "channel": self._channel,
            "ask": self._ask,
            "probe": self._probe,
        }

    def _coordinated(self, execution_id: str) -> Coordinator | None:
        """An execution that this node coordinates now."""
        settlement = self._settlements.get(execution_id)
        if settlement and isinstance(settlement.end, Coordinator):
            return settlement.end
        return None

    async def _join(self, wire: Wire, parties: frozenset[str], header: Message) -> None:
        execution_id = str(header["execution"])
        claimed = set(map(str, header["from"]))
        if not claimed or not claimed <= parties:
            raise PeerRefused("The certificate is not that of the parties that it is to speak for.")
        coordinator = self._coordinated(execution_id)
        if coordinator is None:
            outcome = await asyncio.to_thread(self._known_outcome, execution_id, parties)
            if outcome["status"] in ("UNKNOWN", "RUNNING"):
                outcome = {"kind": "later"}
            wire.send(outcome)
            return
        seat = coordinator.seat(header)
        wire.longest_bytes = LONGEST_BYTES
        wire.send({"kind": "welcome", "session": coordinator.session})
        with execution_context(execution_id=execution_id):
            await converse(wire, seat, ", ".join(seat.parties), self._pace)

    async def _channel(self, wire: Wire, parties: frozenset[str], header: Message) -> None:
        settlement = self._settlements.get(str(header["execution"]))
        if (
            settlement is None
            or parties.isdisjoint(settlement.end.agenda.parties)
            or not settlement.tunnels.admits(header)
        ):
            raise PeerRefused("This node has no such channel.")
        await settlement.tunnels.serve(wire, header)

    async def _ask(self, wire: Wire, parties: frozenset[str], header: Message) -> None:
        execution_id = str(header["execution"])
        coordinator = self._coordinated(execution_id)
        if coordinator and not parties.isdisjoint(coordinator.agenda.parties):
            wire.send(coordinator.outcome())
        else:
            wire.send(await asyncio.to_thread(self._known_outcome, execution_id, parties))

    async def _probe(self, wire: Wire, parties: frozenset[str], _header: Message) -> None:
        async def call_back() -> str | None:
            try:
                way = await self._dialler.dial(min(parties))
            except WorkerError as error:
                return error.message
            await way.close()
            return None

        wire.longest_bytes = LONGEST_BYTES
        with suppress(WireClosed, asyncio.TimeoutError):
            await answer(wire, call_back)
