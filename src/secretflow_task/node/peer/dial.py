"""Connections to other nodes, and why one could not be had."""

from __future__ import annotations

import asyncio
import ssl
from datetime import datetime, timezone
from typing import Callable

from secretflow_task.config.settings import Settings
from secretflow_task.errors import BadSetting, PeerRefused, PeerUnreachable, WorkerError
from secretflow_task.node.peer.address_book import AddressBook
from secretflow_task.node.peer.certificates import Identity, expiry, tls_context
from secretflow_task.node.peer.wire import Garbled, Message, Wire, WireClosed

_CONNECT_SECONDS = 10.0


class Dialler:
    """Opens connections to the peers of an address book."""

    def __init__(self, book: AddressBook, identity: Identity) -> None:
        self.book = book
        self._identity = identity
        try:
            self.accepting = tls_context(identity, book.trusted(), server=True)
            self._context = tls_context(identity, book.trusted(), server=False)
        except (OSError, ssl.SSLError):
            raise BadSetting(
                "SFWORKER_PEER_CERTIFICATE or SFWORKER_PEER_KEY cannot be read, or do not fit together."
            ) from None

    @staticmethod
    def of(settings: Settings) -> Dialler:
        """The one that the settings describe; raises `BadSetting`."""
        if not (settings.peers_file and settings.peer_certificate and settings.peer_key):
            raise BadSetting(
                "SFWORKER_PEERS_FILE, SFWORKER_PEER_CERTIFICATE and SFWORKER_PEER_KEY are needed for a peer.",
                hint="docs/ops_guide/peer_link.md has the steps; `sfworker certs` makes the certificate.",
            )
        identity = Identity(settings.peer_certificate, settings.peer_key)
        return Dialler(AddressBook.read(settings.peers_file), identity)

    def expiry(self) -> datetime:
        """Until when the own certificate is valid."""
        return expiry(self._identity)

    async def dial(self, party: str) -> Wire:
        """Connect to the node of a party.

        Raises:
            PeerUnreachable: nobody answers there.
            PeerRefused: somebody else does.
        """
        peer = self.book.peers[party]
        connecting = asyncio.get_running_loop().create_connection(
            Wire, peer.host, peer.port, ssl=self._context, ssl_handshake_timeout=_CONNECT_SECONDS
        )
        try:
            _, wire = await asyncio.wait_for(connecting, _CONNECT_SECONDS)
        except ssl.SSLCertVerificationError as error:
            message = f"The certificate of the node at {party}'s address is refused: {error.verify_message}."
            raise PeerRefused(message, party=party) from None
        except (OSError, asyncio.TimeoutError) as error:
            raise PeerUnreachable(
                f"The node of {party} cannot be reached ({type(error).__name__}).", party=party
            ) from None
        if party not in self.book.parties_of(wire.certificate()):
            await wire.close()
            raise PeerRefused(f"The node at {party}'s address is that of another party.", party=party)
        return wire

    async def request(self, party: str, message: Callable[[], Message]) -> tuple[Wire, Message]:
        """Connect, send a first message, made then, and wait for the answer; raises as `dial` does.

        Raises:
            WireClosed: the peer closed the connection without a word.
            Garbled: the answer is none.
        """
        wire = await self.dial(party)
        try:
            wire.send(message())
            return wire, await asyncio.wait_for(wire.receive(), _CONNECT_SECONDS)
        except asyncio.TimeoutError:
            wire.transport.abort()
            raise PeerUnreachable(f"The node of {party} does not answer.", party=party) from None
        except (WireClosed, Garbled):
            wire.transport.abort()
            raise

    def hung_up(self, party: str) -> WorkerError:
        """What it means that a peer closed a connection without a word: TLS tells us no more of it."""
        expired = self.expiry() < datetime.now(timezone.utc)
        reason = "it has expired" if expired else "it is not in its address book"
        message = f"The node of {party} refuses the certificate of this node: {reason}."
        return PeerRefused(message, party=party)
