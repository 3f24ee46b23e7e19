"""Who dials reaches the node of the party that he names, or is told why not."""

from __future__ import annotations

import asyncio
import socket
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, Iterator

import pytest

from secretflow_task.config.settings import Settings
from secretflow_task.contract.errors import BadSetting, PeerRefused, PeerUnreachable
from secretflow_task.node.link.peer import dial
from secretflow_task.node.link.peer.address_book import AddressBook
from secretflow_task.node.link.peer.certificates import Identity, make_certificate
from secretflow_task.node.link.peer.dial import Dialler
from tests.bench.peers import Hubs


@pytest.fixture
def hubs(tmp_path: Path) -> Iterator[Hubs]:
    """Bob's node; alice's is only dialling, and carol's does not run."""
    with Hubs(tmp_path, "alice", "bob", "carol") as running:
        running.stop("alice")
        running.stop("carol")
        yield running


@pytest.fixture
def alice(hubs: Hubs) -> Dialler:
    """Who dials."""
    return Dialler(AddressBook.read(hubs.write_book("alice")), hubs.identities["alice"])


def reach(dialler: Dialler, party: str) -> Any:
    """Whose certificate the node of a party shows."""

    async def scenario() -> Any:
        wire = await dialler.dial(party)
        shown = wire.certificate()
        await wire.close()
        return dialler.book.parties_of(shown)

    return asyncio.run(scenario())


def moved(dialler: Dialler, party: str, **changes: Any) -> Dialler:
    """The same with another address for a party."""
    peers = {**dialler.book.peers, party: replace(dialler.book.peers[party], **changes)}
    dialler.book = AddressBook(peers)
    return dialler


def test_the_node_of_a_party_is_reached(alice: Dialler) -> None:
    assert reach(alice, "bob") == {"bob"}


def test_a_node_that_does_not_run_is_unreachable(alice: Dialler) -> None:
    with pytest.raises(PeerUnreachable, match="node of carol cannot be reached"):
        reach(alice, "carol")


def test_a_name_that_does_not_resolve_is_unreachable(
    alice: Dialler, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(*_: object, **__: object) -> object:
        raise socket.gaierror

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(PeerUnreachable, match="gaierror"):
        reach(alice, "bob")


def test_a_node_that_accepts_and_says_nothing_is_unreachable(
    alice: Dialler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dial, "_CONNECT_SECONDS", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        with pytest.raises(PeerUnreachable, match="TimeoutError"):
            reach(moved(alice, "bob", port=silent.getsockname()[1]), "bob")


def test_the_node_of_another_party_is_refused(alice: Dialler, hubs: Hubs) -> None:
    with pytest.raises(PeerRefused, match="that of another party"):
        reach(moved(alice, "carol", port=hubs.ports["bob"]), "carol")


def test_a_node_with_a_foreign_certificate_is_refused(hubs: Hubs, tmp_path: Path) -> None:
    foreign, digest = make_certificate("bob", tmp_path / "another")
    entry = (
        f"{{host: 127.0.0.1, port: {hubs.ports['bob']}, certificate: {foreign.certificate},"
        f" fingerprints: [{digest}]}}"
    )
    book = AddressBook.read(hubs.write_book("alice", bob=entry))
    with pytest.raises(PeerRefused, match="certificate of the node at bob's address is refused"):
        reach(Dialler(book, hubs.identities["alice"]), "bob")


def test_of_several_addresses_the_first_that_answers_is_taken(
    alice: Dialler, hubs: Hubs, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = [(0, 0, 0, "", (address, 0)) for address in ("127.0.0.2", "127.0.0.1")]
    hubs.stop("bob")
    hubs.start("bob")  # listens on 127.0.0.1 only
    original = socket.getaddrinfo

    def both(host: Any, port: Any, *rest: Any, **options: Any) -> Any:
        return found if port is None else original(host, port, *rest, **options)

    monkeypatch.setattr(socket, "getaddrinfo", both)
    assert reach(alice, "bob") == {"bob"}


def test_a_question_is_answered_on_the_same_connection(alice: Dialler) -> None:
    async def scenario() -> Any:
        wire, answer = await alice.request("bob", lambda: {"kind": "ask", "execution": "e"})
        await wire.close()
        return answer

    assert asyncio.run(scenario()) == {"kind": "outcome", "status": "UNKNOWN"}


def test_after_a_renewal_the_new_book_counts(alice: Dialler, hubs: Hubs) -> None:
    book = AddressBook(moved(alice, "bob", port=1).book.peers)
    stale = Dialler(book, hubs.identities["alice"])
    stale.renew(Dialler(AddressBook.read(hubs.write_book("alice")), hubs.identities["alice"]))
    assert reach(stale, "bob") == {"bob"}


def test_why_a_peer_hangs_up_is_said(alice: Dialler) -> None:
    assert "not in its address book" in alice.hung_up("bob").message
    alice.expiry = datetime.now(timezone.utc) - timedelta(1)
    assert "it has expired" in alice.hung_up("bob").message


def test_without_its_files_there_is_no_dialling() -> None:
    with pytest.raises(BadSetting, match="SFWORKER_PEERS_FILE"):
        Dialler.of(Settings())


def test_a_certificate_and_a_key_must_fit(hubs: Hubs) -> None:
    mixed = Identity(hubs.identities["alice"].certificate, hubs.identities["bob"].key)
    with pytest.raises(BadSetting, match="do not fit together"):
        Dialler(AddressBook.read(hubs.write_book("alice")), mixed)
