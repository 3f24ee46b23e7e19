"""Addresses have one form, and free ports are free."""

from __future__ import annotations

import socket

import pytest

from secretflow_task.utils.network import address_family, free_ports, host_and_port


@pytest.mark.parametrize(
    ("address", "parts"),
    [
        ("0.0.0.0:9443", ("0.0.0.0", 9443)),
        ("[::1]:65535", ("::1", 65535)),
        ("alice.example:1", ("alice.example", 1)),
        ("node_of-alice:0", ("node_of-alice", 0)),
    ],
)
def test_an_address_has_a_host_and_a_port(address: str, parts: tuple[str, int]) -> None:
    assert host_and_port(address) == parts


@pytest.mark.parametrize(
    "address", ["", "9443", "alice", "alice:", ":9443", "::1:9443", "[::1]", "a b:1", "a:65536"]
)
def test_what_lacks_one_of_them_is_refused(address: str) -> None:
    with pytest.raises(ValueError, match="address:port"):
        host_and_port(address)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
def test_a_host_is_listened_at_in_its_own_family(host: str) -> None:
    with socket.create_server((host, 0), family=address_family(host)) as server:
        socket.create_connection((host, server.getsockname()[1]), timeout=5).close()


def test_free_ports_are_different_and_can_be_listened_at() -> None:
    first, second = free_ports(2)
    assert first != second
    for port in (first, second):
        socket.create_server(("127.0.0.1", port)).close()
