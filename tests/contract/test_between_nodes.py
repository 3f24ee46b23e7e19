"""When nodes cannot reach each other, each ends as soon as its end is certain, in the same way."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import Iterator

import pytest

from secretflow_task.contract.errors import TaskCancelled, WorkerError
from secretflow_task.node.link.peer.certificates import make_certificate
from secretflow_task.node.link.peer.settlement import PeerSettlement
from tests.bench.peers import Hubs
from tests.bench.waiting import PATIENCE_SECONDS, comes_true, wait_for


def code(error: WorkerError | None) -> tuple[str, str | None] | None:
    """The code of a failure, and the party where it began."""
    return (error.code, error.party) if error else None


@pytest.fixture
def hubs(tmp_path: Path) -> Iterator[Hubs]:
    """Two nodes that wait a little for a decision."""
    with Hubs(tmp_path, "alice", "bob", settle_seconds=1.5) as running:
        yield running


@pytest.fixture
def patient(tmp_path: Path) -> Iterator[Hubs]:
    """The same, who wait as long as the tests do."""
    with Hubs(tmp_path, "alice", "bob", settle_seconds=PATIENCE_SECONDS) as running:
        yield running


def test_a_request_that_comes_late_to_one_is_waited_for(hubs: Hubs) -> None:
    with closing(hubs.open("e", "bob")) as bob:
        time.sleep(1.0)
        with closing(hubs.open("e", "alice")) as alice:
            alice.join()
            bob.join()


@pytest.mark.parametrize("present", ["alice", "bob"])
def test_a_request_that_never_comes_to_one_is_told_to_the_other(
    present: str, tmp_path: Path
) -> None:
    with Hubs(tmp_path, "alice", "bob", join_seconds=0.5) as hubs:
        with closing(hubs.open("e", present)) as end, pytest.raises(WorkerError) as raised:
            end.join()
    absent = "bob" if present == "alice" else "alice"
    assert code(raised.value) == ("PeerUnreachable", absent)


def test_a_member_that_refuses_before_it_has_joined_says_so(hubs: Hubs) -> None:
    with closing(hubs.open("e", "bob")) as bob:
        bob.links["bob"].fail(TaskCancelled(party="bob"))
        with pytest.raises(TaskCancelled):
            bob.join()
    with closing(hubs.open("e", "alice")) as alice:
        assert comes_true(lambda: code(alice.links["alice"].failed) == ("TaskCancelled", "bob"))


def test_who_comes_after_the_end_hears_how_it_ended(hubs: Hubs) -> None:
    failure = TaskCancelled(party="alice")
    hubs.outcomes["alice", "e"] = {
        "kind": "outcome",
        "status": "FAILURE",
        "error": failure.to_dict(),
    }
    with closing(hubs.open("e", "bob")) as bob, pytest.raises(TaskCancelled):
        bob.join()


def test_a_node_that_goes_away_is_lost_at_once(hubs: Hubs) -> None:
    with closing(hubs.open("e", "alice")) as alice, closing(hubs.open("e", "bob")) as bob:
        alice.join()
        bob.join()
        assert hubs.settings["peer_lost_seconds"] > PATIENCE_SECONDS
        hubs.stop("bob")
        wait_for(lambda: code(alice.links["alice"].failed) == ("PeerLost", "bob"))
        hubs.start("bob")


def undecided(hubs: Hubs) -> tuple[PeerSettlement, PeerSettlement]:
    """An execution for which bob has voted; its coordinator went away before it had decided."""
    alice, bob = hubs.open("e", "alice"), hubs.open("e", "bob")
    alice.join()
    bob.join()
    for end, party in ((alice, "alice"), (bob, "bob")):
        end.links[party].finish()
    assert comes_true(lambda: bob.links["bob"].finished)
    bob.links["bob"].settle()
    hubs.stop("alice")
    return alice, bob


def test_a_decision_that_nobody_knows_is_waited_for_and_no_longer(hubs: Hubs) -> None:
    started = time.monotonic()
    alice, bob = undecided(hubs)
    wait_for(lambda: bob.links["bob"].failed)
    assert code(bob.links["bob"].failed) == ("SettlementUnknown", "alice")
    assert time.monotonic() - started > hubs.settings["settle_seconds"]
    bob.close()
    alice.end.close()


@pytest.mark.parametrize(
    "answer",
    [
        {"kind": "outcome", "status": "FAILURE"},
        {"kind": "outcome", "status": "FAILURE", "error": {"party": "\n"}},
        {"kind": "outcome", "status": "PERHAPS"},
        {"kind": "outcome"},
    ],
)
def test_a_senseless_answer_is_none_and_the_wait_ends_in_time(
    answer: dict[str, object], hubs: Hubs
) -> None:
    alice, bob = undecided(hubs)
    hubs.outcomes["alice", "e"] = answer
    hubs.start("alice")
    assert comes_true(lambda: code(bob.links["bob"].failed) == ("SettlementUnknown", "alice"))
    bob.close()
    alice.end.close()


def test_a_certificate_may_change_while_a_decision_is_waited_for(
    patient: Hubs, tmp_path: Path
) -> None:
    hubs = patient
    alice, bob = undecided(hubs)
    hubs.identities["alice"], hubs.fingerprints["alice"] = make_certificate(
        "alice", tmp_path / "next"
    )
    hubs.write_book("bob")
    hubs.hubs["bob"].reload()
    hubs.outcomes["alice", "e"] = {"kind": "outcome", "status": "SUCCESS"}
    hubs.start("alice")
    assert comes_true(lambda: bob.links["bob"].succeeded)
    bob.close()
    alice.end.close()


def test_a_peer_whose_name_does_not_resolve_does_not_disturb_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        Hubs(tmp_path, "alice", "bob") as hubs,
        closing(hubs.open("e", "alice")) as alice,
        closing(hubs.open("e", "bob")) as bob,
        ExitStack() as stack,
    ):
        alice.join()
        bob.join()
        resolve = socket.getaddrinfo
        asked, answered = threading.Event(), threading.Event()
        stack.callback(answered.set)

        def stuck(host: object, *rest: object, **options: object) -> object:
            if host == "stuck.example":
                asked.set()
                answered.wait()
                raise OSError
            return resolve(host, *rest, **options)  # type: ignore[call-overload]

        monkeypatch.setattr(socket, "getaddrinfo", stuck)
        hub = hubs.hubs["alice"]
        hub.dialler.book.peers["bob"] = replace(hub.dialler.book.peers["bob"], host="stuck.example")
        for _ in range(40):
            asyncio.run_coroutine_threadsafe(hub.dialler.dial("bob"), hub._loop)
        assert asked.wait(PATIENCE_SECONDS)
        links = alice.links["alice"], bob.links["bob"]
        for link in links:
            link.finish()
        wait_for(lambda: all(link.finished for link in links))
        for link in links:
            link.settle()
        wait_for(lambda: all(link.succeeded for link in links))
        assert not answered.is_set() and [link.failed for link in links] == [None, None]


def test_a_node_answers_how_an_execution_ended_as_long_as_it_knows(hubs: Hubs) -> None:
    success = {"kind": "outcome", "status": "SUCCESS"}
    hubs.outcomes["alice", "old"] = success
    assert hubs.hubs["bob"].ask("alice", "old") == success
    assert hubs.hubs["bob"].ask("alice", "none") == {"kind": "outcome", "status": "UNKNOWN"}
    with closing(hubs.open("e", "alice")):
        assert hubs.hubs["bob"].ask("alice", "e") == {"kind": "outcome", "status": "RUNNING"}
