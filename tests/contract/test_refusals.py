"""Whoever is not the peer that it should be, or runs something else, is refused."""

from __future__ import annotations

import datetime
import os
import random
import socket
import struct
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import Any, Iterator

import psutil
import pytest

from secretflow_task.contract.errors import PeerUnreachable, WorkerError
from secretflow_task.node.link.peer import agenda
from secretflow_task.node.link.peer.agenda import Agenda
from secretflow_task.node.link.peer.certificates import make_certificate
from tests.bench.peers import Hubs, Stranger, as_bob
from tests.bench.waiting import comes_true


@pytest.fixture
def hubs(tmp_path: Path) -> Iterator[Hubs]:
    """Nodes of alice, who coordinates, and bob."""
    with Hubs(tmp_path, "alice", "bob") as running:
        yield running


@pytest.fixture
def hasty(tmp_path: Path) -> Iterator[Hubs]:
    """The same, who do not wait long for a node that never joins."""
    with Hubs(tmp_path, "alice", "bob", join_seconds=5.0) as running:
        yield running


def ends(
    hubs: Hubs, alice: dict[str, Any], bob: dict[str, Any]
) -> dict[str, tuple[str, str | None]]:
    """How an execution ends before it starts, which these changes make different at the two."""
    found: dict[str, tuple[str, str | None]] = {}

    def take_part(party: str, changes: dict[str, Any]) -> None:
        with closing(hubs.open("e", party, **changes)) as end:
            with pytest.raises(WorkerError) as raised:
                end.join()
            found[party] = (raised.value.code, raised.value.party)

    threads = [
        threading.Thread(target=take_part, args=arguments)
        for arguments in (("alice", alice), ("bob", bob))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


@pytest.mark.parametrize(
    "change",
    [{"digest": "another"}, {"protocol": "another"}, {"parties": ("alice", "bob", "carol")}],
)
def test_a_changed_request_is_refused_at_both(change: dict[str, Any], hubs: Hubs) -> None:
    assert ends(hubs, {}, change) == {
        party: ("RequestMismatch", None) for party in ("alice", "bob")
    }


def joined(**changes: Any) -> Any:
    """What `Agenda.join` gives at bob's node with some of it changed."""
    join = Agenda.join

    def changed(self: Agenda) -> dict[str, Any]:
        return join(self) | (changes if self.hosted == ("bob",) else {})

    return changed


@pytest.mark.parametrize("name", ["link", "worker", "secretflow"])
def test_another_version_is_refused_at_both(
    name: str, hubs: Hubs, monkeypatch: pytest.MonkeyPatch
) -> None:
    versions = agenda.versions() | {name: "0.0.1"}
    monkeypatch.setattr(Agenda, "join", joined(versions=versions))
    assert ends(hubs, {}, {}) == {party: ("VersionMismatch", None) for party in ("alice", "bob")}


@pytest.mark.parametrize("seconds", [-600, 600, float("nan")])
def test_a_clock_ten_minutes_off_is_refused_at_both(
    seconds: float, hubs: Hubs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Agenda, "join", joined(clock=time.time() + seconds))
    assert ends(hubs, {}, {}) == {party: ("ClockSkew", None) for party in ("alice", "bob")}


def test_a_clock_half_a_minute_off_is_not(hubs: Hubs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Agenda, "join", joined(clock=time.time() - 30))
    with closing(hubs.open("e", "alice")) as alice, closing(hubs.open("e", "bob")) as bob:
        alice.join()
        bob.join()


def test_a_join_that_is_sent_again_is_refused(hubs: Hubs) -> None:
    join = Agenda("e", ("alice", "bob"), ("bob",), "digest", "protocol").join()
    with closing(hubs.open("e", "alice")) as alice:
        with as_bob(hubs) as first, as_bob(hubs) as second:
            first.say(join)
            assert first.hear()["kind"] == "welcome"
            second.say(join)
            assert second.hear()["error"]["code"] == "PeerRefused"
            assert alice.links["alice"].failed is None
    with closing(hubs.open("e", "alice")), as_bob(hubs) as later:
        later.say(join)
        assert later.hear()["error"]["message"] == "The same join came before."


def test_a_seat_is_given_once(hubs: Hubs) -> None:
    joins = [Agenda("e", ("alice", "bob"), ("bob",), "digest", "protocol").join() for _ in range(2)]
    with closing(hubs.open("e", "alice")), as_bob(hubs) as first, as_bob(hubs) as second:
        first.say(joins[0])
        assert first.hear()["kind"] == "welcome"
        second.say(joins[1])
        assert second.hear()["error"]["code"] == "PeerRefused"


def refused(stranger: Stranger) -> None:
    """The node hangs up on somebody whom it does not let in."""
    with stranger:
        try:
            stranger.say({"kind": "join"})
            assert stranger.connection.recv(1) == b""
        except OSError:
            pass


def test_an_unknown_certificate_is_refused(hubs: Hubs, tmp_path: Path) -> None:
    identity, _ = make_certificate("bob", tmp_path / "another")
    refused(Stranger(hubs, identity.certificate, identity.key))
    assert comes_true(lambda: hubs.hubs["alice"].refused == 1)


def test_no_certificate_is_refused(hubs: Hubs) -> None:
    refused(Stranger(hubs, None, None))
    assert comes_true(lambda: hubs.hubs["alice"].refused == 1)


def remake(hubs: Hubs, tmp_path: Path, **dates: datetime.datetime) -> None:
    """Give bob another certificate, which alice has in her address book, and start both again."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization

    pem = hubs.identities["bob"].key.read_bytes()
    key: Any = serialization.load_pem_private_key(pem, None)
    old = x509.load_pem_x509_certificate(hubs.identities["bob"].certificate.read_bytes())
    new = (
        x509.CertificateBuilder(
            old.issuer, old.subject, key.public_key(), x509.random_serial_number()
        )
        .not_valid_before(dates.get("since", old.not_valid_before_utc))
        .not_valid_after(dates.get("until", old.not_valid_after_utc))
        .sign(key, hashes.SHA256())
    )
    hubs.identities["bob"].certificate.write_bytes(new.public_bytes(serialization.Encoding.PEM))
    hubs.fingerprints["bob"] = new.fingerprint(hashes.SHA256()).hex()
    for party in ("alice", "bob"):
        hubs.stop(party)
        hubs.start(party)


def test_an_expired_certificate_is_refused_with_a_reason_at_both(
    hasty: Hubs, tmp_path: Path
) -> None:
    now = datetime.datetime.now(datetime.timezone.utc)
    remake(hasty, tmp_path, since=now - datetime.timedelta(2), until=now - datetime.timedelta(1))
    assert ends(hasty, {}, {}) == {"alice": ("PeerRefused", "bob"), "bob": ("PeerRefused", "alice")}
    with (
        closing(hasty.open("again", "bob")) as bob,
        pytest.raises(WorkerError, match="it has expired"),
    ):
        bob.join()


def test_a_wrong_certificate_is_refused_with_a_reason_at_both(hasty: Hubs, tmp_path: Path) -> None:
    hasty.identities["bob"], _ = make_certificate(
        "bob", tmp_path / "another"
    )  # alice still has the old one
    hasty.stop("bob")
    hasty.start("bob")
    assert ends(hasty, {}, {}) == {"alice": ("PeerRefused", "bob"), "bob": ("PeerRefused", "alice")}
    with (
        closing(hasty.open("again", "bob")) as bob,
        pytest.raises(WorkerError, match="not in its address"),
    ):
        bob.join()


def test_a_coordinator_with_a_wrong_certificate_is_refused_too(hasty: Hubs, tmp_path: Path) -> None:
    hasty.identities["alice"], _ = make_certificate("alice", tmp_path / "another")
    hasty.stop("alice")
    hasty.start("alice")
    assert ends(hasty, {}, {}) == {"alice": ("PeerRefused", "bob"), "bob": ("PeerRefused", "alice")}


def test_the_certificate_of_another_party_is_refused_at_both(tmp_path: Path) -> None:
    with Hubs(tmp_path, "alice", "bob", "carol", join_seconds=5.0) as hubs:
        hubs.identities["bob"] = hubs.identities["carol"]
        hubs.stop("bob")
        hubs.start("bob")
        two = {"parties": ("alice", "bob")}
        assert ends(hubs, two, two) == {
            "alice": ("PeerRefused", "bob"),
            "bob": ("PeerRefused", None),
        }


def test_what_was_no_join_does_not_stand_for_one_that_never_comes(hasty: Hubs) -> None:
    with as_bob(hasty) as late:
        late.say({"kind": "channel", "execution": "an older one", "name": "fed"})
        assert late.hear()["error"]["code"] == "PeerRefused"
    with closing(hasty.open("e", "alice")) as alice, pytest.raises(PeerUnreachable):
        alice.join()


def test_a_peer_that_has_no_part_in_an_execution_cannot_end_it(tmp_path: Path) -> None:
    with Hubs(tmp_path, "alice", "bob", "carol") as hubs:
        carol = hubs.identities["carol"]
        two = {"parties": ("alice", "bob")}
        with closing(hubs.open("e", "alice", **two)) as alice:
            join = Agenda("e", ("alice", "carol"), ("carol",), "another", "protocol").join()
            with Stranger(hubs, carol.certificate, carol.key) as stranger:
                stranger.say(join)
                assert stranger.hear()["error"]["code"] == "PeerRefused"
            with closing(hubs.open("e", "bob", **two)) as bob:
                alice.join()
                bob.join()


@pytest.mark.parametrize(
    "header",
    [
        {"kind": "channel", "execution": "e", "session": None, "to": "alice", "line": "fed"},
        {"kind": "channel", "execution": "e", "session": "guessed", "to": "alice", "line": "fed"},
        {"kind": "channel", "execution": "other", "session": "", "to": "alice", "line": "fed"},
        {"kind": "channel", "execution": "e"},
        {"kind": "shell"},
    ],
)
def test_a_channel_that_belongs_to_no_execution_is_refused(
    header: dict[str, Any], hubs: Hubs
) -> None:
    with closing(hubs.open("e", "alice")), as_bob(hubs) as stranger:
        stranger.say(header)
        assert stranger.hear()["error"]["code"] == "PeerRefused"


def test_a_channel_leads_only_to_the_two_ports_of_the_own_job(hubs: Hubs) -> None:
    with closing(hubs.open("e", "alice")) as alice, as_bob(hubs) as stranger:
        for change in ({"line": "ssh"}, {"to": "bob"}, {"to": "root"}):
            header = {
                "kind": "channel",
                "execution": "e",
                "session": alice.end.session,
                "to": "alice",
            }
            with as_bob(hubs) as stranger:
                stranger.say(header | {"line": "fed"} | change)
                assert stranger.hear()["error"]["code"] == "PeerRefused"


@pytest.mark.parametrize(
    "garbage",
    [
        {"kind": "settle", "party": "bob"},
        {"kind": "offer", "party": "alice", "facts": {}},
        {"kind": "offer", "party": "bob", "facts": 5},
        {"kind": "fail", "error": "no object"},
        {"kind": "fail", "error": {"message": 7}},
        {"kind": "succeeded"},
        {"kind": 3},
        [],
        b"\xff\x00",
        b"[" * 100_000,
    ],
    ids=repr,
)
def test_a_peer_that_talks_nonsense_ends_the_execution_with_its_name(
    garbage: Any, hubs: Hubs
) -> None:
    with closing(hubs.open("e", "alice")) as alice, as_bob(hubs) as stranger:
        stranger.say(Agenda("e", ("alice", "bob"), ("bob",), "digest", "protocol").join())
        assert stranger.hear()["kind"] == "welcome"
        stranger.say(garbage)
        assert comes_true(lambda: alice.links["alice"].failed is not None)
        failed = alice.links["alice"].failed
        assert failed is not None and (failed.code, failed.party) == ("PeerRefused", "bob")


def test_a_peer_that_announces_too_long_a_message_is_cut_off(hubs: Hubs) -> None:
    with as_bob(hubs) as stranger:
        stranger.connection.sendall(struct.pack("!I", 1 << 31))
        assert stranger.connection.recv(1) == b""


def fuzz(port: int, seconds: float, dice: random.Random) -> None:
    """Throw bytes at a port in every way that needs no certificate, more than 20 times."""
    thrown, deadline = 0, time.monotonic() + seconds
    hello = bytes.fromhex("16030100a5010000a10303")
    while thrown <= 20 or time.monotonic() < deadline:
        with socket.socket() as thrower:
            thrower.settimeout(0.2)
            thrown += 1
            try:
                thrower.connect(("127.0.0.1", port))
                start = dice.choice([b"", hello, b"GET / HTTP/1.1\r\n\r\n", b"\x00\x00\x00\x05"])
                thrower.sendall(start + dice.randbytes(dice.choice([0, 1, 100, 70_000])))
                if dice.random() < 0.3:
                    thrower.recv(100)
            except OSError:
                continue


@pytest.mark.parametrize(
    "seconds", [2.0, pytest.param(300.0, marks=[pytest.mark.faults, pytest.mark.timeout(400)])]
)
def test_bytes_thrown_at_the_port_neither_stop_nor_grow_the_node(
    seconds: float, hubs: Hubs
) -> None:
    process, port = psutil.Process(os.getpid()), hubs.ports["alice"]
    fuzz(port, 1.0, random.Random(0))  # what grows once only
    before = process.memory_info().rss, process.num_fds(), process.num_threads()
    idle = [socket.create_connection(("127.0.0.1", port)) for _ in range(20)]
    fuzz(port, seconds, random.Random(1))
    for connection in idle:
        connection.close()
    assert comes_true(lambda: process.num_fds() <= before[1] + 2)
    assert process.memory_info().rss - before[0] < 30 << 20
    assert process.num_threads() <= before[2] + 16
    with closing(hubs.open("e", "alice")) as alice, closing(hubs.open("e", "bob")) as bob:
        alice.join()
        bob.join()


def test_idle_strangers_do_not_keep_a_peer_out_for_long(
    hubs: Hubs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("secretflow_task.node.link.peer.acceptor._HANDSHAKE_SECONDS", 2.0)
    idle = [socket.create_connection(("127.0.0.1", hubs.ports["alice"])) for _ in range(100)]
    with closing(hubs.open("e", "alice")) as alice, closing(hubs.open("e", "bob")) as bob:
        alice.join()
        bob.join()
    for connection in idle:
        connection.close()


def test_strangers_who_come_again_and_again_do_not_keep_a_peer_out(hubs: Hubs) -> None:
    ended = threading.Event()

    def knock() -> None:
        idle: list[socket.socket] = []
        while not ended.wait(0.002):
            idle.append(socket.create_connection(("127.0.0.1", hubs.ports["alice"])))
            if len(idle) > 300:
                idle.pop(0).close()
        for connection in idle:
            connection.close()

    knocking = threading.Thread(target=knock)
    knocking.start()
    try:
        time.sleep(1.0)
        with closing(hubs.open("e", "alice")) as alice, closing(hubs.open("e", "bob")) as bob:
            alice.join()
            bob.join()
    finally:
        ended.set()
        knocking.join()


@pytest.fixture
def three(tmp_path: Path) -> Iterator[Hubs]:
    """Nodes of alice and bob, and of carol, who has no part in what they do."""
    with Hubs(tmp_path, "alice", "bob", "carol") as running:
        yield running


def as_carol(hubs: Hubs, to: str) -> Stranger:
    """Somebody who has carol's key."""
    return Stranger(hubs, hubs.identities["carol"].certificate, hubs.identities["carol"].key, to)


@pytest.mark.parametrize("speaks_for", [[], ["carol"], ["carol", "carol"], ["bob"], ["x" * 40_000]])
def test_a_peer_without_a_part_in_it_ends_nothing(speaks_for: list[str], three: Hubs) -> None:
    two: dict[str, Any] = {"parties": ("alice", "bob")}
    with (
        closing(three.open("e", "alice", **two)) as alice,
        closing(three.open("e", "bob", **two)) as bob,
    ):
        refuses = {"code": "PathNotAllowed", "message": "no", "party": "alice"}
        join = Agenda("e", ("alice", "bob"), ("bob",), "digest", "protocol").join()
        with as_carol(three, "alice") as stranger:
            stranger.say(join | {"from": speaks_for, "refuses": refuses})
            answer = stranger.hear()
        assert answer["error"]["code"] == "PeerRefused" and len(answer["error"]["message"]) < 200
        alice.join()
        bob.join()


@pytest.mark.parametrize("session", ["", None])
def test_no_channel_opens_before_its_execution_has_a_name(session: str | None, three: Hubs) -> None:
    with closing(three.open("e", "bob", parties=("alice", "bob", "carol"))):  # nobody coordinates
        with as_carol(three, "bob") as stranger:
            header = {"kind": "channel", "execution": "e", "to": "bob", "line": "fed"}
            stranger.say(header | {"session": session})
            assert stranger.hear()["error"]["code"] == "PeerRefused"
