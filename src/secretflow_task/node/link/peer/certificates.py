"""Certificates of nodes: made without an authority, known to the peers by their fingerprints."""

from __future__ import annotations

import datetime
import hashlib
import os
import re
import ssl
from dataclasses import dataclass
from pathlib import Path

_CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL)
_CLOCKS = datetime.timedelta(minutes=5)  # a peer's clock may be a little behind


@dataclass(frozen=True)
class Identity:
    """The files that a node shows itself by."""

    certificate: Path
    key: Path


def make_certificate(party: str, folder: Path, days: int = 825) -> tuple[Identity, str]:
    """Write a new key and a self-signed certificate of a party; returns them and the fingerprint.

    Raises:
        FileExistsError: there is one already, which peers may know.
    """
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, party)])
    now = datetime.datetime.now(datetime.timezone.utc)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _CLOCKS)
        .not_valid_after(now + datetime.timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    encoding = serialization.Encoding
    private = key.private_bytes(
        encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    identity = Identity(folder / f"{party}.crt", folder / f"{party}.key")
    _write_new(identity.key, private, 0o600)
    _write_new(identity.certificate, certificate.public_bytes(encoding.PEM), 0o644)
    return identity, fingerprint(certificate.public_bytes(encoding.DER))


def _write_new(path: Path, content: bytes, mode: int) -> None:
    handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode)
    with open(handle, "wb") as file:
        file.write(content)


def expiry(identity: Identity) -> datetime.datetime:
    """Until when a certificate is valid."""
    from cryptography import x509

    return x509.load_pem_x509_certificate(identity.certificate.read_bytes()).not_valid_after_utc


def certificates_in(text: str) -> list[bytes]:
    """The certificates of a PEM file, in DER; raises `ValueError` for one that is broken."""
    return [ssl.PEM_cert_to_DER_cert(found) for found in _CERTIFICATE.findall(text)]


def fingerprint(certificate: bytes) -> str:
    """SHA-256 of a certificate in DER, as `sfworker certs` prints it."""
    return hashlib.sha256(certificate).hexdigest()


def tls_context(identity: Identity, trusted: str, *, server: bool) -> ssl.SSLContext:
    """TLS 1.3 in which both sides must show a certificate that is pinned and in date.

    Raises:
        OSError, ssl.SSLError: the identity's files cannot be used.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False  # the certificate itself is pinned, whatever host shows it
    context.verify_mode = ssl.CERT_REQUIRED
    # A pinned certificate counts without the authority that signed it.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.load_cert_chain(identity.certificate, identity.key)
    context.load_verify_locations(cadata=trusted)
    if server:
        context.num_tickets = 0  # every connection shows its certificate
    return context
