"""Leases of loopback ports, shared by all nodes of a host."""

from __future__ import annotations

import fcntl
import os
import random
import socket
import tempfile
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Iterator, Mapping

from secretflow_task.contract.errors import PortUnavailable

# One folder for every node of the host and user: two nodes must not lease the same port.
LOCK_FOLDER = Path(tempfile.gettempdir()) / f"sfworker-ports-{os.getuid()}"


@dataclass(frozen=True)
class Ports:
    """``{party: port}`` on loopback, of SecretFlow's messages and of the SPU's link.

    A hosted party's job listens there itself; at the others' the node listens for it.
    """

    fed: Mapping[str, int]
    spu: Mapping[str, int]

    def line(self, name: str) -> Mapping[str, int]:
        """The ports of ``fed`` or ``spu``; raises `KeyError` for anything else."""
        return {"fed": self.fed, "spu": self.spu}[name]


@contextmanager
def leased_ports(count: int, ports: range, folder: Path = LOCK_FOLDER) -> Iterator[list[int]]:
    """Hold ``count`` free ports of ``ports`` until the block ends; a dead node's leases end with
    it.

    Raises:
        PortUnavailable: there are not enough.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with ExitStack() as stack:
        held: list[int] = []
        for port in random.sample(ports, len(ports)):
            if len(held) == count:
                break
            if stack.enter_context(_lock(folder / str(port))) and is_free(port):
                held.append(port)
        if len(held) < count:
            raise PortUnavailable()
        yield held


@contextmanager
def _lock(path: Path) -> Iterator[bool]:
    handle = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield True
    except BlockingIOError:
        yield False
    finally:
        os.close(handle)


def is_free(port: int) -> bool:
    """Whether a server could listen on a loopback port now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
