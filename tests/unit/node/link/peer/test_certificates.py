"""Nodes know each other by pinned certificates; any other one, or none, is refused."""

from __future__ import annotations

import datetime
import ssl
import stat
from pathlib import Path

import pytest

from secretflow_task.node.link.peer.certificates import (
    Identity,
    certificates_in,
    expiry,
    fingerprint,
    make_certificate,
    tls_context,
)


def made(folder: Path, party: str, days: int = 30) -> Identity:
    """A party's identity."""
    return make_certificate(party, folder / party, days)[0]


def test_a_key_is_secret_and_a_certificate_is_not(tmp_path: Path) -> None:
    identity = made(tmp_path, "alice")
    modes = [stat.S_IMODE(path.stat().st_mode) for path in (identity.key, identity.certificate)]
    assert modes == [0o600, 0o644]


def test_what_the_peers_may_know_is_never_replaced(tmp_path: Path) -> None:
    identity = made(tmp_path, "alice")
    before = identity.key.read_bytes(), identity.certificate.read_bytes()
    with pytest.raises(FileExistsError):
        made(tmp_path, "alice")
    assert before == (identity.key.read_bytes(), identity.certificate.read_bytes())


def test_the_fingerprint_is_that_of_the_file(tmp_path: Path) -> None:
    identity, digest = make_certificate("alice", tmp_path)
    (certificate,) = certificates_in(identity.certificate.read_text())
    assert fingerprint(certificate) == digest and len(bytes.fromhex(digest)) == 32


def test_a_certificate_is_valid_for_so_many_days(tmp_path: Path) -> None:
    before = datetime.datetime.now(datetime.timezone.utc)
    left = expiry(made(tmp_path, "alice", days=30)) - before
    assert datetime.timedelta(days=29, hours=23) < left < datetime.timedelta(days=30, hours=1)


def test_a_file_may_hold_several_certificates_and_other_text(tmp_path: Path) -> None:
    texts = [made(tmp_path, party).certificate.read_text() for party in ("alice", "bob")]
    assert len(certificates_in("alice\n" + texts[0] + "bob\n" + texts[1])) == 2
    assert certificates_in("no certificate") == []


def shake_hands(server: ssl.SSLContext, client: ssl.SSLContext) -> None:
    """A handshake in memory; raises `ssl.SSLError` where it is refused."""
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        client.wrap_bio(back, there, server_side=False),
        server.wrap_bio(there, back, server_side=True),
    ]
    waiting = list(ends)
    for _ in range(10):
        for end in list(waiting):
            try:
                end.do_handshake()
                waiting.remove(end)
            except ssl.SSLWantReadError:
                pass
    assert not waiting


def pem(*identities: Identity) -> str:
    """Their certificates."""
    return "".join(identity.certificate.read_text() for identity in identities)


def test_two_who_know_each_other_shake_hands(tmp_path: Path) -> None:
    alice, bob = made(tmp_path, "alice"), made(tmp_path, "bob")
    server = tls_context(alice, pem(bob), server=True)
    shake_hands(server, tls_context(bob, pem(alice), server=False))


def test_a_foreign_certificate_is_refused_though_it_has_the_name(tmp_path: Path) -> None:
    alice, bob = made(tmp_path, "alice"), made(tmp_path, "bob")
    foreign = made(tmp_path / "another", "bob")
    server = tls_context(alice, pem(bob), server=True)
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(server, tls_context(foreign, pem(alice), server=False))
    client = tls_context(bob, pem(foreign), server=False)
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(server, client)


def test_who_shows_no_certificate_is_refused(tmp_path: Path) -> None:
    alice, bob = made(tmp_path, "alice"), made(tmp_path, "bob")
    server = tls_context(alice, pem(bob), server=True)
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.verify_mode = ssl.CERT_NONE
    with pytest.raises(ssl.SSLError, match="did not return a certificate"):
        shake_hands(server, client)


def test_an_expired_certificate_is_refused(tmp_path: Path) -> None:
    alice, bob = made(tmp_path, "alice"), made(tmp_path, "bob", days=0)
    server = tls_context(alice, pem(bob), server=True)
    with pytest.raises(ssl.SSLCertVerificationError, match="expired"):
        shake_hands(server, tls_context(bob, pem(alice), server=False))


def test_an_older_tls_is_refused(tmp_path: Path) -> None:
    alice, bob = made(tmp_path, "alice"), made(tmp_path, "bob")
    client = tls_context(bob, pem(alice), server=False)
    client.minimum_version = client.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(ssl.SSLError):
        shake_hands(tls_context(alice, pem(bob), server=True), client)


def test_a_key_that_does_not_fit_is_an_error(tmp_path: Path) -> None:
    alice, bob = made(tmp_path, "alice"), made(tmp_path, "bob")
    with pytest.raises(ssl.SSLError):
        tls_context(Identity(alice.certificate, bob.key), pem(bob), server=True)
