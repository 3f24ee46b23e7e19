"""The hub opens executions, tells and asks other nodes, and gives everything back."""

from __future__ import annotations

import socket
from contextlib import closing
from pathlib import Path
from typing import Iterator

import pytest

from secretflow_task.contract.errors import BadSetting, PortUnavailable, TaskCancelled, WorkerError
from secretflow_task.node.ports import Ports
from tests.bench.peers import Hubs
from tests.unit.node.link.peer.parties import agenda, code


@pytest.fixture
def hubs(tmp_path: Path) -> Iterator[Hubs]:
    """Of alice, who coordinates, and bob."""
    with Hubs(tmp_path, "alice", "bob") as running:
        yield running


def test_it_listens_on_the_port_of_its_settings(hubs: Hubs) -> None:
    hub = hubs.hubs["alice"]
    assert hub.port == hubs.ports["alice"] and hub.knows("bob") and not hub.knows("carol")


def test_after_its_end_its_port_is_free_and_nobody_can_be_asked(hubs: Hubs) -> None:
    hub = hubs.hubs["alice"]
    hubs.stop("alice")
    with socket.create_server(("127.0.0.1", hubs.ports["alice"])):
        assert hub.ask("bob", "e") is None


def test_a_party_that_it_does_not_know_cannot_be_asked(hubs: Hubs) -> None:
    assert hubs.hubs["alice"].ask("carol", "e") is None


def test_a_node_that_does_not_run_cannot_be_asked(hubs: Hubs) -> None:
    hubs.stop("bob")
    assert hubs.hubs["alice"].ask("bob", "e") is None


def test_a_book_that_cannot_be_read_leaves_the_old_one(hubs: Hubs) -> None:
    path = hubs.write_book("alice")
    path.write_text("bob: [", encoding="utf-8")
    with pytest.raises(BadSetting):
        hubs.hubs["alice"].reload()
    assert hubs.hubs["alice"].ask("bob", "e") == {"kind": "outcome", "status": "UNKNOWN"}


def test_a_new_book_counts_from_now_on(hubs: Hubs) -> None:
    hub = hubs.hubs["alice"]
    hubs.write_book(
        "alice",
        bob="{host: 127.0.0.1, port: 1, certificate: ../bob/bob.crt,"
        f" fingerprints: [{hubs.fingerprints['bob']}]}}",
    )
    hub.reload()
    assert hub.ask("bob", "e") is None


@pytest.mark.parametrize("party", ["alice", "bob"])
def test_without_its_ports_no_execution_is_opened(party: str, hubs: Hubs) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ports = Ports(*[{"alice": port, "bob": port}] * 2)
        with pytest.raises(PortUnavailable):
            hubs.hubs[party].open(agenda(party), ports)
    hubs.open("e-1", party).close()


def test_a_member_that_will_not_take_part_says_so(hubs: Hubs) -> None:
    with closing(hubs.open("e-1", "alice")) as alice:
        hubs.hubs["bob"].tell(agenda("bob"), TaskCancelled(party="bob"))
        with pytest.raises(TaskCancelled) as raised:
            alice.join()
    assert code(raised.value) == ("TaskCancelled", "bob")


@pytest.mark.parametrize("party", ["alice", "bob"])
def test_who_is_told_while_it_runs_fails(party: str, hubs: Hubs) -> None:
    with closing(hubs.open("e-1", "alice")) as alice, closing(hubs.open("e-1", "bob")) as bob:
        own = {"alice": alice, "bob": bob}[party]
        hubs.hubs[party].tell(own.end.agenda, TaskCancelled(party=party))
        for end in (alice, bob):
            with pytest.raises(WorkerError) as raised:
                end.join()
            assert code(raised.value) == ("TaskCancelled", party)


def test_a_success_is_written_down_under_its_execution(hubs: Hubs) -> None:
    only = {"parties": ("alice",)}
    with closing(hubs.open("e-7", "alice", **only)) as alice:
        alice.join()
        alice.links["alice"].finish()
        alice.links["alice"].settle()
    assert hubs.decided == [("alice", "e-7")]


def test_what_is_closed_fails_for_those_who_wait(hubs: Hubs) -> None:
    with closing(hubs.open("e-1", "bob")) as bob:
        hubs.open("e-1", "alice").close()
        hubs.outcomes["alice", "e-1"] = {
            "kind": "outcome",
            "status": "FAILURE",
            "error": TaskCancelled(party="alice").to_dict(),
        }
        with pytest.raises(WorkerError) as raised:
            bob.join()
    assert code(raised.value) in {("NodeLost", "alice"), ("TaskCancelled", "alice")}
