"""The template: a forkserver with SecretFlow preloaded, from which job processes start in
milliseconds.
"""

# multiprocessing has one forkserver per process and no public way to it.
# pylint: disable=protected-access

from __future__ import annotations

import importlib
import json
import multiprocessing
import os
import signal
import threading
import time
from contextlib import suppress
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from secretflow_task.contract.errors import EngineUnavailable
from secretflow_task.contract.job_spec import JobSpec
from secretflow_task.node.job import vitals
from secretflow_task.node.job.process import JobProcess
from secretflow_task.utils.log import get_logger

log = get_logger()
_STARTING = threading.Lock()
_REPLACE_PAUSE_SECONDS = 5.0
_RETIRE_PAUSE_SECONDS = 0.2
# How often the kernel is asked about the template, and how often in a row it must say that it is
# stopped.
_LOOK_SECONDS = 1.0
_STOPPED_LOOKS = 2
_ENDED = "The template process ended while it imported SecretFlow."


def _enter_job(spec: JobSpec, connection: Connection) -> None:
    # By name: the node must not import what a job process imports.
    importlib.import_module("secretflow_task.engine.job_process").run_job(spec, connection)


def _enter_probe(connection: Connection) -> None:
    adapter = importlib.import_module("secretflow_task.engine.adapter")
    connection.send_bytes(
        json.dumps({"preloaded": adapter.is_preloaded(), "template": os.getppid()}).encode()
    )
    os._exit(0)


class Template:
    """Starts the forkserver and, through it, job processes. The forkserver ends with the node's
    process.

    One that dies, and takes its jobs with it, is replaced at once, so that the next job starts warm
    again.

    Attributes:
        ready: whether jobs can be started.
        restarts: how often one that had died was replaced.
    """

    def __init__(
        self,
        timeout_seconds: float,
        preload: tuple[str, ...] = ("secretflow_task.engine.template_process",),
    ):
        self._timeout_seconds = timeout_seconds
        self._preload = list(preload)
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(self._preload)
        self._closed = threading.Event()
        self._changing = threading.Lock()  # held while one template takes the place of another
        self._current = 0
        self.ready = False
        self.restarts = 0

    def start(self) -> int:
        """Wait until the engine is loaded; returns the template's process id.

        Raises:
            EngineUnavailable: the engine did not load in time, or its backend was started (a job
                could hang).
        """
        template = self._current = self._probe()
        self.ready = True
        threading.Thread(
            target=self._replace, args=(template,), name="template-watch", daemon=True
        ).start()
        return template

    def spawn(self, spec: JobSpec) -> JobProcess:
        """Start a job process."""
        return self._spawn(_enter_job, spec)

    def renew(self) -> int:
        """Start the next jobs from a new template, which is returned; the old one ends with its
        last job.

        Jobs go on being started from the old one until the new one has loaded the engine.

        Raises:
            EngineUnavailable: it does not load; the old template stays.
        """
        with self._changing:
            new = forkserver.ForkServer()
            new.set_forkserver_preload(self._preload)
            old = None
            try:
                _wait_until_loaded(new, self._timeout_seconds)
                old = _start_jobs_from(new)
                template = self.start()
            except EngineUnavailable:
                if old:
                    _start_jobs_from(old)
                _retire_soon(new)
                raise
            _retire_soon(old)
            return template

    def close(self) -> None:
        """Replace the template no more."""
        self._closed.set()

    def _probe(self) -> int:
        job = self._spawn(_enter_probe)
        try:
            if not job.connection.poll(self._timeout_seconds):
                raise EngineUnavailable("SecretFlow was not imported in time.")
            answer = json.loads(job.connection.recv_bytes())
        except EOFError:
            raise EngineUnavailable(_ENDED) from None
        finally:
            job.kill()
        if not answer["preloaded"]:
            raise EngineUnavailable(
                "SecretFlow could not be imported; job processes would start cold or hang."
            )
        return int(answer["template"])

    def _replace(self, template: int) -> None:
        """Wait until a template has ended, and start another, unless that has been done already."""
        _wait_for_end(template)
        pause = 0.0
        while not self._closed.wait(pause):
            with self._changing:
                if self._current != template or self._start_another():
                    return
            pause = _REPLACE_PAUSE_SECONDS

    def _start_another(self) -> bool:
        """Start another template for one that has ended; whether that was possible."""
        log.warning("The template has ended; another is started.", action="template_replaced")
        self.ready = False
        try:
            self.start()
        except EngineUnavailable as error:
            log.error("There is no template.", action="template_missing", problem=error.message)
            return False
        self.restarts += 1
        return True

    def _spawn(self, target: Any, *arguments: Any) -> JobProcess:
        ours, theirs = self._context.Pipe()
        process: BaseProcess | None = None
        for _ in range(2):  # the template may end between its being found alive and its answer
            process = self._context.Process(target=target, args=(*arguments, theirs), daemon=True)
            starter = threading.Thread(
                target=_start, args=(process,), name="start-job", daemon=True
            )
            starter.start()
            # The template answers nothing while it imports the engine.
            starter.join(self._timeout_seconds)
            if process.pid is not None or starter.is_alive():
                break
        if process is None or process.pid is None:
            raise EngineUnavailable("The template process does not answer.")
        theirs.close()
        return JobProcess(process, ours)


def _wait_for_end(template: int) -> None:
    """Wait until a template has ended; one that was stopped from outside, and starts nothing, is
    ended.
    """
    try:
        handle = os.pidfd_open(template)
    except ProcessLookupError:
        return
    looks = 0
    while not multiprocessing.connection.wait([handle], timeout=_LOOK_SECONDS):
        looks = looks + 1 if vitals.is_stopped(template) else 0
        if looks == _STOPPED_LOOKS:
            log.warning(
                "The template was stopped from outside; it is ended.", action="template_stopped"
            )
            os.kill(template, signal.SIGKILL)
    os.close(handle)


def _start(process: BaseProcess) -> None:
    with _STARTING, suppress(OSError, EOFError):
        process.start()
        # multiprocessing would poll it from the thread that starts the next one, and take its exit
        # code.
        children = multiprocessing.process._children  # type: ignore[attr-defined]
        children.discard(process)


def _wait_until_loaded(server: Any, timeout_seconds: float) -> None:
    """Start a template, and wait until it forks a process, which is ended at once.

    Raises:
        EngineUnavailable: it ends, or it is not ready in time.
    """
    server.ensure_running()
    answer, feed = server.connect_to_new_process([])
    try:
        if not multiprocessing.connection.wait([answer], timeout_seconds):
            raise EngineUnavailable("SecretFlow was not imported in time.")
        os.kill(forkserver.read_signed(answer), signal.SIGKILL)
    except EOFError:
        raise EngineUnavailable(_ENDED) from None
    finally:
        os.close(answer)
        os.close(feed)


def _start_jobs_from(server: Any) -> Any:
    """Start the next jobs from another template; returns the one until now."""
    with _STARTING:
        old = forkserver._forkserver
        forkserver._forkserver = server
        forkserver.ensure_running = server.ensure_running
        forkserver.connect_to_new_process = server.connect_to_new_process
        return old


def _retire_soon(server: Any) -> None:
    threading.Thread(target=_retire, args=(server,), name="template-retire", daemon=True).start()


def _retire(server: Any) -> None:
    """End a template when its last job has ended: its end would be theirs too."""
    pid = server._forkserver_pid
    children = Path(f"/proc/{pid}/task/{pid}/children")
    while pid is not None and children.exists() and children.read_bytes().strip():
        time.sleep(_RETIRE_PAUSE_SECONDS)
    server._stop()
