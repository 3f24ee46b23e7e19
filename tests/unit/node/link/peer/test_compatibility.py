"""What nodes say to each other, word for word, so nodes of two commits understand each other."""

from __future__ import annotations

import json
from contextlib import closing
from typing import Any

from secretflow_task.contract.errors import JobProcessDied
from secretflow_task.node.link.peer.agenda import Agenda, versions
from secretflow_task.node.link.peer.coordinator import Coordinator
from secretflow_task.node.link.peer.member import Member

PARTIES = ("alice", "bob")


class Conversation:
    """Carries messages between a coordinator (alice) and a member (bob), and writes them down."""

    def __init__(self) -> None:
        alice, bob = (Agenda("e-1", PARTIES, (party,), "digest", "protocol") for party in PARTIES)
        self.coordinator = Coordinator(
            alice,
            lambda: None,
            lambda nonce: True,
            lambda party: False,
            join_seconds=5.0,
            clock_limit_seconds=60.0,
        )
        self.member = Member(bob, 5.0, 10.0)
        self.said: list[str] = []
        self.seat = self.coordinator.seat(self.member.introduction())
        self.member.attach(self.coordinator.session)
        self.coordinator.join()
        self.alice = self.coordinator.links["alice"]
        self.bob = self.member.links["bob"]

    def carry(self) -> None:
        """Let each hear what the other has to say."""
        for message in self.member.take():
            self.said.append("bob: " + json.dumps(message))
            self.seat.receive(message)
        for message in self.seat.take():
            self.said.append("alice: " + json.dumps(message))
            self.member.receive(message)

    def close(self) -> None:
        """Give back the links."""
        self.coordinator.close()
        self.member.close()


def test_the_messages_of_a_success() -> None:
    with closing(Conversation()) as talk:
        for party, link in (("alice", talk.alice), ("bob", talk.bob)):
            link.offer({"rows": len(party)})
        talk.carry()
        for link in (talk.alice, talk.bob):
            link.finish()
        talk.carry()
        for link in (talk.alice, talk.bob):
            link.settle()
        talk.carry()
        assert talk.alice.succeeded and talk.bob.succeeded
    assert talk.said == [
        'bob: {"kind": "offer", "party": "bob", "facts": {"rows": 3}}',
        'alice: {"kind": "joined"}',
        'alice: {"kind": "agreed", "facts": {"alice": {"rows": 5}, "bob": {"rows": 3}}}',
        'bob: {"kind": "finish", "party": "bob"}',
        'alice: {"kind": "finished"}',
        'bob: {"kind": "settle", "party": "bob"}',
        'alice: {"kind": "succeeded"}',
    ]


def test_the_messages_of_a_failure() -> None:
    with closing(Conversation()) as talk:
        talk.bob.fail(JobProcessDied(party="bob"))
        talk.carry()
        assert talk.alice.failed and talk.bob.failed
    error = json.dumps(JobProcessDied(party="bob").to_dict())
    assert talk.said == [
        f'bob: {{"kind": "fail", "error": {error}}}',
        'alice: {"kind": "joined"}',
        f'alice: {{"kind": "failed", "error": {error}}}',
    ]


def test_the_first_message_of_a_member() -> None:
    agenda = Agenda("e-1", PARTIES, ("bob",), "digest", "protocol")
    member = Member(agenda, 5.0, 10.0)
    member.fail(JobProcessDied(party="bob"))
    message = dict(member.introduction())
    changing: dict[str, Any] = {name: message.pop(name) for name in ("clock", "nonce")}
    member.close()
    assert message == {
        "kind": "join",
        "execution": "e-1",
        "parties": ["alice", "bob"],
        "from": ["bob"],
        "digest": "digest",
        "protocol": "protocol",
        "versions": versions(),
        "refuses": JobProcessDied(party="bob").to_dict(),
    }
    assert isinstance(changing["clock"], float)
    assert len(bytes.fromhex(changing["nonce"])) == 16


def test_the_answers_to_a_node_that_asks() -> None:
    with closing(Conversation()) as talk:
        assert talk.coordinator.outcome() == {"kind": "outcome", "status": "RUNNING"}
        for link in (talk.alice, talk.bob):
            link.finish()
        talk.carry()
        for link in (talk.alice, talk.bob):
            link.settle()
        talk.carry()
        assert talk.coordinator.outcome() == {"kind": "outcome", "status": "SUCCESS"}
    error = JobProcessDied(party="alice")
    with closing(Conversation()) as talk:
        talk.alice.fail(error)
        outcome = {"kind": "outcome", "status": "FAILURE", "error": error.to_dict()}
        assert talk.coordinator.outcome() == outcome
