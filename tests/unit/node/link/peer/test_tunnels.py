"""The tunnels of an execution lead to the own job's two ports, for whoever knows the session."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from typing import Any, Iterator

import pytest

from secretflow_task.contract.errors import PortUnavailable
from secretflow_task.node.link.peer.address_book import AddressBook, Peer
from secretflow_task.node.link.peer.certificates import certificates_in, make_certificate
from secretflow_task.node.link.peer.dial import Dialler
from secretflow_task.node.link.peer.tunnels import Tunnels
from secretflow_task.node.ports import Ports, is_free, leased_ports
from tests.unit.node.link.peer.parties import PARTIES, SESSION, agenda, received, wired

HEADER = {"kind": "channel", "execution": "e-1", "session": SESSION, "to": "alice", "line": "fed"}


@pytest.fixture
def ports() -> Iterator[Ports]:
    """Of both parties."""
    with leased_ports(4, range(26000, 28000)) as found:
        yield Ports(dict(zip(PARTIES, found[:2])), dict(zip(PARTIES, found[2:])))


@pytest.fixture
def dialler(tmp_path: Path) -> Dialler:
    """Alice's, who has bob's address; nobody answers there."""
    alice, _ = make_certificate("alice", tmp_path)
    bob, _ = make_certificate("bob", tmp_path)
    certificates = tuple(certificates_in(bob.certificate.read_text()))
    return Dialler(AddressBook({"bob": Peer("bob", "127.0.0.1", 1, certificates)}), alice)


@pytest.fixture
def tunnels(ports: Ports, dialler: Dialler) -> Tunnels:
    """Alice's."""
    return Tunnels(agenda("alice"), ports, dialler, lambda: SESSION)


def test_a_channel_of_the_execution_is_admitted(tunnels: Tunnels) -> None:
    assert all(tunnels.admits(HEADER | {"line": line}) for line in ("fed", "spu"))


@pytest.mark.parametrize(
    "change",
    [
        {"session": ""},
        {"session": None},
        {"session": SESSION[:-1] + "0"},
        {"session": 5},
        {"session": "ä"},
        {"to": "bob"},
        {"to": None},
        {"line": "ssh"},
        {"line": None},
    ],
    ids=repr,
)
def test_any_other_is_not(change: dict[str, Any], tunnels: Tunnels) -> None:
    assert not tunnels.admits(HEADER | change)


@pytest.mark.parametrize("session", [None, "", "None"])
def test_none_is_admitted_before_the_execution_has_a_session(
    session: str | None, ports: Ports, dialler: Dialler
) -> None:
    unnamed = Tunnels(agenda("alice"), ports, dialler, lambda: None)
    assert not unnamed.admits(HEADER | {"session": session})


def test_none_is_admitted_after_the_end(tunnels: Tunnels) -> None:
    asyncio.run(tunnels.close())
    assert not tunnels.admits(HEADER)


def test_it_listens_for_the_peers_and_only_for_them(tunnels: Tunnels, ports: Ports) -> None:
    async def scenario() -> list[bool]:
        await tunnels.open()
        free = [is_free(line[party]) for line in (ports.fed, ports.spu) for party in PARTIES]
        await tunnels.close()
        return free

    assert asyncio.run(scenario()) == [True, False, True, False]


def test_a_port_that_is_taken_gives_back_the_others(tunnels: Tunnels, ports: Ports) -> None:
    async def scenario() -> None:
        with pytest.raises(PortUnavailable):
            await tunnels.open()

    with socket.create_server(("127.0.0.1", ports.spu["bob"])):
        asyncio.run(scenario())
    assert is_free(ports.fed["bob"])


def test_a_peers_channel_leads_to_the_own_job(tunnels: Tunnels, ports: Ports) -> None:
    async def scenario() -> bytes:
        async with wired() as (wire, peer):
            serving = asyncio.create_task(tunnels.serve(wire, HEADER))
            peer.send(b"\x00\x00\x00\x05hello")
            with socket.create_server(("127.0.0.1", ports.fed["alice"])) as job:
                job.setblocking(False)
                accepted, _ = await asyncio.get_running_loop().sock_accept(job)
            with accepted:
                data = await received(accepted, 5)
                peer.close()
                await serving
                await tunnels.drain()
                return data

    assert asyncio.run(scenario()) == b"hello"


def test_a_channel_is_hung_up_when_the_execution_ends_first(tunnels: Tunnels) -> None:
    async def scenario() -> bytes:
        async with wired() as (wire, peer):
            serving = asyncio.create_task(tunnels.serve(wire, HEADER))
            await asyncio.sleep(0)
            await tunnels.close()
            await serving
            return await received(peer, 1)

    assert asyncio.run(scenario()) == b""


def test_a_connection_to_a_peer_that_cannot_be_reached_is_broken_off(
    tunnels: Tunnels, ports: Ports
) -> None:
    async def scenario() -> None:
        await tunnels.open()
        with socket.create_connection(("127.0.0.1", ports.fed["bob"])) as job:
            job.setblocking(False)
            with pytest.raises(ConnectionResetError):
                await received(job, 1)
        await tunnels.close()

    asyncio.run(scenario())
