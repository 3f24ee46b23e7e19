"""An execution between nodes without nodes."""

from __future__ import annotations

import threading
from typing import Callable

from secretflow_task.contract.errors import PeerLost
from secretflow_task.node.link.peer.agenda import Agenda
from secretflow_task.node.link.peer.coordinator import Coordinator
from secretflow_task.node.link.peer.member import Member
from secretflow_task.node.link.protocol import PeerLink
from secretflow_task.testing.copies import as_json


class MemorySettlement:
    """An execution between nodes without a network: a coordinator, and members that hear at once.

    Args:
        parties: one at each node; the first coordinates.
        decide: as `LocalSettlement` takes it.
    """

    def __init__(self, parties: list[str], decide: Callable[[], None] = lambda: None) -> None:
        def agenda(party: str) -> Agenda:
            return Agenda("memory", tuple(parties), (party,), "digest", "protocol")

        self.coordinator = Coordinator(
            agenda(parties[0]),
            decide,
            lambda nonce: True,
            lambda party: False,
            join_seconds=5.0,
            clock_limit_seconds=60.0,
        )
        self.members: dict[str, Member] = {}
        self.cables: dict[str, MemoryCable] = {}
        for party in parties[1:]:
            member = Member(agenda(party), patience_seconds=5.0, join_seconds=10.0)
            self.members[party] = member
            self.cables[party] = MemoryCable(self.coordinator, member)

    @property
    def links(self) -> dict[str, PeerLink]:
        """Every party's link."""
        links = dict(self.coordinator.links)
        for member in self.members.values():
            links.update(member.links)
        return links

    def join(self) -> None:
        """Bring all together."""
        self.coordinator.join()
        for member in self.members.values():
            member.join()

    def close(self) -> None:
        """Give back what the links hold."""
        self.coordinator.close()
        for member in self.members.values():
            member.close()


class MemoryCable:
    """Carries the messages between a member and its seat, until it is cut."""

    def __init__(self, coordinator: Coordinator, member: Member) -> None:
        self._coordinator = coordinator
        self._member = member
        self._seat = coordinator.seat(as_json(member.agenda.join()))
        self._mutex = threading.Lock()
        self._carrying = self._again = False
        self.is_cut = False
        member.attach(coordinator.session)
        self._seat.watch(self._carry)
        member.watch(self._carry)

    def _carry(self) -> None:
        with self._mutex:
            self._again = True
            if self._carrying:
                return
            self._carrying = True
        while self._goes_on():
            for message in self._member.take():
                self._seat.receive(as_json(message))
            for message in self._seat.take():
                self._member.receive(as_json(message))

    def _goes_on(self) -> bool:
        with self._mutex:
            self._carrying, self._again = self._again and not self.is_cut, False
            return self._carrying

    def cut(self) -> None:
        """Let nothing through, and let both sides notice."""
        self.is_cut = True
        self._seat.lost(PeerLost(party=self._member.agenda.hosted[0]))
        self._member.lost(PeerLost(party=self._member.agenda.coordinator))

    def ask(self) -> None:
        """Let the member ask how the execution ended."""
        self._member.learn(as_json(self._coordinator.outcome()))
