"""A peer gets a seat, a channel or an outcome where he has a part, and only there."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any, Iterator

import pytest

from secretflow_task.contract.errors import TaskCancelled
from tests.bench.peers import Hubs, Stranger, as_bob
from tests.unit.node.link.peer.parties import agenda

UNKNOWN = {"kind": "outcome", "status": "UNKNOWN"}
SUCCESS = {"kind": "outcome", "status": "SUCCESS"}


@pytest.fixture
def hubs(tmp_path: Path) -> Iterator[Hubs]:
    """Alice's node, who coordinates, and the keys of bob and carol."""
    with Hubs(tmp_path, "alice", "bob", "carol") as running:
        for party in ("bob", "carol"):
            running.stop(party)
        yield running


def answer(hubs: Hubs, question: Any) -> Any:
    """What alice's node answers bob."""
    with as_bob(hubs) as bob:
        bob.say(question)
        return bob.hear()


def test_who_comes_before_the_request_is_told_to_come_later(hubs: Hubs) -> None:
    assert answer(hubs, agenda("bob").join()) == {"kind": "later"}
    hubs.outcomes["alice", "e-1"] = {"kind": "outcome", "status": "RUNNING"}
    assert answer(hubs, agenda("bob").join()) == {"kind": "later"}


def test_who_comes_after_the_end_hears_of_it(hubs: Hubs) -> None:
    error = TaskCancelled(party="alice").to_dict()
    for outcome in (SUCCESS, {"kind": "outcome", "status": "FAILURE", "error": error}):
        hubs.outcomes["alice", "e-1"] = outcome
        assert answer(hubs, agenda("bob").join()) == outcome


def test_a_party_of_the_execution_is_welcome(hubs: Hubs) -> None:
    with closing(hubs.open("e-1", "alice", parties=("alice", "bob"))) as alice:
        welcome = answer(hubs, agenda("bob").join())
        assert welcome == {"kind": "welcome", "session": alice.end.session}


@pytest.mark.parametrize("claimed", [[], ["carol"], ["bob", "carol"]])
def test_nobody_speaks_for_another_party(claimed: list[str], hubs: Hubs) -> None:
    with closing(hubs.open("e-1", "alice")) as alice:
        refused = answer(hubs, agenda("bob").join() | {"from": claimed})
        assert refused["error"]["code"] == "PeerRefused"
        assert alice.links["alice"].failed is None


def test_a_member_gives_no_seats(hubs: Hubs) -> None:
    hubs.start("bob")
    carol = hubs.identities["carol"]
    parties = ("alice", "bob", "carol")
    with closing(hubs.open("e-1", "bob", parties=parties)):
        with Stranger(hubs, carol.certificate, carol.key, to="bob") as stranger:
            stranger.say(agenda("carol", parties=parties).join())
            assert stranger.hear() == {"kind": "later"}


def test_who_asks_hears_of_what_runs_and_of_what_the_store_knows(hubs: Hubs) -> None:
    question = {"kind": "ask", "execution": "e-1"}
    assert answer(hubs, question) == UNKNOWN
    with closing(hubs.open("e-1", "alice", parties=("alice", "bob"))) as alice:
        assert answer(hubs, question) == {"kind": "outcome", "status": "RUNNING"}
        alice.links["alice"].fail(TaskCancelled(party="alice"))
        assert answer(hubs, question)["error"]["code"] == "TaskCancelled"
    hubs.outcomes["alice", "e-1"] = SUCCESS
    assert answer(hubs, question) == SUCCESS


def test_of_what_runs_only_its_parties_hear(hubs: Hubs) -> None:
    with closing(hubs.open("e-1", "alice", parties=("alice", "carol"))):
        assert answer(hubs, {"kind": "ask", "execution": "e-1"}) == UNKNOWN


@pytest.mark.parametrize("session", [None, "", "guessed"])
def test_a_channel_needs_the_session(session: str | None, hubs: Hubs) -> None:
    header = {"kind": "channel", "execution": "e-1", "to": "alice", "line": "fed"}
    with closing(hubs.open("e-1", "alice")):
        refused = answer(hubs, header | {"session": session})
    assert refused["error"]["code"] == "PeerRefused"


def test_a_channel_is_for_the_parties_of_the_execution(hubs: Hubs) -> None:
    with closing(hubs.open("e-1", "alice", parties=("alice", "carol"))) as alice:
        header = {"kind": "channel", "execution": "e-1", "to": "alice", "line": "fed"}
        refused = answer(hubs, header | {"session": alice.end.session})
    assert refused["error"]["code"] == "PeerRefused"


def test_a_probe_tries_the_way_back(hubs: Hubs) -> None:
    with as_bob(hubs) as bob:
        bob.say({"kind": "probe"})
        bob.say({"kind": "call"})
        called = bob.hear()
    assert called["kind"] == "called" and "bob cannot be reached" in called["problem"]
