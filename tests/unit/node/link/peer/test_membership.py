"""A member joins at its coordinator, and believes of his answers only those that make sense."""

from __future__ import annotations

import asyncio
import json
import struct
from contextlib import closing
from pathlib import Path
from typing import Any, Iterator

import pytest

from secretflow_task.contract.errors import TaskCancelled
from secretflow_task.node.link.peer import membership
from secretflow_task.node.link.peer.address_book import AddressBook, Peer
from secretflow_task.node.link.peer.certificates import (
    Identity,
    certificates_in,
    make_certificate,
    tls_context,
)
from secretflow_task.node.link.peer.conversation import Pace
from secretflow_task.node.link.peer.dial import Dialler
from secretflow_task.node.link.peer.member import Member
from secretflow_task.node.link.peer.membership import Deadlines, ask, take_part
from secretflow_task.node.link.peer.wire import Wire
from tests.unit.node.link.peer.parties import SESSION, agenda, code, frame

PACE = Pace(beat_seconds=0.01, lost_seconds=600.0)
WELCOME = {"kind": "welcome", "session": SESSION}


class ChangedNode:
    """A node of alice with changed code: it gives each connection the next of its answers.

    An answer is messages, or bytes; then it hangs up. The last answer is given again and again.
    """

    def __init__(self, identity: Identity, trusted: str) -> None:
        self._context = tls_context(identity, trusted, server=True)
        self.answers: list[list[Any]] = []
        self.heard: list[dict[str, Any]] = []

    async def start(self) -> asyncio.AbstractServer:
        """Listen."""
        return await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._context)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        (length,) = struct.unpack("!I", await reader.readexactly(4))
        self.heard.append(json.loads(await reader.readexactly(length)))
        answers = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        for answer in answers:
            writer.write(frame(answer))
        writer.close()


class Scene:
    """Bob, who joins at a changed node of alice."""

    def __init__(self, folder: Path) -> None:
        self._alice, _ = make_certificate("alice", folder)
        self._bob, _ = make_certificate("bob", folder)
        self.alice = ChangedNode(self._alice, self._bob.certificate.read_text())
        self.member = Member(agenda("bob"), 5.0, 5.0)

    def run(
        self, *answers: list[Any], join_seconds: float = 600.0, settle: float = 600.0
    ) -> object:
        """Let bob take part; returns how it ends for him."""
        self.alice.answers = list(answers)
        deadlines = Deadlines(join_seconds, settle)
        self._with_alice(lambda dialler: take_part(self.member, dialler, PACE, deadlines))
        return code(self.member.failure)

    def ask(self, answer: list[Any]) -> Any:
        """Let bob ask."""
        self.alice.answers = [answer]
        return self._with_alice(lambda dialler: ask(dialler, "alice", "e-1"))

    def _with_alice(self, work: Any) -> Any:
        async def scenario() -> Any:
            async with await self.alice.start() as server:
                port = server.sockets[0].getsockname()[1]
                certificates = tuple(certificates_in(self._alice.certificate.read_text()))
                book = AddressBook({"alice": Peer("alice", "127.0.0.1", port, certificates)})
                return await work(Dialler(book, self._bob))

        return asyncio.run(scenario())


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    """It, with members that ask again at once."""
    monkeypatch.setattr(membership, "_RETRY_SECONDS", 0.001)
    monkeypatch.setattr(membership, "_FIRST_RETRY_SECONDS", 0.001)
    monkeypatch.setattr(membership, "_ASK_SECONDS", 0.001)
    found = Scene(tmp_path)
    with closing(found.member):
        yield found


def refused(name: str) -> dict[str, Any]:
    """A refusal of alice."""
    return {"kind": "refused", "error": {"code": name, "message": "No.", "party": "alice"}}


FAILED = {"kind": "failed", "error": refused("TaskCancelled")["error"]}


def test_a_coordinator_that_refuses_ends_it(scene: Scene) -> None:
    assert scene.run([refused("RequestMismatch")]) == ("RequestMismatch", "alice")
    assert [message["kind"] for message in scene.alice.heard] == ["join"]


def test_a_coordinator_that_says_later_is_asked_again(scene: Scene) -> None:
    later = [{"kind": "later"}]
    assert scene.run(later, later, [WELCOME, FAILED]) == ("TaskCancelled", "alice")
    nonces = {message["nonce"] for message in scene.alice.heard}
    assert len(nonces) == 3


def test_a_coordinator_that_says_later_for_too_long_did_not_get_the_request(scene: Scene) -> None:
    assert scene.run([{"kind": "later"}], join_seconds=0.2) == ("PeerUnreachable", "alice")
    assert "did not reach alice within 0.2 s" in (scene.member.failure or TaskCancelled()).message


@pytest.mark.parametrize(
    "nonsense",
    [
        [{"kind": "welcome"}],
        [{"kind": "welcome", "session": "guessed"}],
        [{"kind": "refused"}],
        [{"kind": "refused", "error": {"message": 7}}],
        [{"kind": "outcome"}],
        [b"\xff"],
    ],
    ids=repr,
)
def test_an_answer_that_makes_no_sense_is_none(nonsense: list[Any], scene: Scene) -> None:
    assert scene.run(nonsense, [refused("RequestMismatch")]) == ("RequestMismatch", "alice")


def test_a_coordinator_that_hangs_up_has_refused_the_certificate(scene: Scene) -> None:
    assert scene.run([], join_seconds=0.2) == ("PeerRefused", "alice")


def test_an_execution_that_has_failed_ends_so(scene: Scene) -> None:
    outcome = {"kind": "outcome", "status": "FAILURE", "error": refused("TaskCancelled")["error"]}
    assert scene.run([outcome]) == ("TaskCancelled", "alice")


def test_a_success_without_the_own_vote_is_not_believed(scene: Scene) -> None:
    outcome = {"kind": "outcome", "status": "SUCCESS"}
    assert scene.run([outcome]) == ("SettlementUnknown", None)


def test_a_link_that_breaks_before_the_vote_is_the_end(scene: Scene) -> None:
    assert scene.run([WELCOME, {"kind": "joined"}]) == ("PeerLost", "alice")


def voted(scene: Scene) -> None:
    """Let bob vote before anything else."""
    scene.member.settle("bob")


@pytest.mark.parametrize(
    ("answer", "end"),
    [
        ({"kind": "outcome", "status": "SUCCESS"}, None),
        ({"kind": "outcome", "status": "UNKNOWN"}, ("SettlementUnknown", None)),
        (
            {"kind": "outcome", "status": "FAILURE", "error": refused("PeerLost")["error"]},
            ("PeerLost", "alice"),
        ),
    ],
)
def test_after_the_vote_the_coordinator_is_asked_until_it_answers(
    answer: dict[str, Any], end: object, scene: Scene
) -> None:
    voted(scene)
    running = [{"kind": "outcome", "status": "RUNNING"}]
    senseless = [{"kind": "outcome", "status": "PERHAPS"}]
    assert scene.run([WELCOME], running, [], senseless, [answer]) == end
    assert scene.member.succeeded is (end is None)
    assert [message["kind"] for message in scene.alice.heard] == ["join"] + ["ask"] * 4


def test_after_the_vote_an_answer_is_waited_for_and_no_longer(scene: Scene) -> None:
    voted(scene)
    running = [{"kind": "outcome", "status": "RUNNING"}]
    assert scene.run([WELCOME], running, settle=0.1) == ("SettlementUnknown", "alice")


@pytest.mark.parametrize(
    "answer",
    [[], [b"\xff"], [{"kind": "welcome"}], [{"kind": "outcome", "status": "FAILURE"}]],
    ids=repr,
)
def test_what_is_not_an_outcome_is_none(answer: list[Any], scene: Scene) -> None:
    assert scene.ask(answer) is None


def test_an_outcome_is_taken(scene: Scene) -> None:
    assert scene.ask([{"kind": "outcome", "status": "SUCCESS"}])["status"] == "SUCCESS"
    assert scene.alice.heard == [{"kind": "ask", "execution": "e-1"}]


def test_a_defect_of_its_own_does_not_leave_the_parties_waiting(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(wire: Wire, *_: object) -> None:
        await wire.close()
        raise RuntimeError

    monkeypatch.setattr(membership, "converse", broken)
    assert scene.run([WELCOME]) == ("PeerLost", "alice")
