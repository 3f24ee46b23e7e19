"""`sfworker doctor --peer` says whether two nodes reach each other, and what to do if not."""

from __future__ import annotations

import re
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Iterator

import pytest

from secretflow_task.cli.doctor import examine
from secretflow_task.cli.doctor_peer import examine_peer
from secretflow_task.config.settings import Settings
from secretflow_task.contract.errors import BadSetting
from secretflow_task.node.link.peer import probe
from secretflow_task.node.link.peer.certificates import make_certificate
from tests.bench.peers import Hubs


@pytest.fixture
def hubs(tmp_path: Path) -> Iterator[Hubs]:
    """Nodes of alice and bob."""
    with Hubs(tmp_path, "alice", "bob") as running:
        yield running


@pytest.fixture(autouse=True)
def _wide_console(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "250")


def settings(hubs: Hubs, party: str, **changes: Any) -> Settings:
    """What the command of a party is told."""
    identity = hubs.identities[party]
    values = {
        "peers_file": hubs.write_book(party),
        "peer_certificate": identity.certificate,
        "peer_key": identity.key,
    }
    return Settings(**values | changes)


def test_a_good_way_is_measured_both_ways(hubs: Hubs, capsys: pytest.CaptureFixture[str]) -> None:
    assert examine_peer(settings(hubs, "alice"), "bob")
    told = capsys.readouterr().out
    for row in (
        "own certificate",
        "way to bob",
        "way back from bob",
        "versions",
        "clocks",
        "round trip",
    ):
        assert re.search(rf"{row} .*ok", told), row
    assert re.search(r"bandwidth .*\d+ Mbit/s there, \d+ Mbit/s back", told)


def test_a_node_that_does_not_run_is_told_with_its_port(
    hubs: Hubs, capsys: pytest.CaptureFixture[str]
) -> None:
    hubs.stop("bob")
    assert not examine_peer(settings(hubs, "alice"), "bob")
    assert f"port {hubs.ports['bob']} open in both firewalls?" in capsys.readouterr().out


def test_a_way_that_is_open_in_one_direction_only_is_told(
    hubs: Hubs, capsys: pytest.CaptureFixture[str]
) -> None:
    hubs.stop("alice")
    assert not examine_peer(settings(hubs, "alice"), "bob")
    told = capsys.readouterr().out
    assert re.search("way to bob .*ok", told) and re.search("way back from bob .*wrong", told)


@pytest.mark.parametrize("days", [1, 825])
def test_a_certificate_that_the_peer_does_not_have_is_told(
    days: int, hubs: Hubs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    identity, _ = make_certificate("alice", tmp_path / "another", days)
    own = {"peer_certificate": identity.certificate, "peer_key": identity.key}
    assert not examine_peer(settings(hubs, "alice", **own), "bob")
    told = capsys.readouterr().out
    assert "not in its address book" in told and "Compare fingerprints with bob" in told
    assert bool(re.search("own certificate .*wrong", told)) is (days == 1)


def test_other_versions_and_clocks_are_told(
    hubs: Hubs, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe, "versions", lambda: {"worker": "0.0.1", "secretflow": "none"})
    jumps = iter(range(1000, 10_000, 7)).__next__
    monkeypatch.setattr(probe, "time", SimpleNamespace(time=jumps, monotonic=time.monotonic))
    assert not examine_peer(settings(hubs, "alice"), "bob")
    told = capsys.readouterr().out
    assert re.search("versions .*wrong.*Install the same", told) and re.search(
        "clocks .*wrong", told
    )


def test_doctor_reads_the_address_book_and_the_own_key(
    hubs: Hubs, capsys: pytest.CaptureFixture[str]
) -> None:
    examine(settings(hubs, "alice", peer_listen="0.0.0.0:9443"))
    assert re.search("peer link .*ok.*0.0.0.0:9443, to bob", capsys.readouterr().out)
    wrong = {"peer_key": hubs.identities["bob"].key, "peer_listen": "0.0.0.0:9443"}
    assert not examine(settings(hubs, "alice", **wrong))
    assert re.search("peer link .*wrong.*do not fit together", capsys.readouterr().out)


def test_a_party_that_is_not_in_the_book_is_refused(hubs: Hubs) -> None:
    with pytest.raises(BadSetting, match="it has bob"):
        examine_peer(settings(hubs, "alice"), "bod")
    with pytest.raises(BadSetting, match="SFWORKER_PEERS_FILE"):
        examine_peer(Settings(), "bob")
