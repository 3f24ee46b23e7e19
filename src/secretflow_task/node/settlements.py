"""How the parties of an execution reach each other: inside this node, at fixed addresses, or
between nodes.
"""

from __future__ import annotations

from secretflow_task.contract.errors import WorkerError
from secretflow_task.node.assignment import Assignment
from secretflow_task.node.link.fixed import ProbedSettlement
from secretflow_task.node.link.local import LocalSettlement
from secretflow_task.node.link.peer.hub import PeerHub
from secretflow_task.node.link.protocol import Settlement
from secretflow_task.node.ports import Ports


class Settlements:
    """Opens the settlement of each execution.

    Args:
        hub: the link to other nodes; None for a node without one.
    """

    def __init__(self, hub: PeerHub | None) -> None:
        self._hub = hub

    def knows(self, party: str) -> bool:
        """Whether there is a link to a party's node."""
        return self._hub is not None and self._hub.knows(party)

    def open(self, assignment: Assignment, ports: Ports) -> Settlement:
        """The settlement of an execution; whoever opens it closes it."""
        if self._hub and assignment.linked:
            return self._hub.open(assignment.agenda, ports)
        if assignment.strangers:
            addresses, _ = assignment.addresses(ports)
            strangers = {party: addresses[party] for party in assignment.strangers}
            return ProbedSettlement(assignment.hosted[0], strangers)
        return LocalSettlement(assignment.hosted)

    def refuse(self, assignment: Assignment, error: WorkerError) -> None:
        """Tell the other nodes of an execution that this one does not run it."""
        if self._hub and assignment.linked:
            self._hub.tell(assignment.agenda, error)
