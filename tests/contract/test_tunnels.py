"""What enters a tunnel reaches the peer's job whole, or the connection breaks at both ends."""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import socket
import struct
import threading
import time
from contextlib import ExitStack, closing, contextmanager
from typing import Any, Iterator

import pytest

from secretflow_task.node.link.peer.settlement import PeerSettlement
from secretflow_task.node.link.peer.tunnel import LocalSide
from secretflow_task.node.link.peer.tunnels import Tunnels
from tests.bench.peers import Hubs
from tests.bench.waiting import PATIENCE_SECONDS


class Way:
    """An execution of two nodes; alice's job calls, bob's job listens."""

    def __init__(self, hubs: Hubs, name: str) -> None:
        self.alice, self.bob = hubs.open(name, "alice"), hubs.open(name, "bob")
        self.alice.join()
        self.bob.join()

    @staticmethod
    def _port(end: PeerSettlement, line: str) -> int:
        return end.tunnels._ports.line(line)["bob"]

    @contextmanager
    def listening(self, line: str = "fed") -> Iterator[socket.socket]:
        """Bob's job's port."""
        with socket.create_server(("127.0.0.1", self._port(self.bob, line))) as server:
            server.settimeout(PATIENCE_SECONDS)
            yield server

    def call(self, line: str = "fed") -> socket.socket:
        """A connection of alice's job to the port that stands for bob's."""
        address = "127.0.0.1", self._port(self.alice, line)
        return socket.create_connection(address, timeout=PATIENCE_SECONDS)

    @contextmanager
    def connected(self, line: str = "fed") -> Iterator[tuple[socket.socket, socket.socket]]:
        """Both ends of one connection."""
        with self.listening(line) as server, self.call(line) as caller:
            accepted, _ = server.accept()
            accepted.settimeout(PATIENCE_SECONDS)
            with accepted:
                yield caller, accepted

    def close(self) -> None:
        """End the execution."""
        self.alice.close()
        self.bob.close()


@pytest.fixture(scope="module")
def hubs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hubs]:
    """Two nodes."""
    with Hubs(tmp_path_factory.mktemp("tunnels"), "alice", "bob") as running:
        yield running


@pytest.fixture
def way(hubs: Hubs, request: pytest.FixtureRequest) -> Iterator[Way]:
    """An execution of its own."""
    with closing(Way(hubs, f"e-{abs(hash(request.node.name))}")) as found:
        yield found


def read_all(connection: socket.socket) -> bytes:
    """Everything until the end."""
    pieces = []
    while piece := connection.recv(1 << 16):
        pieces.append(piece)
    return b"".join(pieces)


def test_bytes_arrive_in_order_both_ways_at_once(way: Way) -> None:
    there, back = os.urandom(3_000_000), os.urandom(2_000_000)
    received: list[bytes] = []
    with way.connected() as (caller, accepted):

        def answer() -> None:
            sending = threading.Thread(target=accepted.sendall, args=(back,))
            sending.start()
            received.append(read_all(accepted))
            sending.join()
            accepted.shutdown(socket.SHUT_WR)

        job = threading.Thread(target=answer)
        job.start()
        view, dice = memoryview(there), random.Random(1)
        while view:
            view = view[caller.send(view[: dice.choice([1, 100, 70_000])]) :]
        caller.shutdown(socket.SHUT_WR)
        assert read_all(caller) == back
        job.join()
    assert received == [there]


def test_the_end_of_one_direction_leaves_the_other_open(way: Way) -> None:
    with way.connected() as (caller, accepted):
        caller.sendall(b"question")
        caller.shutdown(socket.SHUT_WR)
        assert read_all(accepted) == b"question"
        time.sleep(0.2)
        accepted.sendall(b"answer")
        accepted.shutdown(socket.SHUT_WR)
        assert read_all(caller) == b"answer"


def test_what_is_sent_before_the_peers_job_listens_waits_for_it(way: Way) -> None:
    with way.call() as caller:
        caller.sendall(b"early")
        time.sleep(0.5)
        with way.listening() as server:
            accepted, _ = server.accept()
            with accepted:
                caller.shutdown(socket.SHUT_WR)
                assert read_all(accepted) == b"early"


def test_who_does_not_read_makes_the_sender_wait(way: Way) -> None:
    with way.connected() as (caller, accepted):
        caller.settimeout(1.0)
        sent, piece, digest = 0, os.urandom(1 << 20), hashlib.sha256()
        with pytest.raises(TimeoutError):
            while sent < 200 << 20:
                count = caller.send(piece)
                digest.update(piece[:count])
                sent += count
        assert sent < 60 << 20
        caller.shutdown(socket.SHUT_WR)
        assert hashlib.sha256(read_all(accepted)).digest() == digest.digest()


@pytest.mark.parametrize("breaks", ["caller", "accepted"])
def test_a_connection_that_breaks_at_one_end_breaks_at_the_other(breaks: str, way: Way) -> None:
    with way.connected() as (caller, accepted):
        caller.sendall(b"half a mess")
        assert accepted.recv(100) == b"half a mess"
        gone, left = (caller, accepted) if breaks == "caller" else (accepted, caller)
        gone.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        gone.close()  # a reset, as of a process that was killed with something unread
        with pytest.raises(ConnectionResetError):
            while left.recv(100):
                pass


def test_the_two_lines_of_many_executions_do_not_mix(hubs: Hubs) -> None:
    with ExitStack() as stack:
        pairs = {}
        for number in range(10):
            way = stack.enter_context(closing(Way(hubs, f"many-{number}")))
            for line in ("fed", "spu"):
                pairs[number, line] = stack.enter_context(way.connected(line))
        for key, (caller, _) in pairs.items():
            caller.sendall(repr(key).encode())
        for key, (_, accepted) in reversed(pairs.items()):
            assert accepted.recv(100) == repr(key).encode()


def test_after_the_end_of_an_execution_its_ports_are_free_and_its_connections_gone(
    hubs: Hubs,
) -> None:
    way = Way(hubs, "ends")
    with way.connected() as (caller, accepted):
        way.close()
        for end in (caller, accepted):
            with pytest.raises(ConnectionResetError):
                end.recv(100)
    for line in ("fed", "spu"):
        for end in (way.alice, way.bob):
            with socket.create_server(("127.0.0.1", way._port(end, line))):
                pass


@pytest.mark.parametrize("joins_late", [False, True])
def test_what_a_job_sent_last_arrives_though_its_execution_has_ended(
    joins_late: bool, hubs: Hubs, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect = Tunnels._connect

    async def connect_slowly(*args: Any) -> LocalSide | None:
        local = await connect(*args)
        await asyncio.sleep(0.3)  # the job has the connection, its node is busy
        return local

    if joins_late:
        monkeypatch.setattr(Tunnels, "_connect", connect_slowly)
    way = Way(hubs, f"last-words-{joins_late}")
    with way.connected() as (caller, accepted):
        caller.sendall(b"x" * 1_000_000)
        caller.close()
        way.close()
        assert len(read_all(accepted)) == 1_000_000
