"""The node's end of the door."""

from __future__ import annotations

import os
import socket
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Callable, Mapping

from pydantic import ConfigDict, ValidationError, validate_call

from secretflow_task.contract.errors import BadCommand, DoorRefused, WorkerError
from secretflow_task.node.door import address
from secretflow_task.node.door.protocol import (
    REQUEST_BYTES,
    error_line,
    explain,
    read_request,
    result_line,
)
from secretflow_task.node.job.ending import NODE_LOG
from secretflow_task.utils.log import get_logger
from secretflow_task.utils.spelling import did_you_mean

log = get_logger()

Command = Callable[..., Mapping[str, Any]]  # takes its arguments by name

_SECONDS = 10.0  # within which a request has come, and an answer is taken
_AT_ONCE = 8
_PAUSE_SECONDS = 0.1
_FAREWELL_SECONDS = 1.0
_CHECKED = ConfigDict(strict=True)


class Door:
    """Carries out commands for the node's user and root; a context manager over its thread.

    A door that cannot be opened is said in the log, and the node goes on without.

    Args:
        folder: the state folder, whose lock the node holds.
        commands: by name; each takes JSON values by name and gives an object of them, or raises a
            `WorkerError`.
    """

    def __init__(self, folder: Path, commands: Mapping[str, Command]) -> None:
        self._folder = folder
        check = validate_call(config=_CHECKED)
        self._commands = {name: check(command) for name, command in commands.items()}
        self._listener: socket.socket | None = None
        self._free = threading.BoundedSemaphore(_AT_ONCE)
        self._closing = threading.Event()

    def __enter__(self) -> Door:
        try:
            self._listener = address.listen(self._folder)
        except address.FolderOfOthers:
            problem = "others may write to the state folder: chmod 700, or use a folder below it"
        except OSError as error:
            problem = error.strerror or type(error).__name__
        else:
            threading.Thread(
                target=self._serve, args=(self._listener,), name="door", daemon=True
            ).start()
            return self
        log.warning(
            "The node has no door: `sfworker node` cannot reach it.",
            action="door_shut",
            problem=problem,
        )
        return self

    def __exit__(self, *_exc: object) -> None:
        self._closing.set()
        if self._listener is None:
            return
        address.remove(self._folder)
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes the thread that accepts
        self._listener.close()
        deadline = time.monotonic() + _FAREWELL_SECONDS
        for _ in range(_AT_ONCE):  # what is being answered is answered
            # pylint: disable-next=consider-using-with
            self._free.acquire(timeout=max(0.0, deadline - time.monotonic()))

    def _serve(self, listener: socket.socket) -> None:
        while not self._closing.is_set():
            self._free.acquire()  # pylint: disable=consider-using-with  # `_attend` releases it
            try:
                self._let_in(listener)
            except (OSError, RuntimeError):  # closed; or too many files or threads, which passes
                self._free.release()
                self._closing.wait(_PAUSE_SECONDS)

    def _let_in(self, listener: socket.socket) -> None:
        """Wait for the next visitor, and attend to him in a thread."""
        connection, _ = listener.accept()
        visit = threading.Thread(
            target=self._attend, args=(connection,), name="door-visitor", daemon=True
        )
        try:
            visit.start()
        except RuntimeError:
            connection.close()
            raise

    def _attend(self, connection: socket.socket) -> None:
        try:
            with connection, suppress(OSError):  # who leaves early or dawdles gets no answer
                self._converse(connection)
        finally:
            self._free.release()

    def _converse(self, connection: socket.socket) -> None:
        """Answer the lines of a visitor until there are no more."""
        if address.peer_user(connection) not in (0, os.geteuid()):
            connection.sendall(error_line(DoorRefused()))
            return
        lines = _Lines(connection)
        while True:
            try:
                line = lines.read()
            except BadCommand as error:  # it was too long: where the next begins is not known
                connection.sendall(error_line(error))
                return
            if line is None:
                return
            answer = self._answer(line)
            connection.settimeout(_SECONDS)
            connection.sendall(answer)

    def _answer(self, line: bytes) -> bytes:
        try:
            request = read_request(line)
            return result_line(self._run(request.command, request.arguments))
        except WorkerError as error:
            return error_line(error)
        except Exception:  # pylint: disable=broad-exception-caught  # a defect; the door stays
            log.exception("A command of an operator failed.", action="door_command_failed")
            return error_line(WorkerError("The command failed.", hint=NODE_LOG))

    def _run(self, name: str, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        if name not in self._commands:
            guess = did_you_mean(name, list(self._commands))
            raise BadCommand(f"The node has no such command{guess or '.'}")
        try:
            return self._commands[name](**arguments)
        except ValidationError as error:
            raise BadCommand(f"{name}: {explain(error)}.") from None


class _Lines:
    """What a visitor says."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._rest = b""

    def read(self) -> bytes | None:
        """The next line; None at the end, also when it comes in the middle of a line.

        Raises:
            BadCommand: it is too long.
            TimeoutError: it does not come.
        """
        deadline = time.monotonic() + _SECONDS
        while b"\n" not in self._rest:
            if len(self._rest) > REQUEST_BYTES:
                raise BadCommand(f"A request has at most {REQUEST_BYTES} bytes.")
            self._connection.settimeout(max(0.001, deadline - time.monotonic()))
            piece = self._connection.recv(REQUEST_BYTES)
            if not piece:
                return None
            self._rest += piece
        line, _, self._rest = self._rest.partition(b"\n")
        return line
