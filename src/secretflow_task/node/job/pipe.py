"""Reading the pipe of a job without waiting for it: a job may stop in the middle of a message."""

from __future__ import annotations

import os
import socket
import struct
from multiprocessing.connection import Connection

_READ_BYTES = 65_536
_LONGEST_BYTES = 64 * 1024 * 1024
# multiprocessing's; longer messages than it can tell are longer than ours.
_LENGTH = struct.Struct("!i")


class PipeReader:
    """Cuts what came over a `multiprocessing.Pipe` into messages; nobody else may read from it."""

    def __init__(self, connection: Connection) -> None:
        self._socket = socket.socket(fileno=os.dup(connection.fileno()))
        self._buffer = bytearray()

    def receive(self) -> bytes | None:
        """The next message; None when no whole one has come.

        Raises:
            EOFError: the other end is closed.
            OSError: the pipe is broken.
            ValueError: the message is longer than any of ours.
        """
        while (message := self._cut()) is None:
            try:
                data = self._socket.recv(_READ_BYTES, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return None
            if not data:
                raise EOFError
            self._buffer += data
        return message

    def _cut(self) -> bytes | None:
        if len(self._buffer) < _LENGTH.size:
            return None
        end = _LENGTH.size + _LENGTH.unpack_from(self._buffer)[0]
        if not _LENGTH.size <= end <= _LONGEST_BYTES:
            raise ValueError("no message of ours is so long")
        if len(self._buffer) < end:
            return None
        message = bytes(self._buffer[_LENGTH.size : end])
        del self._buffer[:end]
        return message

    def close(self) -> None:
        """Give back the file."""
        self._socket.close()
