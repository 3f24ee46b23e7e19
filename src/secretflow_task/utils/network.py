"""Addresses as settings and requests write them, and ports."""

from __future__ import annotations

import re
import socket
from contextlib import ExitStack

_ADDRESS = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9._-]+)):(\d{1,5})")
_LAST_PORT = 65535


def host_and_port(address: str) -> tuple[str, int]:
    """The two parts of ``host:port``; an IPv6 address stands in brackets, which are taken away.

    Raises:
        ValueError: it is not of this form.
    """
    match = _ADDRESS.fullmatch(address)
    if not match or int(match[3]) > _LAST_PORT:
        raise ValueError("must be address:port, such as 0.0.0.0:9443 or [::]:9443")
    return match[1] or match[2], int(match[3])


def address_family(host: str) -> socket.AddressFamily:
    """What a socket needs to know to listen at a host."""
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def free_ports(count: int) -> list[int]:
    """So many different ports of the loopback interface that were free a moment ago."""
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [int(probe.getsockname()[1]) for probe in probes]
