"""The job process: born warm from the template, runs one execution at one party, and ends."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import tempfile
import threading
import time
from contextlib import suppress
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from typing import Any, Mapping, NoReturn

from secretflow_task.contract.job_spec import JobSpec
from secretflow_task.contract.messages import Kind, PipeMessage, Status
from secretflow_task.engine.executor import as_worker_error, execute_secretflow_task
from secretflow_task.engine.status import bind_status_sink
from secretflow_task.utils.log import configure, execution_context, get_logger

log = get_logger()

_PR_SET_PDEATHSIG = 1
_ALIVE_SECONDS = 5.0


class Aborted(BaseException):
    """The node told the job to stop."""


class PipeChannel:
    """The job's side of the pipe."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._sending = threading.Lock()
        self.started = False

    def send(self, kind: Kind, body: Mapping[str, Any]) -> None:
        """Send one message to the node, from any thread."""
        with self._sending:
            self._connection.send_bytes(PipeMessage(kind, body).to_bytes())

    def keep_alive(self) -> None:
        """Tell the node again and again, from a thread, that the process can still run Python."""
        threading.Thread(target=self._beat, name="alive", daemon=True).start()

    def _beat(self) -> None:
        with suppress(OSError):  # until the node closes the pipe
            while True:
                time.sleep(_ALIVE_SECONDS)
                self.send(Kind.ALIVE, {})

    def agree(self, facts: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """Say ``prepared``; returns all parties' facts after ``go``. The node ends a long wait."""
        self.send(Kind.PREPARED, facts)
        answer = PipeMessage.from_bytes(self._connection.recv_bytes())
        if answer.kind is not Kind.GO:
            raise Aborted
        self.started = True
        return dict(answer.body)

    def stage_ended(self, stage: str, seconds: float) -> None:
        """Log how long a stage took, and tell the node, if it still listens."""
        log.info("A stage has ended.", action="job_stage_ended", stage=stage, seconds=seconds)
        with suppress(OSError):
            self.send(Kind.STAGE, {"stage": stage, "seconds": seconds})

    def publish(self, status: str, data: Mapping[str, Any]) -> None:
        """Send a RUNNING event; the terminal one is the node's."""
        if status == Status.RUNNING.value:
            self.send(Kind.EVENT, data)


def run_job(spec: JobSpec, connection: Connection) -> NoReturn:
    """Main function of a job process: execute, say how it went, and end at once."""
    _isolate(spec)
    configure(
        spec.log_level, spec.log_json, libraries=False
    )  # these write to the same file by themselves
    channel = PipeChannel(connection)
    channel.keep_alive()
    bind_status_sink(channel.publish)

    def on_result(result: dict[str, Any], outputs: dict[str, str]) -> None:
        channel.send(Kind.RESULT, {"result": result, "outputs": outputs})

    code, started = 1, time.monotonic()
    with execution_context(**spec.request.log_ids, party=spec.party):
        log.info("The job starts.", action="job_started")
        try:
            execute_secretflow_task(spec, channel, on_result)
            channel.send(Kind.DONE, {})
            log.info("The job has succeeded.", action="job_succeeded", seconds=_since(started))
            code = 0
        except Aborted:
            log.info("The node has stopped the job.", action="job_aborted", seconds=_since(started))
        except BaseException as error:  # pylint: disable=broad-exception-caught  # its last words
            _report_failure(channel, spec, error, _since(started))
    _leave(code)


def _since(started: float) -> float:
    return round(time.monotonic() - started, 3)


def _report_failure(
    channel: PipeChannel, spec: JobSpec, error: BaseException, seconds: float
) -> None:
    public, from_peer = as_worker_error(error, spec.party)
    log.error(
        "The job has failed.",
        action="job_failed",
        code=public.code,
        seconds=seconds,
        detail=public.detail,
        exc_info=error,
    )
    kind = Kind.FAILED if channel.started else Kind.REFUSED
    channel.send(kind, {"error": public.to_dict(), "from_peer": from_peer})


def _isolate(spec: JobSpec) -> None:
    """Own session, working directory, temporary directory and log; die with the template."""
    # Every child inherits what keeps the template alive; with it open the job would outlive the
    # node.
    alive = forkserver._forkserver._forkserver_alive_fd  # type: ignore[attr-defined]
    if alive is not None:
        os.close(alive)
    os.setsid()
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    os.chdir(spec.folder)
    os.environ["TMPDIR"] = str(spec.folder)
    tempfile.tempdir = None
    output = os.open(spec.log_path, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
    null = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((null, 0), (output, 1), (output, 2)):
        os.dup2(source, target)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _leave(code: int) -> NoReturn:
    """End without the interpreter's exit, which hangs in SecretFlow's threads."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
