"""Whoever connects shows a certificate of the book and says what he wants, or is turned away."""

from __future__ import annotations

import asyncio
import errno
import resource
import socket
import struct
from contextlib import closing
from pathlib import Path
from typing import Any, Iterator

import pytest

from secretflow_task.contract.errors import BadSetting
from secretflow_task.node.link.peer import acceptor
from secretflow_task.node.link.peer.acceptor import listen
from secretflow_task.node.link.peer.certificates import make_certificate
from tests.bench.peers import Hubs, Stranger, as_bob


@pytest.fixture
def hubs(tmp_path: Path) -> Iterator[Hubs]:
    """Alice's node, and bob's key."""
    with Hubs(tmp_path, "alice", "bob") as running:
        running.stop("bob")
        yield running


def hung_up(connection: socket.socket) -> bool:
    """Whether the node ends the connection without a word."""
    try:
        return connection.recv(1) == b""
    except TimeoutError:
        return False
    except OSError:  # a reset, or an alert of TLS
        return True


def still_serves(hubs: Hubs) -> bool:
    """Whether the node answers bob."""
    with as_bob(hubs) as bob:
        bob.say({"kind": "ask", "execution": "e"})
        return bob.hear() == {"kind": "outcome", "status": "UNKNOWN"}


def test_a_certificate_of_the_book_is_let_in(hubs: Hubs) -> None:
    assert still_serves(hubs) and hubs.hubs["alice"].refused == 0


def test_a_foreign_certificate_is_turned_away(hubs: Hubs, tmp_path: Path) -> None:
    foreign, _ = make_certificate("bob", tmp_path / "another")
    with Stranger(hubs, foreign.certificate, foreign.key) as stranger:
        assert hung_up(stranger.connection)
    assert still_serves(hubs) and hubs.hubs["alice"].refused == 1


def test_who_shows_no_certificate_is_turned_away(hubs: Hubs) -> None:
    with Stranger(hubs, None, None) as stranger:
        assert hung_up(stranger.connection)
    assert still_serves(hubs) and hubs.hubs["alice"].refused == 1


@pytest.mark.parametrize(
    "data", [b"GET / HTTP/1.1\r\n\r\n", b"\x00\x00\x00\x05hello", b"\x16\x03\x01\xff\xff" * 100]
)
def test_what_is_not_tls_is_turned_away(data: bytes, hubs: Hubs) -> None:
    with socket.create_connection(("127.0.0.1", hubs.ports["alice"]), timeout=30) as stranger:
        stranger.sendall(data)
        while stranger.recv(100):  # an alert of TLS, at most
            pass
    assert still_serves(hubs) and hubs.hubs["alice"].refused == 1


@pytest.mark.parametrize("length", [65_537, 1 << 31])
def test_a_first_message_that_is_too_long_is_not_read(length: int, hubs: Hubs) -> None:
    with as_bob(hubs) as stranger:
        stranger.connection.sendall(struct.pack("!I", length))
        assert hung_up(stranger.connection)
    assert still_serves(hubs) and hubs.hubs["alice"].refused == 1


@pytest.mark.parametrize(
    "first", [b"\xff", b"[" * 60_000, [], {"kind": 3}], ids=["1", "2", "3", "4"]
)
def test_a_first_message_that_makes_no_sense_is_hung_up(first: Any, hubs: Hubs) -> None:
    with as_bob(hubs) as stranger:
        stranger.say(first)
        assert hung_up(stranger.connection)
    assert still_serves(hubs) and hubs.hubs["alice"].refused == 1


@pytest.mark.parametrize("kind", ["join", "channel", "ask"])
def test_a_first_message_that_says_too_little_is_hung_up(kind: str, hubs: Hubs) -> None:
    with as_bob(hubs) as stranger:
        stranger.say({"kind": kind})
        assert hung_up(stranger.connection)
    assert still_serves(hubs) and hubs.hubs["alice"].refused == 1


def test_what_the_node_does_not_know_is_refused_with_a_word(hubs: Hubs) -> None:
    with as_bob(hubs) as stranger:
        stranger.say({"kind": "shell"})
        answer = stranger.hear()
    assert answer["kind"] == "refused" and answer["error"]["code"] == "PeerRefused"


def test_who_says_nothing_is_not_waited_for(hubs: Hubs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(acceptor, "_HANDSHAKE_SECONDS", 0.05)
    with as_bob(hubs) as silent:
        assert hung_up(silent.connection)
    with socket.create_connection(("127.0.0.1", hubs.ports["alice"]), timeout=30) as silent_plain:
        assert hung_up(silent_plain)


def test_of_too_many_strangers_the_oldest_goes(hubs: Hubs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(acceptor, "_STRANGERS", 2)
    address = ("127.0.0.1", hubs.ports["alice"])
    with socket.create_connection(address, timeout=30) as oldest:
        with socket.create_connection(address, timeout=30), as_bob(hubs) as bob:
            assert hung_up(oldest)
            bob.say({"kind": "ask", "execution": "e"})
            assert bob.hear()["kind"] == "outcome"


def test_who_came_when_the_node_ends_is_hung_up(hubs: Hubs) -> None:
    hub = hubs.hubs["alice"]

    async def come_and_end() -> socket.socket:
        """Before the loop goes on to the task that would serve the connection."""
        client = socket.create_connection(("127.0.0.1", hubs.ports["alice"]), timeout=30)
        hub._acceptor._accept()  # pylint: disable=protected-access
        hub._tasks.cancel()  # pylint: disable=protected-access
        return client

    with hub._call(come_and_end()) as client:  # pylint: disable=protected-access
        assert hung_up(client)
    assert still_serves(hubs)


def test_a_node_without_free_files_lets_in_who_came_when_it_has_some(hubs: Hubs) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with socket.socket() as client:
        client.settimeout(30)
        resource.setrlimit(resource.RLIMIT_NOFILE, (client.fileno() + 1, hard))
        try:
            with pytest.raises(OSError) as full, closing(socket.socket()):
                pass
            assert full.value.errno == errno.EMFILE
            client.connect(("127.0.0.1", hubs.ports["alice"]))
            hubs.hubs["alice"]._call(asyncio.sleep(0.05))  # pylint: disable=protected-access
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert still_serves(hubs)


@pytest.mark.parametrize("address", ["192.0.2.1:0", "[2001:db8::1]:0"])
def test_an_address_that_cannot_be_listened_on_is_told(address: str) -> None:
    with pytest.raises(BadSetting, match="SFWORKER_PEER_LISTEN"):
        listen(address)


@pytest.mark.parametrize(
    ("address", "family"), [("127.0.0.1:0", socket.AF_INET), ("[::1]:0", socket.AF_INET6)]
)
def test_an_address_may_be_of_either_family(address: str, family: int) -> None:
    if family == socket.AF_INET6 and not Path("/proc/net/if_inet6").exists():
        pytest.skip("this machine has no IPv6")
    with closing(listen(address)) as listener:
        assert listener.family == family
