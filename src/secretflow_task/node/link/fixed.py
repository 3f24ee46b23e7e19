"""Executions whose parties have fixed addresses, without a link between their nodes.

Nobody tells this node how the others fare, so it looks: a peer's port that was open and takes no
connections any more means that its job has ended. Each party settles for itself.

A peer may be open and gone between two looks. The own job offers its facts after it has reached all
peers, so from then on each was open.
"""

from __future__ import annotations

import socket
import threading
from typing import Mapping

from secretflow_task.contract.errors import PeerLost
from secretflow_task.node.link.local import LocalSettlement
from secretflow_task.utils.network import host_and_port

_PROBE_SECONDS = 1.0
_MISSED = 3  # probes in a row


class ProbedSettlement(LocalSettlement):
    """`LocalSettlement` of the hosted party; fails when a peer's port closes before all is done.

    Args:
        addresses: ``{party: host:port}`` of the peers.
    """

    def __init__(self, party: str, addresses: Mapping[str, str]) -> None:
        super().__init__([party])
        self._addresses = addresses
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._probe, name="probe", daemon=True)

    def join(self) -> None:
        """Begin to look; the job itself waits until all listen."""
        self._thread.start()

    def _probe(self) -> None:
        missed: dict[str, int] = {}  # of the ports that have been open once
        while not self._closed.wait(_PROBE_SECONDS):
            for party, address in self._addresses.items():
                if _is_open(address):
                    missed[party] = 0
                elif party in missed or self.offered:
                    missed[party] = missed.get(party, 0) + 1
                if missed.get(party) == _MISSED and not self.all_finished:
                    message = f"The process of {party} no longer accepts connections."
                    self.fail(PeerLost(message, party=party))

    def close(self) -> None:
        """Look no more, and give back what the link holds."""
        self._closed.set()
        if self._thread.ident is not None:
            self._thread.join()
        super().close()


def _is_open(address: str) -> bool:
    try:
        socket.create_connection(host_and_port(address), timeout=_PROBE_SECONDS).close()
    except OSError:
        return False
    return True
