"""One execution between nodes, as this node takes part in it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Callable, Mapping

from secretflow_task.contract.errors import NodeLost, WorkerError
from secretflow_task.node.link.peer.coordinator import Coordinator
from secretflow_task.node.link.peer.member import Member
from secretflow_task.node.link.peer.tunnels import Tunnels
from secretflow_task.node.link.protocol import PeerLink


@dataclass(frozen=True)
class PeerSettlement:
    """`Settlement` between nodes.

    Attributes:
        end: of the conversation.
        tunnels: for the traffic of the jobs.
        release: gives back what it holds, at the hub.
    """

    end: Coordinator | Member
    tunnels: Tunnels
    release: Callable[[PeerSettlement], None]

    @property
    def links(self) -> Mapping[str, PeerLink]:
        """The link of each hosted party."""
        return self.end.links

    def join(self) -> None:
        """Wait until every party's node takes part."""
        self.end.join()

    def fail(self, error: WorkerError) -> None:
        """End it in failure, unless it has ended or only the coordinator can."""
        own_party = self.end.agenda.hosted[0]
        self.links[own_party].fail(error)

    def close(self) -> None:
        """Give back the ports and what the links hold."""
        self.fail(NodeLost(party=self.end.agenda.hosted[0]))  # for whoever would wait for this node
        self.release(self)
