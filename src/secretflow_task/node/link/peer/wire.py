"""One TLS connection between two nodes: frames of a length and so many bytes, both ways."""

from __future__ import annotations

import asyncio
import json
import ssl
import struct
from contextlib import suppress
from typing import Any, Mapping

Message = Mapping[str, Any]

LENGTH = struct.Struct("!I")
LONGEST_BYTES = 16 * 1024 * 1024  # facts about an input with very many columns
_HIGH_WATER_BYTES = 1024 * 1024


class WireClosed(Exception):
    """The connection has ended."""


class Garbled(Exception):
    """What came is not a message of ours."""


class Wire(asyncio.Protocol):
    """Messages, JSON objects, until `take_over` hands the connection to somebody else.

    Args:
        longest_bytes: of a message; a stranger's first message should be short.
    """

    def __init__(self, longest_bytes: int = LONGEST_BYTES) -> None:
        self.longest_bytes = longest_bytes
        self.transport: asyncio.Transport
        self._buffer = bytearray()
        self._news = asyncio.Event()
        self._ended = False
        self._problem: Exception | None = None
        self._writable = asyncio.Event()
        self._writable.set()
        self._heir: asyncio.Protocol | None = None
        self.closed = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by asyncio."""
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.set_write_buffer_limits(_HIGH_WATER_BYTES)

    def data_received(self, data: bytes) -> None:
        """Called by asyncio."""
        if self._heir:
            self._heir.data_received(data)
            return
        self._buffer += data
        self._news.set()
        if len(self._buffer) > self.longest_bytes + LENGTH.size:
            self.pause()

    def eof_received(self) -> bool:
        """Called by asyncio; TLS has no half-closed connections here."""
        self._end(None)
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by asyncio."""
        self._end(exc)
        self.closed.set()
        if self._heir:
            self._heir.connection_lost(exc)

    def pause_writing(self) -> None:
        """Called by asyncio."""
        self._writable.clear()
        if self._heir:
            self._heir.pause_writing()

    def resume_writing(self) -> None:
        """Called by asyncio."""
        self._writable.set()
        if self._heir:
            self._heir.resume_writing()

    def _end(self, problem: Exception | None) -> None:
        self._ended = True
        self._problem = self._problem or problem
        self._news.set()
        self._writable.set()

    async def receive(self) -> Message:
        """The next message.

        Raises:
            WireClosed: there is none; its cause is what broke the connection.
            Garbled: what came cannot be one; nothing that follows can be read either.
        """
        while True:
            frame = self._cut()
            if frame is not None:
                return _message(frame)
            if self._ended:
                raise WireClosed from self._problem
            self._news.clear()
            self.resume()
            await self._news.wait()

    def _cut(self) -> bytes | None:
        """The bytes of the next message, once they are all here."""
        if len(self._buffer) < LENGTH.size:
            return None
        end = LENGTH.size + int(LENGTH.unpack_from(self._buffer)[0])
        if end > self.longest_bytes + LENGTH.size:
            raise Garbled
        if len(self._buffer) < end:
            return None
        frame = bytes(self._buffer[LENGTH.size : end])
        del self._buffer[:end]
        return frame

    def send(self, message: Message) -> None:
        """Send a message; nothing happens when the connection has ended."""
        if not self._ended:
            body = json.dumps(dict(message)).encode()
            self.transport.write(LENGTH.pack(len(body)) + body)

    async def drain(self) -> None:
        """Wait while too much waits to be sent."""
        await self._writable.wait()

    def pause(self) -> None:
        """Read no more for the moment."""
        with suppress(AttributeError):  # asyncio takes the inner transport away before it says so
            self.transport.pause_reading()

    def resume(self) -> None:
        """Read again."""
        with suppress(AttributeError):
            self.transport.resume_reading()

    def take_over(self, heir: asyncio.Protocol) -> None:
        """Give everything that has come after the last message, and that will come, to ``heir``."""
        self._heir = heir
        waiting = bytes(self._buffer)
        self._buffer.clear()
        if waiting:
            heir.data_received(waiting)
        if self._ended:
            heir.connection_lost(self._problem)

    async def close(self, linger_seconds: float = 2.0) -> None:
        """Send what waits and close, however slow the peer is."""
        self.transport.close()
        try:
            await asyncio.wait_for(self.closed.wait(), linger_seconds)
        except asyncio.TimeoutError:
            self.transport.abort()

    def certificate(self) -> bytes | None:
        """The peer's certificate, in DER."""
        tls: ssl.SSLObject = self.transport.get_extra_info("ssl_object")
        return tls.getpeercert(binary_form=True)


def _message(frame: bytes) -> Message:
    try:
        message = json.loads(frame)
    except (ValueError, RecursionError) as error:
        raise Garbled from error
    if not isinstance(message, dict) or not isinstance(message.get("kind"), str):
        raise Garbled
    return message
