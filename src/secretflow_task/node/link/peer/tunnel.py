"""SecretFlow's connections inside TLS: bytes between a loopback connection and the wire to a peer.

On the wire each piece has its length in front; a length of 0 is the end of what one side sends,
while the other may go on. A connection that breaks without it breaks at the other node too: what
was cut off must not look like a whole message. A side that cannot take more bytes makes the other
wait.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import Callable

from secretflow_task.node.link.peer.wire import LENGTH, Wire

_HIGH_WATER_BYTES = 1024 * 1024
_RESET = struct.pack("ii", 1, 0)


class LocalSide(asyncio.Protocol):
    """The loopback connection; the first piece waits for its tunnel, the rest is not read."""

    def __init__(self, accepted: Callable[[LocalSide], None] | None = None) -> None:
        self._accepted = accepted
        self.transport: asyncio.Transport
        self.tunnel: Tunnel | None = None
        self.early: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by asyncio."""
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.set_write_buffer_limits(_HIGH_WATER_BYTES)
        if self._accepted:
            self._accepted(self)

    def data_received(self, data: bytes) -> None:
        """Called by asyncio."""
        if self.tunnel:
            self.tunnel.send(data)
        else:
            self.early.append(data)
            # Not sooner: asyncio starts to read after `connection_made`.
            self.transport.pause_reading()

    def eof_received(self) -> bool:
        """Called by asyncio; keeps the connection for what the peer still sends."""
        if self.tunnel:
            self.tunnel.send(b"")
        else:
            self.early.append(b"")
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by asyncio."""
        if self.tunnel:
            self.tunnel.local_lost()

    def reset(self) -> None:
        """End the connection so that the job cannot take it for a proper end."""
        if not self.transport.is_closing():
            connection = self.transport.get_extra_info("socket")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self.transport.abort()

    def pause_writing(self) -> None:
        """Called by asyncio."""
        if self.tunnel:
            self.tunnel.wire.pause()

    def resume_writing(self) -> None:
        """Called by asyncio."""
        if self.tunnel:
            self.tunnel.wire.resume()


class Tunnel(asyncio.Protocol):
    """Joins a loopback connection and a wire whose header has been sent or read."""

    def __init__(self, local: LocalSide, wire: Wire) -> None:
        self._local = local
        self.wire = wire
        self._head = bytearray()
        self._left = 0
        self._sent_end = False
        self._got_end = False

    def start(self) -> None:
        """Let the bytes flow, those first that have come already."""
        self._local.tunnel = self
        self.wire.take_over(self)
        for data in self._local.early:
            self.send(data)
        self.wire.resume()
        if not self._local.transport.is_closing():
            self._local.transport.resume_reading()

    def send(self, data: bytes) -> None:
        """Send a piece to the peer's node; an empty one is the end."""
        self.wire.transport.write(LENGTH.pack(len(data)) + data)
        self._sent_end |= not data
        self._close_when_both_ended()

    def data_received(self, data: bytes) -> None:
        """Cut what comes from the peer's node, without copying it."""
        view = memoryview(data)
        while view:
            if self._left:
                piece = view[: self._left]
                self._local.transport.write(piece)
                self._left -= len(piece)
            else:
                piece = view[: LENGTH.size - len(self._head)]
                self._head += piece
                self._begin_piece()
            view = view[len(piece) :]

    def _begin_piece(self) -> None:
        if len(self._head) < LENGTH.size:
            return
        (self._left,) = LENGTH.unpack(self._head)
        self._head.clear()
        if not self._left and not self._got_end:
            self._got_end = True
            if not self._local.transport.is_closing():
                self._local.transport.write_eof()
            self._close_when_both_ended()

    def _close_when_both_ended(self) -> None:
        if self._sent_end and self._got_end:
            self._local.transport.close()
            self.wire.transport.close()

    def pause_writing(self) -> None:
        """The wire takes no more."""
        if not self._local.transport.is_closing():
            self._local.transport.pause_reading()

    def resume_writing(self) -> None:
        """The wire takes more."""
        if not self._local.transport.is_closing():
            self._local.transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        """The wire has ended."""
        if not (self._sent_end and self._got_end):
            self._local.reset()

    def local_lost(self) -> None:
        """The loopback connection has ended."""
        if not (self._sent_end and self._got_end):
            self.wire.transport.abort()

    def abort(self) -> None:
        """End both at once."""
        self._local.reset()
        self.wire.transport.abort()
