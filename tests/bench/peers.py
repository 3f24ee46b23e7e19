"""Nodes' hubs on the loopback interface, with certificates and address books; and strangers."""

from __future__ import annotations

import json
import socket
import ssl
import struct
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from secretflow_task.config.settings import Settings
from secretflow_task.node.link.peer.agenda import Agenda
from secretflow_task.node.link.peer.certificates import Identity, make_certificate
from secretflow_task.node.link.peer.hub import PeerHub
from secretflow_task.node.link.peer.settlement import PeerSettlement
from secretflow_task.node.ports import Ports, leased_ports
from tests.bench.waiting import PATIENCE_SECONDS

PORTS = range(26000, 28000)


class Hubs:
    """One hub per party; a context manager.

    Attributes:
        outcomes: what each party's store answers about executions that do not run.
        decided: which executions each has written down as successes.
    """

    def __init__(self, root: Path, *parties: str, **settings: Any) -> None:
        self.root = root
        self.identities: dict[str, Identity] = {}
        self.fingerprints: dict[str, str] = {}
        for party in parties:
            self.identities[party], self.fingerprints[party] = make_certificate(party, root / party)
        self.settings = {
            "join_seconds": PATIENCE_SECONDS,
            "heartbeat_seconds": 0.1,
            "peer_lost_seconds": 10 * PATIENCE_SECONDS,
        } | settings
        self.hubs: dict[str, PeerHub] = {}
        self.outcomes: dict[tuple[str, str], dict[str, Any]] = {}
        self.decided: list[tuple[str, str]] = []
        self._stack = ExitStack()

    def __enter__(self) -> Hubs:
        parties = list(self.identities)
        ports = self._stack.enter_context(leased_ports(len(parties), PORTS))
        self.ports = dict(zip(parties, ports))
        for party in parties:
            self.start(party)
        return self

    def __exit__(self, *exc: object) -> None:
        for party in list(self.hubs):
            self.stop(party)
        self._stack.__exit__(None, None, None)

    def start(self, party: str) -> None:
        """Start the hub of a party."""
        self.hubs[party] = self._hub(party).__enter__()

    def stop(self, party: str) -> None:
        """End it."""
        self.hubs.pop(party).__exit__()

    def _hub(self, party: str) -> PeerHub:
        identity = self.identities[party]
        settings = Settings(
            parties=(party,),
            peer_listen=f"127.0.0.1:{self.ports[party]}",
            peers_file=self.write_book(party),
            peer_certificate=identity.certificate,
            peer_key=identity.key,
            **self.settings,
        )
        unknown = {"kind": "outcome", "status": "UNKNOWN"}
        return PeerHub(
            settings,
            lambda execution_id: self.decided.append((party, execution_id)),
            lambda execution_id, askers: self.outcomes.get((party, execution_id), unknown),
        )

    def write_book(self, party: str, **changes: Any) -> Path:
        """The address book of a party, with the entries of some replaced."""
        path = self.root / party / "parties.yaml"
        entries = {
            other: changes.get(other)
            or f"{{host: 127.0.0.1, port: {self.ports[other]}, certificate: {identity.certificate},"
            f" fingerprints: [{self.fingerprints[other]}]}}"
            for other, identity in self.identities.items()
            if other != party
        }
        text = "".join(f"{other}: {entry}\n" for other, entry in entries.items())
        path.write_text(text, encoding="utf-8")
        return path

    def open(self, execution_id: str, party: str, **changes: Any) -> PeerSettlement:
        """Let a party take part in an execution of all of them."""
        fields = {
            "parties": tuple(sorted(self.identities)),
            "digest": "digest",
            "protocol": "protocol",
        }
        agenda = Agenda(execution_id, hosted=(party,), **fields | changes)
        parties = agenda.parties
        # Leased for the whole test: two executions never get the same.
        ports = self._stack.enter_context(leased_ports(2 * len(parties), PORTS))
        both = [dict(zip(parties, some)) for some in (ports[: len(parties)], ports[len(parties) :])]
        return self.hubs[party].open(agenda, Ports(*both))


class Stranger:
    """Somebody with a TLS connection of its own to a node."""

    def __init__(
        self, hubs: Hubs, certificate: Path | None, key: Path | None, to: str = "alice"
    ) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        if certificate:
            context.load_cert_chain(certificate, key)
        plain = socket.create_connection(("127.0.0.1", hubs.ports[to]), timeout=PATIENCE_SECONDS)
        self.connection = context.wrap_socket(plain)

    def say(self, message: Any) -> None:
        """Send a message, or bytes as they are."""
        body = message if isinstance(message, bytes) else json.dumps(message).encode()
        self.connection.sendall(struct.pack("!I", len(body)) + body)

    def hear(self) -> dict[str, Any]:
        """The next message."""
        with self.connection.makefile("rb") as file:
            (length,) = struct.unpack("!I", file.read(4))
            return dict(json.loads(file.read(length)))

    def __enter__(self) -> Stranger:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.connection.close()


def as_bob(hubs: Hubs, to: str = "alice") -> Stranger:
    """Somebody who has bob's key."""
    return Stranger(hubs, hubs.identities["bob"].certificate, hubs.identities["bob"].key, to)
