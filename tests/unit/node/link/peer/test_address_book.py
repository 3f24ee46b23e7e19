"""The address book names peers by their certificates, and says what is wrong with itself."""

from __future__ import annotations

import re
import stat
from pathlib import Path
from typing import Any

import pytest
import yaml

from secretflow_task.cli.certs import make
from secretflow_task.contract.errors import BadSetting
from secretflow_task.node.link.peer.address_book import AddressBook
from secretflow_task.node.link.peer.certificates import (
    certificates_in,
    fingerprint,
    make_certificate,
)


@pytest.fixture
def entry(tmp_path: Path) -> dict[str, Any]:
    """A good entry of bob, whose certificate lies beside the file."""
    identity, digest = make_certificate("bob", tmp_path / "bob")
    certificate = str(identity.certificate.relative_to(tmp_path))
    return {
        "host": "bob.example",
        "port": 9443,
        "certificate": certificate,
        "fingerprints": [digest],
    }


def book(folder: Path, content: Any) -> AddressBook:
    """The address book that holds ``content``."""
    path = folder / "parties.yaml"
    path.write_text(
        content if isinstance(content, str) else yaml.safe_dump(content), encoding="utf-8"
    )
    return AddressBook.read(path)


def test_a_peer_is_known_by_its_certificate(tmp_path: Path, entry: dict[str, Any]) -> None:
    found = book(tmp_path, {"bob": entry})
    peer = found.peers["bob"]
    assert (peer.party, peer.host, peer.port) == ("bob", "bob.example", 9443)
    assert found.parties_of(peer.certificates[0]) == {"bob"}
    _, other = make_certificate("bob", tmp_path / "another")
    stranger = certificates_in((tmp_path / "another/bob.crt").read_text())[0]
    assert fingerprint(stranger) == other and found.parties_of(stranger) == frozenset()
    assert found.parties_of(None) == frozenset()


def test_fingerprints_may_be_written_as_other_tools_write_them(
    tmp_path: Path, entry: dict[str, Any]
) -> None:
    digest = entry["fingerprints"][0]
    for text in (digest.upper(), "SHA256:" + digest, ":".join(re.findall("..", digest)).upper()):
        assert book(tmp_path, {"bob": entry | {"fingerprints": [text]}}).peers["bob"].certificates


def test_during_a_rotation_both_certificates_are_bobs(
    tmp_path: Path, entry: dict[str, Any]
) -> None:
    identity, new = make_certificate("bob", tmp_path / "new")
    both = (tmp_path / entry["certificate"]).read_text() + identity.certificate.read_text()
    (tmp_path / "both.crt").write_text(both)
    fingerprints = [*entry["fingerprints"], new]
    found = book(
        tmp_path, {"bob": entry | {"certificate": "both.crt", "fingerprints": fingerprints}}
    )
    assert [found.parties_of(der) for der in certificates_in(both)] == [{"bob"}, {"bob"}]
    assert len(certificates_in(found.trusted())) == 2


def test_one_node_may_stand_for_two_parties(tmp_path: Path, entry: dict[str, Any]) -> None:
    found = book(tmp_path, {"bob": entry, "carol": entry})
    assert found.parties_of(found.peers["carol"].certificates[0]) == {"bob", "carol"}
    assert len(certificates_in(found.trusted())) == 1


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"prot": 9443}, "unknown key 'prot', did you mean 'port'?"),
        ({"port": "9443"}, "port: input should be a valid integer"),
        ({"port": 0}, "port"),
        ({"host": ""}, "host"),
        ({"fingerprints": []}, "fingerprints"),
        ({"fingerprints": ["12ab"]}, "64 hexadecimal digits"),
        ({"fingerprints": ["0" * 64]}, "which is not listed"),
        ({"certificate": "nowhere.crt"}, "cannot be read"),
        ({"certificate": "parties.yaml"}, "one or two certificates"),
    ],
)
def test_a_wrong_entry_is_refused_and_named(
    change: dict[str, Any], told: str, tmp_path: Path, entry: dict[str, Any]
) -> None:
    with pytest.raises(BadSetting, match="bob") as raised:
        book(tmp_path, {"bob": entry | change})
    assert told in raised.value.message


@pytest.mark.parametrize("content", ["", "- bob", "bob: [", "b ob: {}", "bob: 5", "\x00"])
def test_what_is_no_address_book_is_refused(content: str, tmp_path: Path) -> None:
    with pytest.raises(BadSetting):
        book(tmp_path, content)


def test_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadSetting, match="FileNotFoundError"):
        AddressBook.read(tmp_path / "parties.yaml")


def test_certs_writes_a_secret_key_and_says_what_the_peers_pin(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make("alice", tmp_path / "certs", days=30)
    assert stat.S_IMODE((tmp_path / "certs/alice.key").stat().st_mode) == 0o600
    (certificate,) = certificates_in((tmp_path / "certs/alice.crt").read_text())
    assert fingerprint(certificate) in capsys.readouterr().out


def test_certs_never_replaces_what_peers_may_know(tmp_path: Path) -> None:
    make("alice", tmp_path, days=30)
    before = (tmp_path / "alice.key").read_bytes(), (tmp_path / "alice.crt").read_bytes()
    with pytest.raises(BadSetting, match="exists"):
        make("alice", tmp_path, days=30)
    assert before == ((tmp_path / "alice.key").read_bytes(), (tmp_path / "alice.crt").read_bytes())


def test_certs_takes_party_names_only(tmp_path: Path) -> None:
    with pytest.raises(BadSetting, match="cannot be a party"):
        make("../alice", tmp_path, days=30)
