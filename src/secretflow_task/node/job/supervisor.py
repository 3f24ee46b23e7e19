"""Supervision of one job process: the only place where an execution is settled.

SecretFlow ends its own process, blocks for ever or dies in native code: no promise can be kept from
inside. The supervisor decides from what the process said (`Dialogue`), from its exit, from how it
looks from outside (`Checkup`), from the clock (`JobClock`) and from the peers.
"""

from __future__ import annotations

import threading
import time
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, Mapping, Protocol

from secretflow_task.contract.errors import WorkerError
from secretflow_task.contract.job_spec import JobSpec
from secretflow_task.node.job.checkup import Checkup
from secretflow_task.node.job.dialogue import UNFINISHED, Dialogue
from secretflow_task.node.job.ending import NODE_LOG, Ending, success
from secretflow_task.node.job.limits import JobClock, Limits
from secretflow_task.node.job.logs import note_failure, trim
from secretflow_task.node.job.outputs import move_outputs, put_back
from secretflow_task.node.job.process import JobProcess
from secretflow_task.node.job.usage import SETTLING, Usage
from secretflow_task.node.link.protocol import PeerLink, Unsettled
from secretflow_task.utils.log import get_logger

log = get_logger()

_LOOK_SECONDS = 1.0  # how often the job is looked at from outside
_WATCHDOG_SECONDS = 2.0


class Host(Protocol):
    """What the supervisor of one party asks of its node."""

    def report(self, data: Mapping[str, Any]) -> None:
        """Publish a RUNNING event."""

    def vote(self, result: Mapping[str, Any]) -> Mapping[str, Any]:
        """Keep the result, before the peers hear that the own outputs are in their places.

        Returns:
            What the terminal event tells of it.

        Raises:
            NodeLost: another node has taken the execution over.
            OutputNotWritable: it cannot be kept.
        """

    def withdraw(self) -> None:
        """Forget the result, before the outputs are put back."""


class Supervisor:
    """Watches one job process from its start to the end of the execution at its party."""

    def __init__(
        self, spec: JobSpec, job: JobProcess, link: PeerLink, host: Host, limits: Limits
    ) -> None:
        self._spec = spec
        self._job = job
        self._link = link
        self._host = host
        self._limits = limits
        self.usage = Usage(job.pid)
        self._clock = JobClock(limits, spec.party)
        self._checkup = Checkup(job.pid, spec.party, limits, self.usage)
        self._dialogue = Dialogue(spec.party, job, link, host, self.usage, self._clock)
        self._next_look = time.monotonic() + _LOOK_SECONDS
        self._told: Mapping[str, Any] = {}
        self._settled = False
        self._settles_slowly = False
        self._asked = False

    def run(self) -> Ending:
        """Supervise to the end; the process is gone then, and of a failure no output is left.

        Raises:
            Unsettled: the node ends before it knows the end; the process is gone, and the outputs
                stay.
        """
        # A job that stops would hold up what is sent to it: killing it ends that too.
        seconds = self._clock.end - time.monotonic() + _WATCHDOG_SECONDS
        watchdog = threading.Timer(seconds, self._job.strike)
        watchdog.daemon = True
        watchdog.start()
        try:
            self._watch()
            failure = self._verdict()
        except Unsettled:
            watchdog.cancel()
            self._job.kill()
            raise
        watchdog.cancel()
        if failure is None:
            return self._succeed()
        return self._fail(failure)

    def _succeed(self) -> Ending:
        dialogue = self._dialogue
        self.usage.note(SETTLING, time.monotonic() - dialogue.finished_at)
        self._job.wait(self._limits.grace_seconds)
        self._job.kill()
        trim(self._spec.log_path, self._limits.log_bytes)
        return Ending(None, success(self._told), self.usage)

    def _fail(self, failure: WorkerError) -> Ending:
        dialogue = self._dialogue
        self._job.kill(self._limits.grace_seconds)
        trim(self._spec.log_path, self._limits.log_bytes)
        note_failure(self._spec.log_path, failure, self._spec.log_json)
        self._host.withdraw()
        put_back({Path(staged).parent for staged in dialogue.outputs}, self._spec.rules)
        return Ending.of(failure, dialogue.progress, self.usage)

    def _watch(self) -> None:
        """Until the parties have an end, or the supervisor itself has failed."""
        try:
            while not self._link.failed and not self._link.succeeded:
                self._wait()
                self._dialogue.hear()
                self._dialogue.answer()
                self._settle()
                self._look()
                self._check_clock()
        except Unsettled:
            raise
        except Exception as error:  # pylint: disable=broad-exception-caught  # tell the peers
            log.exception("The supervisor failed.", action="supervisor_failed")
            own = WorkerError(hint=NODE_LOG, party=self._spec.party)
            self._link.fail(error if isinstance(error, WorkerError) else own)

    def _verdict(self) -> WorkerError | None:
        """What all parties have agreed on: the failure, or None for success."""
        files: list[Any] = [self._link]
        while not self._link.failed and not self._link.succeeded:
            wait(files, timeout=_LOOK_SECONDS)
            self._link.clear()
        return self._link.failed

    def _wait(self) -> None:
        files: list[Any] = [self._link]
        if not self._dialogue.over:
            files += [self._job.connection, self._job.sentinel]
        wait(files, timeout=max(0.0, self._next_deadline() - time.monotonic()))
        self._link.clear()

    def _next_deadline(self) -> float:
        if self._asked:  # the answer comes over the link
            return self._next_look
        deadline = min(self._next_look, self._clock.next())
        failure = self._dialogue.failure
        if failure is None:
            return deadline
        return min(deadline, failure.counts_at)

    def _settle(self) -> None:
        """Move the outputs to their places when every party has its result."""
        if self._settled or not self._link.finished:
            return
        self._settled = True
        dialogue = self._dialogue
        try:
            move_outputs(dialogue.outputs, self._spec.rules, self._spec.staging)
            self._told = self._host.vote(dialogue.result or {})
        except WorkerError as error:
            self._ask_for_the_end(error)
        else:
            self._link.settle()

    def _look(self) -> None:
        if time.monotonic() < self._next_look:
            return
        self._next_look = time.monotonic() + _LOOK_SECONDS
        self._say_that_it_settles()
        if self._dialogue.over:
            return
        trim(self._spec.log_path, self._limits.log_bytes)
        problem = self._checkup.problem(self._dialogue.last_heard)
        if problem is not None:
            self._dialogue.fail(problem)

    def _say_that_it_settles(self) -> None:
        """At the second look after the own vote: a peer, or the way to it, delays the end."""
        if self._settled and not self._settles_slowly:
            self._settles_slowly = True
        elif self._settles_slowly and self._dialogue.progress < UNFINISHED:
            self._dialogue.report({"stage": "settling", "progress": UNFINISHED})

    def _check_clock(self) -> None:
        failure = self._dialogue.failure
        if failure is not None and time.monotonic() >= failure.counts_at:
            self._ask_for_the_end(failure.error)
            return
        missed = self._clock.missed()
        if missed is not None:
            self._ask_for_the_end(missed)

    def _ask_for_the_end(self, error: WorkerError) -> None:
        if not self._asked:
            self._asked = True
            self._link.fail(error)
