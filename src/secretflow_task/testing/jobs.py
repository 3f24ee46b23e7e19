"""Job processes without an engine: they play what a test tells them to."""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import multiprocessing.context
import multiprocessing.process
import os
import signal
import socket
import threading
import traceback
from multiprocessing.connection import Connection
from typing import Any, Callable, Mapping, NoReturn

from secretflow_task.contract.errors import WorkerError
from secretflow_task.contract.job_spec import JobSpec
from secretflow_task.contract.messages import Kind, Stage
from secretflow_task.engine.job_process import Aborted, PipeChannel
from secretflow_task.node.job.process import JobProcess

# A fork takes over every open file: another job's end of its pipe must not be among them.
_FORKING = threading.Lock()


class JobSide(PipeChannel):
    """What a scripted job can do: what it says to its node, and every way to end."""

    def __init__(self, connection: Connection) -> None:
        super().__init__(connection)
        self.connection = connection

    def report(self, progress: float, stage: str = Stage.TASK_EXECUTION.value) -> None:
        """Send a RUNNING event."""
        self.send(Kind.EVENT, {"stage": stage, "progress": progress})

    def refuse(self, error: WorkerError, from_peer: bool = False) -> None:
        """Say that the own input does not fit."""
        self.send(Kind.REFUSED, {"error": error.to_dict(), "from_peer": from_peer})

    def fail(self, error: WorkerError, from_peer: bool = False) -> None:
        """Say that the execution failed."""
        self.send(Kind.FAILED, {"error": error.to_dict(), "from_peer": from_peer})

    def finish(self, result: Mapping[str, Any], outputs: Mapping[str, str] | None = None) -> None:
        """Send the result, with ``{staged: target}``, and say that all is done."""
        self.send(Kind.RESULT, {"result": dict(result), "outputs": dict(outputs or {})})
        self.send(Kind.DONE, {})

    def die(self, number: int = signal.SIGKILL) -> NoReturn:
        """End by a signal."""
        if number != signal.SIGKILL:
            signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
        os._exit(70)  # not reached

    def leave(self, code: int = 0) -> NoReturn:
        """End with an exit code."""
        os._exit(code)

    def hang(self) -> NoReturn:
        """Do nothing until the process is killed."""
        while True:
            signal.pause()


def scripted_job(script: Callable[[JobSide], None]) -> JobProcess:
    """A job process without an engine: forked from the test, it plays ``script`` and ends.

    It has its own process group, as a real one has.
    """
    with _FORKING:
        ours, theirs = multiprocessing.Pipe()
        process = _Process(target=_play, args=(script, ours, theirs), daemon=True)
        process.start()
        theirs.close()
    return JobProcess(process, ours)


class MemoryJob(JobProcess):
    """A job process without a process: a test speaks by `side` and ends it by `end`."""

    def __init__(self) -> None:
        ours, theirs = multiprocessing.Pipe()
        super().__init__(multiprocessing.process.BaseProcess(), ours)
        self.side = JobSide(theirs)
        self._mutex = threading.Lock()
        self._code: int | None = None
        self._sentinel = os.eventfd(0, os.EFD_CLOEXEC)

    @property
    def sentinel(self) -> int:
        """Becomes readable at `end`."""
        return self._sentinel

    def exit_code(self) -> int | None:
        """None until `end`."""
        return self._code

    def end(self, code: int) -> None:
        """End with an exit code, or a signal if negative; only the first end counts."""
        with self._mutex:
            if self._code is None:
                self._code = code
                _hang_up(self.side.connection)
                os.eventfd_write(self._sentinel, 1)

    def close(self) -> None:
        """Give back the files."""
        self.strike()
        self.side.connection.close()
        os.close(self._sentinel)

    def _signal(self, number: int) -> None:  # there is no process that could be sent one
        if number != signal.SIGCONT:
            self.end(-number)


class ScriptedTemplate:
    """A `Template` without an engine: its jobs play one script, which is told its spec."""

    def __init__(self, script: Callable[[JobSpec, JobSide], None]) -> None:
        self._script = script
        self.spawned: list[JobSpec] = []
        self.ready = True
        self.closed = False
        self.restarts = 0
        self.renewals = 0

    def start(self) -> int:
        """There is nothing to load; returns this process's id."""
        return os.getpid()

    def renew(self) -> int:
        """Count that it was wanted; returns this process's id."""
        self.renewals += 1
        return os.getpid()

    def close(self) -> None:
        """Nothing is held."""
        self.closed = True

    def spawn(self, spec: JobSpec) -> JobProcess:
        """Start a scripted job."""
        self.spawned.append(spec)
        return scripted_job(lambda job: self._script(spec, job))


def _hang_up(connection: Connection) -> None:
    """Close a connection for both sides, though not its file: another thread may be sending."""
    with socket.socket(fileno=os.dup(connection.fileno())) as file:
        file.shutdown(socket.SHUT_RDWR)


class _Process(multiprocessing.context.ForkProcess):
    """A fork that is reaped, as a forkserver's child is, when its sentinel says that it ended."""

    @property
    def exitcode(self) -> int | None:
        """None while it runs; negative for a signal."""
        if multiprocessing.connection.wait([self.sentinel], timeout=0):
            self.join()
        return super().exitcode


def _play(script: Callable[[JobSide], None], ours: Connection, theirs: Connection) -> NoReturn:
    ours.close()
    os.setsid()
    code = 1
    try:
        script(JobSide(theirs))
        code = 0
    except (Aborted, EOFError):
        pass
    except BaseException:  # pylint: disable=broad-exception-caught
        traceback.print_exc()  # a fork must not run tests
    os._exit(code)
