"""Where the door is: a socket in the state folder, whatever the length of its path."""

from __future__ import annotations

import os
import socket
import struct
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Iterator

NAME = "door.sock"

_CREDENTIALS = struct.Struct("3i")  # process, user and group
_WRITABLE_BY_OTHERS = 0o022  # they could put another socket there
_WAITING = 16  # connections that the kernel keeps until they are attended to


class FolderOfOthers(Exception):
    """Somebody else may write to the state folder."""


def listen(folder: Path) -> socket.socket:
    """Listen in the state folder, whose lock the caller holds: what is left there is of the dead.

    Raises:
        FolderOfOthers: the folder is another user's, or writable by others.
        OSError: there can be no socket.
    """
    with _opened(folder) as handle:
        status = os.fstat(handle)
        if status.st_uid != os.geteuid() or status.st_mode & _WRITABLE_BY_OTHERS:
            raise FolderOfOthers
        with suppress(FileNotFoundError):
            os.unlink(NAME, dir_fd=handle)
        listener = socket.socket(socket.AF_UNIX)
        try:
            listener.bind(_path(handle))
            os.chmod(NAME, 0o600, dir_fd=handle)  # before anybody can connect
            listener.listen(_WAITING)
        except BaseException:
            listener.close()
            raise
        return listener


def connect(folder: Path, timeout_seconds: float) -> socket.socket:
    """Connect to the door of the node that runs with a state folder.

    Raises:
        OSError: there is none, or it is not for this user.
    """
    with _opened(folder) as handle:
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.settimeout(timeout_seconds)
            connection.connect(_path(handle))
        except BaseException:
            connection.close()
            raise
        return connection


def is_writable_by_others(folder: Path) -> bool:
    """Whether a state folder is there, and others than its user may write to it."""
    try:
        return bool(folder.stat().st_mode & _WRITABLE_BY_OTHERS)
    except OSError:
        return False


def remove(folder: Path) -> None:
    """Take the socket away."""
    with suppress(OSError):
        (folder / NAME).unlink()


def peer_user(connection: socket.socket) -> int:
    """The user id of the process at the other end, as the kernel knows it."""
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    return int(_CREDENTIALS.unpack(credentials)[1])


@contextmanager
def _opened(folder: Path) -> Iterator[int]:
    handle = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield handle
    finally:
        os.close(handle)


def _path(handle: int) -> str:
    """A path of the socket that is short enough: the kernel takes 107 bytes."""
    return f"/proc/self/fd/{handle}/{NAME}"
