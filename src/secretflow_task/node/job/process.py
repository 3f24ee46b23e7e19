"""A running job process, seen from the node."""

# multiprocessing has one forkserver per process and no public way to it.
# pylint: disable=protected-access

from __future__ import annotations

import multiprocessing
import os
import signal
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess

from secretflow_task.node.job.pipe import PipeReader


class JobProcess:
    """A running job process and the node's end of its pipe."""

    def __init__(self, process: BaseProcess, connection: Connection) -> None:
        self._process = process
        self.connection = connection
        self._reader = PipeReader(connection)
        self.pid = int(process.pid or 0)

    def receive(self) -> bytes | None:
        """The next message of the job, as `PipeReader.receive` gives it."""
        return self._reader.receive()

    @property
    def sentinel(self) -> int:
        """Becomes readable when the process has ended."""
        return self._process.sentinel

    def exit_code(self) -> int | None:
        """None while it runs; negative for a signal."""
        return self._process.exitcode

    def wait(self, seconds: float) -> bool:
        """Wait for the process to end; whether it has."""
        multiprocessing.connection.wait([self.sentinel], timeout=seconds)
        return self.exit_code() is not None

    def strike(self) -> None:
        """End the process and all that it started, from any thread."""
        self._signal(signal.SIGKILL)

    def kill(self, grace_seconds: float = 0.0) -> None:
        """End the process and all that it started, by SIGTERM first where there is time, and reap
        it.
        """
        if grace_seconds:
            self._signal(signal.SIGTERM)
            self._signal(signal.SIGCONT)  # a stopped process would not hear of it
            self.wait(grace_seconds)
        self.strike()
        self.wait(10.0)
        self._reader.close()
        self.connection.close()

    def _signal(self, number: int) -> None:
        for kill in (os.killpg, os.kill):  # a child is in its own group only when it has come to it
            try:
                kill(self.pid, number)
            except ProcessLookupError:
                continue
