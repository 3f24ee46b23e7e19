"""With fixed addresses a peer is lost when its port was open and no longer accepts connections."""

from __future__ import annotations

import select
import socket
from contextlib import closing
from typing import Iterator

import pytest

from secretflow_task.node.link import fixed
from secretflow_task.node.link.fixed import ProbedSettlement
from tests.bench.waiting import PATIENCE_SECONDS


@pytest.fixture(autouse=True)
def _probes_without_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fixed, "_PROBE_SECONDS", 0.01)


@pytest.fixture
def server() -> Iterator[socket.socket]:
    """The port of bob's job."""
    with socket.create_server(("127.0.0.1", 0)) as found:
        found.settimeout(30)
        yield found


def settlement(server: socket.socket) -> ProbedSettlement:
    """Alice's, who probes that port."""
    return ProbedSettlement("alice", {"bob": f"127.0.0.1:{server.getsockname()[1]}"})


def wait_for_probes(server: socket.socket, count: int) -> None:
    """Wait until the port was probed so often."""
    for _ in range(count):
        server.accept()[0].close()


def test_a_port_that_closes_ends_the_execution(server: socket.socket) -> None:
    with closing(settlement(server)) as shared:
        shared.join()
        wait_for_probes(server, 1)
        link = shared.links["alice"]
        link.clear()
        server.close()
        assert select.select([link], [], [], 30)[0]
        failed = link.failed
        assert failed and (failed.code, failed.party) == ("PeerLost", "bob")


def test_a_peer_that_is_gone_before_the_first_look_is_lost(server: socket.socket) -> None:
    with closing(settlement(server)) as shared:
        server.close()
        link = shared.links["alice"]
        link.offer({})  # its job has reached bob's
        link.clear()
        shared.join()
        assert select.select([link], [], [], 30)[0]
        failed = link.failed
        assert failed and (failed.code, failed.party) == ("PeerLost", "bob")


def test_a_port_that_stays_open_ends_nothing(server: socket.socket) -> None:
    with closing(settlement(server)) as shared:
        shared.join()
        wait_for_probes(server, 2 * fixed._MISSED)
        assert shared.failure is None


def looked(monkeypatch: pytest.MonkeyPatch, shared: ProbedSettlement, *found: bool) -> None:
    """Let the probes find this, one after another."""
    answers = list(found)

    def is_open(_address: str) -> bool:
        is_last = len(answers) == 1
        if is_last:
            shared._closed.set()
        return answers.pop(0)

    monkeypatch.setattr(fixed, "_is_open", is_open)
    shared.join()
    shared._thread.join(PATIENCE_SECONDS)


def test_a_port_that_was_never_open_is_waited_for(
    server: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(settlement(server)) as shared:
        looked(monkeypatch, shared, *[False] * 10)
        assert shared.failure is None


def test_a_port_that_misses_a_probe_and_comes_back_is_not_lost(
    server: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(settlement(server)) as shared:
        looked(monkeypatch, shared, *[True, False, False] * 4)
        assert shared.failure is None


def test_a_party_that_has_finished_does_not_mind(
    server: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(settlement(server)) as shared:
        shared.links["alice"].finish()
        looked(monkeypatch, shared, True, *[False] * 10)
        assert shared.failure is None


def test_what_never_began_can_be_closed(server: socket.socket) -> None:
    settlement(server).close()
