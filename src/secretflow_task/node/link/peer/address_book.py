"""The address book: where the other parties' nodes are reached, and what certificates they show."""

from __future__ import annotations

import re
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Mapping

import yaml
from pydantic import Field, TypeAdapter, ValidationError, field_validator

from secretflow_task.contract.errors import BadSetting, InvalidTaskConfig
from secretflow_task.contract.task_config import PartyName, Strict, parse
from secretflow_task.node.link.peer.certificates import certificates_in, fingerprint

_HINT = "Each party of SFWORKER_PEERS_FILE has host, port, certificate and fingerprints."
_FINGERPRINT = re.compile("[0-9a-f]{64}")
_ROTATION = 2  # certificates of one party: the present one, and the next


class PeerEntry(Strict):
    """One party in the file."""

    host: str = Field(min_length=1, description="Name or address of the party's node.")
    port: int = Field(ge=1, le=65535, description="The node's port.")
    certificate: str = Field(
        min_length=1,
        description="PEM file with the party's certificate; two of them during a rotation.",
    )
    fingerprints: list[str] = Field(
        min_length=1,
        max_length=_ROTATION,
        description="SHA-256 of each certificate, as the party told it by another way"
        " than the file.",
    )

    @field_validator("fingerprints")
    @classmethod
    def _plain(cls, value: list[str]) -> list[str]:
        plain = [text.lower().removeprefix("sha256:").replace(":", "") for text in value]
        for text in plain:
            if not _FINGERPRINT.fullmatch(text):
                raise ValueError(
                    "a fingerprint has 64 hexadecimal digits, as `sfworker certs` prints it"
                )
        return plain


@dataclass(frozen=True)
class Peer:
    """A party at another node.

    Attributes:
        certificates: one or two, in DER.
    """

    party: str
    host: str
    port: int
    certificates: tuple[bytes, ...]


@dataclass(frozen=True)
class AddressBook:
    """All parties that this node has a link to."""

    peers: Mapping[str, Peer]

    @staticmethod
    def read(path: Path) -> AddressBook:
        """Read ``parties.yaml``, ``{party: {host, port, certificate, fingerprints}}``.

        Raises:
            BadSetting: the file, or a certificate that it names, cannot be used.
        """
        try:
            entries = _entries(yaml.safe_load(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:  # also a bad date
            raise BadSetting(
                f"The address book cannot be read: {type(error).__name__}.", hint=_HINT
            ) from None
        return AddressBook(
            {party: _peer(party, entry, path.parent) for party, entry in entries.items()}
        )

    def parties_of(self, certificate: bytes | None) -> frozenset[str]:
        """The parties that a certificate, in DER, stands for."""
        return frozenset(
            party for party, peer in self.peers.items() if certificate in peer.certificates
        )

    def changes_since(self, old: AddressBook) -> dict[str, list[str]]:
        """The parties that were ``added``, ``removed`` and ``changed``."""
        both = self.peers.keys() & old.peers.keys()
        return {
            "added": sorted(self.peers.keys() - both),
            "removed": sorted(old.peers.keys() - both),
            "changed": sorted(party for party in both if self.peers[party] != old.peers[party]),
        }

    def trusted(self) -> str:
        """Every peer's certificates, in PEM: the only ones that a connection may show."""
        every = {der for peer in self.peers.values() for der in peer.certificates}
        return "".join(map(ssl.DER_cert_to_PEM_cert, sorted(every)))


def _entries(value: Any) -> dict[str, PeerEntry]:
    if value == {}:
        raise BadSetting("The address book names no party.", hint=_HINT)
    try:
        named = TypeAdapter(dict[Annotated[str, PartyName], Any]).validate_python(value)
        return {
            party: parse(PeerEntry, entry, f"The address book, {party}")
            for party, entry in named.items()
        }
    except ValidationError:
        raise BadSetting("The address book is not a mapping of party names.", hint=_HINT) from None
    except InvalidTaskConfig as error:
        raise BadSetting(error.message, hint=_HINT) from None


def _peer(party: str, entry: PeerEntry, folder: Path) -> Peer:
    try:
        found = certificates_in((folder / entry.certificate).read_text(encoding="ascii"))
    except (OSError, ValueError):
        raise BadSetting(
            f"The certificate file of {party} in the address book cannot be read."
        ) from None
    if not 1 <= len(found) <= _ROTATION:
        raise BadSetting(f"The certificate file of {party} must hold one or two certificates.")
    for digest in map(fingerprint, found):
        if digest not in entry.fingerprints:
            raise BadSetting(
                f"The certificate file of {party} has the fingerprint {digest},"
                " which is not listed.",
                hint=f"Ask {party} for its fingerprint by telephone;"
                " list it only if it is this one.",
            )
    return Peer(party, entry.host, entry.port, tuple(found))
