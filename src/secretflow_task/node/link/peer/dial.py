"""Connections to other nodes, and why one could not be had."""

from __future__ import annotations

import asyncio
import socket
import ssl
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timezone
from functools import partial
from typing import Callable

from secretflow_task.config.settings import Settings
from secretflow_task.contract.errors import BadSetting, PeerRefused, PeerUnreachable, WorkerError
from secretflow_task.node.link.peer.address_book import AddressBook
from secretflow_task.node.link.peer.certificates import Identity, expiry, tls_context
from secretflow_task.node.link.peer.wire import Garbled, Message, Wire, WireClosed

_CONNECT_SECONDS = 10.0
_LOOKUPS = ThreadPoolExecutor(16, "peer-names")  # apart from the threads that hear the peers


class Dialler:
    """Opens connections to the peers of an address book."""

    def __init__(self, book: AddressBook, identity: Identity) -> None:
        self.book = book
        self._lookups: dict[str, asyncio.Task[list[str]]] = {}
        try:
            self.expiry = expiry(identity)
            self.accepting = tls_context(identity, book.trusted(), server=True)
            self._context = tls_context(identity, book.trusted(), server=False)
        except (OSError, ValueError, ssl.SSLError):
            raise BadSetting(
                "SFWORKER_PEER_CERTIFICATE or SFWORKER_PEER_KEY cannot be read,"
                " or do not fit together."
            ) from None

    @staticmethod
    def of(settings: Settings) -> Dialler:
        """The one that the settings describe; raises `BadSetting`."""
        if not (settings.peers_file and settings.peer_certificate and settings.peer_key):
            raise BadSetting(
                "SFWORKER_PEERS_FILE, SFWORKER_PEER_CERTIFICATE and SFWORKER_PEER_KEY"
                " are needed for a peer.",
                hint="docs/ops_guide/peer_link.md has the steps;"
                " `sfworker certs` makes the certificate.",
            )
        identity = Identity(settings.peer_certificate, settings.peer_key)
        return Dialler(AddressBook.read(settings.peers_file), identity)

    def renew(self, other: Dialler) -> None:
        """Become like another: what runs goes on with the new address book and certificates."""
        self.book = other.book
        self.expiry = other.expiry
        self.accepting = other.accepting
        self._context = other._context

    async def dial(self, party: str) -> Wire:
        """Connect to the node of a party.

        Raises:
            PeerUnreachable: nobody answers there.
            PeerRefused: somebody else does.
        """
        try:
            wire = await asyncio.wait_for(self._connect(party), _CONNECT_SECONDS)
        except ssl.SSLCertVerificationError as error:
            raise PeerRefused(
                f"The certificate of the node at {party}'s address is refused:"
                f" {error.verify_message}.",
                party=party,
            ) from None
        except (OSError, asyncio.TimeoutError) as error:
            raise PeerUnreachable(
                f"The node of {party} cannot be reached ({type(error).__name__}).", party=party
            ) from None
        if party not in self.book.parties_of(wire.certificate()):
            await wire.close()
            raise PeerRefused(
                f"The node at {party}'s address is that of another party.", party=party
            )
        return wire

    async def _connect(self, party: str) -> Wire:
        addresses = await self._look_up(party)
        port = self.book.peers[party].port
        for address in addresses:
            try:
                _, wire = await asyncio.get_running_loop().create_connection(
                    Wire,
                    address,
                    port,
                    ssl=self._context,
                    ssl_handshake_timeout=_CONNECT_SECONDS,
                    server_hostname="",
                )
                return wire
            except ConnectionError:
                if address == addresses[-1]:
                    raise
        raise ConnectionError

    async def _look_up(self, party: str) -> list[str]:
        """The addresses of a party's host; one look-up at a time, so none holds up the others."""
        if party not in self._lookups:
            task = asyncio.get_running_loop().create_task(_resolved(self.book.peers[party].host))
            task.add_done_callback(lambda _task: self._lookups.pop(party))
            self._lookups[party] = task
        return await asyncio.shield(self._lookups[party])

    async def request(self, party: str, message: Callable[[], Message]) -> tuple[Wire, Message]:
        """Connect, send a first message, made then, and wait for the answer; raises as `dial` does.

        Raises:
            WireClosed: the peer closed the connection without a word.
            Garbled: the answer is not a message.
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
        """Why a peer closes a connection without a word: TLS does not tell us more."""
        reason = "it is not in its address book"
        if self.expiry < datetime.now(timezone.utc):
            reason = "it has expired"
        message = f"The node of {party} refuses the certificate of this node: {reason}."
        return PeerRefused(message, party=party)


async def _resolved(host: str) -> list[str]:
    ask = partial(socket.getaddrinfo, host, None, type=socket.SOCK_STREAM)
    found = await asyncio.get_running_loop().run_in_executor(_LOOKUPS, ask)
    return [str(address[0]) for *_, address in found]
