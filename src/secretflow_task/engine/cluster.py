"""The cluster of one execution: SecretFlow from `secretflow.init` to its closing barrier."""

from __future__ import annotations

import socket
import time
from contextlib import contextmanager
from typing import Iterator, Mapping

from secretflow_task.contract.errors import ClusterInitError, PortUnavailable
from secretflow_task.contract.job_spec import Listening
from secretflow_task.engine import adapter
from secretflow_task.utils.network import host_and_port

_PATIENCE_SECONDS = 30.0


@contextmanager
def cluster(
    addresses: Mapping[str, str], self_party: str, job_name: str, listening: Listening | None = None
) -> Iterator[None]:
    """Join the cluster of ``{party: host:port}`` and leave it behind a barrier.

    Without ``listening`` each party listens where it is reached, and is waited for 30 s.

    After an error the session is lost and `secretflow.shutdown` would hang or end the process, so
    nothing is closed: the process must end itself at once.

    Raises:
        PortUnavailable: the own port is taken.
        ClusterInitError: a peer's process does not listen in time.
    """
    import secretflow as sf

    adapter.install()
    members = {}
    for party, address in addresses.items():
        members[party] = {"address": address, "listen_addr": address}
    patience_seconds = _PATIENCE_SECONDS
    if listening:
        members[self_party]["listen_addr"] = listening.fed
        patience_seconds = listening.patience_seconds
    try:
        sf.init(
            cluster_config={"parties": members, "self_party": self_party},
            ray_mode=False,
            logging_level="warning",
            job_name=job_name,
            cross_silo_comm_options=dict(adapter.MESSAGE_OPTIONS),
        )
    except RuntimeError as error:
        raise PortUnavailable(party=self_party, detail=str(error)) from None
    adapter.keep_running_on_error()
    for party, address in addresses.items():
        if party != self_party:
            _wait_for(party, address, patience_seconds)
    yield
    sf.shutdown()


def _wait_for(party: str, address: str, patience_seconds: float) -> None:
    """Wait until a peer listens: SecretFlow's message to an absent one fails after a minute."""
    deadline = time.monotonic() + patience_seconds
    while True:
        try:
            socket.create_connection(host_and_port(address), timeout=1.0).close()
            return
        except OSError:
            if time.monotonic() > deadline:
                raise ClusterInitError(
                    f"The process of {party} does not answer.", party=party
                ) from None
            time.sleep(0.01)
