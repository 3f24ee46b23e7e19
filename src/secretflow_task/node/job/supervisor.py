"""Supervision of one job process: the only place where an execution is settled.

SecretFlow ends its own process, blocks for ever or dies in native code: no promise can be kept from inside.
The supervisor decides from what the process said, from its exit, from the clock and from the peers.
"""

from __future__ import annotations

import math
import signal
import threading
import time
from dataclasses import dataclass
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, Mapping, Protocol

from secretflow_task.contract.errors import (
    JobProcessDied,
    MemoryLimitExceeded,
    TaskTimeout,
    WorkerError,
)
from secretflow_task.contract.job_spec import JobSpec
from secretflow_task.contract.messages import Kind, PipeMessage, Status, StatusEvent
from secretflow_task.node.job import vitals
from secretflow_task.node.job.ending import NODE_LOG, Ending, success
from secretflow_task.node.job.logs import note_failure, trim
from secretflow_task.node.job.outputs import move_outputs, put_back
from secretflow_task.node.job.process import JobProcess
from secretflow_task.node.job.usage import SETTLING, Usage
from secretflow_task.node.link.protocol import PeerLink, Unsettled
from secretflow_task.utils.log import get_logger

log = get_logger()

# How long a failure that looks like a consequence of a peer's failure waits for that one to be heard.
_CAUSE_SECONDS = 3.0
# How long a process whose pipe broke may take to end.
_EXIT_SECONDS = 1.0
# Messages of a job that are read before the clock and the peers have their turn.
_MESSAGES_AT_ONCE = 100
# How often the kernel is asked about the job, and how often in a row it must say that the job is stopped.
_LOOK_SECONDS = 1.0
_STOPPED_LOOKS = 2
_WEIGHING_LOOKS = 10
_EVENTS_PER_SECOND = 200  # of one job; what comes beyond that is progress that nobody could read
_MOST_STAGES = 1000  # of one job: more than any workflow has, and no more lines in the log
# Where the progress of what has not succeeded ends.
_UNFINISHED = 0.999
_WATCHDOG_SECONDS = 2.0
# Exits by which SecretFlow ends its own process when a peer is gone.
_EXITS_AFTER_PEER = frozenset({255, -signal.SIGABRT, -signal.SIGSEGV, -signal.SIGPIPE})


@dataclass(frozen=True)
class Limits:
    """What a job may take.

    Attributes:
        job_seconds: wall clock from its start to its result.
        prepare_seconds: until it has checked its input.
        grace_seconds: between SIGTERM and SIGKILL, and for a finished process to leave.
        silence_seconds: without a word from it.
        memory_bytes: proportional set size of its process group; 0 for no limit.
        log_bytes: of its log; what is older is dropped.
    """

    job_seconds: float
    prepare_seconds: float
    grace_seconds: float
    silence_seconds: float = 120.0
    memory_bytes: int = 0
    log_bytes: int = 100_000_000


class Host(Protocol):
    """What the supervisor of one party asks of its node."""

    def report(self, data: Mapping[str, Any]) -> None:
        """Publish a RUNNING event."""

    def vote(self, result: Mapping[str, Any]) -> None:
        """Keep the result, before the peers hear that the own outputs are in their places.

        Raises:
            NodeLost: another node has taken the execution over.
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
        now = time.monotonic()
        self._deadline = now + limits.job_seconds
        self._round_deadline: float | None = now + limits.prepare_seconds
        self._next_look = now + _LOOK_SECONDS
        self._looks = 0
        self._stopped_looks = 0
        self._last_heard = self._finished_at = now
        self._burst = (now, 0)
        self._progress = 0.0
        self._stages = 0
        self._offered = False
        self._result: Mapping[str, Any] | None = None
        self._outputs: Mapping[str, str] = {}
        self._settled = False
        self._settles_slowly = False
        self._asked = False
        self._consequence: tuple[WorkerError, float] | None = None

    def run(self) -> Ending:
        """Supervise to the end; the process is gone then, and of a failure no output is left.

        Raises:
            Unsettled: the node ends before it knows the end; the process is gone, and the outputs stay.
        """
        # A job that stops would hold up what is sent to it: killing it ends that too.
        watchdog = threading.Timer(
            self._deadline - time.monotonic() + _WATCHDOG_SECONDS, self._job.strike
        )
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
            self.usage.note(SETTLING, time.monotonic() - self._finished_at)
            self._job.wait(self._limits.grace_seconds)
        self._job.kill(self._limits.grace_seconds if failure else 0.0)
        trim(self._spec.log_path, self._limits.log_bytes)
        if failure is None:
            return Ending(None, success(self._result or {}), self.usage)
        note_failure(self._spec.log_path, failure, self._spec.log_json)
        self._host.withdraw()
        put_back({Path(staged).parent for staged in self._outputs}, self._spec.rules)
        return Ending.of(failure, self._progress, self.usage)

    def _watch(self) -> None:
        try:
            while not self._link.failed and not self._link.succeeded:
                self._wait()
                self._check_process()
                self._answer()
                self._settle()
                self._look()
                self._check_clock()
        except Unsettled:
            raise
        except (
            Exception
        ) as error:  # pylint: disable=broad-exception-caught  # the peers must hear of it
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
        if not self._process_has_ended():
            files += [self._job.connection, self._job.sentinel]
        wait(files, timeout=max(0.0, self._next_deadline() - time.monotonic()))
        self._link.clear()

    def _process_has_ended(self) -> bool:
        return self._consequence is not None or self._result is not None

    def _next_deadline(self) -> float:
        if self._asked:  # the answer comes over the link
            return self._next_look
        consequence = self._consequence and self._consequence[1]
        deadlines = [self._deadline, self._next_look, self._round_deadline, consequence]
        return min(deadline for deadline in deadlines if deadline is not None)

    def _check_process(self) -> None:
        """Read what the job said; a process that ended without a result is a failure."""
        if self._process_has_ended():
            return
        ended = (
            self._job.exit_code() is not None
        )  # before the pipe is read, so that its last words count
        try:
            for _ in range(_MESSAGES_AT_ONCE):
                message = None if self._process_has_ended() else self._job.receive()
                if message is None:
                    break
                self._handle(PipeMessage.from_bytes(message))
            else:
                return  # there may be more, but the clock and the peers have their turn
        except (EOFError, OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            # For its exit code; alive or not, nothing that it says can be believed any more.
            self._job.wait(_EXIT_SECONDS)
            ended = True
        if ended and not self._process_has_ended():
            self._job_died(self._job.exit_code())

    def _handle(self, message: PipeMessage) -> None:
        body = message.body
        self._last_heard = time.monotonic()
        if message.kind is Kind.EVENT:
            self._report(body)
        elif message.kind is Kind.STAGE:
            self._note_stage(str(body["stage"])[:64], _seconds(body["seconds"]))
        elif message.kind is Kind.PREPARED:
            self._offered = True
            self._round_deadline = (
                None  # the peers have their own; a later round may wait for long work of theirs
            )
            self._link.offer(body)
        elif message.kind is Kind.RESULT:
            self._outputs = _texts(body["outputs"])
            self._result = _tellable(body["result"])
            self._link.finish()
            self._finished_at = self._last_heard
            self.usage.conclude()  # the job waits for its peers now, and leaves then
        elif message.kind in (Kind.REFUSED, Kind.FAILED):
            self.usage.conclude()
            self._fail(WorkerError.from_dict(body["error"]), bool(body["from_peer"]))

    def _report(self, data: Mapping[str, Any]) -> None:
        self._progress = min(max(self._progress, float(data.get("progress", 0.0))), _UNFINISHED)
        since, count = self._burst
        self._burst = (
            (since, count + 1) if self._last_heard < since + 1.0 else (self._last_heard, 1)
        )
        if self._burst[1] <= _EVENTS_PER_SECOND:
            self._host.report({**data, "progress": self._progress})

    def _note_stage(self, stage: str, seconds: float) -> None:
        """Log a stage that has ended, and add it up; what comes beyond a number fills neither."""
        self._stages += 1
        if self._stages <= _MOST_STAGES:
            self.usage.note(stage, seconds)
            log.info("A stage has ended.", action="stage_ended", stage=stage, seconds=seconds)

    def _answer(self) -> None:
        """Say ``go`` when every party is prepared."""
        facts = self._link.agreed() if self._offered else None
        if facts is None:
            return
        self._offered = False
        try:
            self._job.connection.send_bytes(PipeMessage(Kind.GO, facts).to_bytes())
        except OSError:
            log.debug("The job process exited before it was told to go.", action="go_not_heard")

    def _settle(self) -> None:
        """Move the outputs to their places when every party has its result."""
        if self._settled or not self._link.finished:
            return
        self._settled = True
        try:
            move_outputs(self._outputs, self._spec.rules, self._spec.staging)
            self._host.vote(self._result or {})
        except WorkerError as error:
            self._ask_for_the_end(error)
        else:
            self._link.settle()

    def _say_that_it_settles(self) -> None:
        """At the second look after the own vote: a peer, or the way to it, keeps the end waiting."""
        if self._settled and not self._settles_slowly:
            self._settles_slowly = True
        elif self._settles_slowly and self._progress < _UNFINISHED:
            self._report({"stage": "settling", "progress": _UNFINISHED})

    def _look(self) -> None:
        """Find what the job cannot say: that it is stopped, stuck or too large."""
        if time.monotonic() < self._next_look:
            return
        self._next_look = time.monotonic() + _LOOK_SECONDS
        self._say_that_it_settles()
        if self._process_has_ended():
            return
        trim(self._spec.log_path, self._limits.log_bytes)
        self._measure()
        party, limits = self._spec.party, self._limits
        self._stopped_looks = self._stopped_looks + 1 if vitals.is_stopped(self._job.pid) else 0
        if self._stopped_looks == _STOPPED_LOOKS:
            message = f"The job process of {party} was stopped from outside (SIGSTOP)."
            self._fail(JobProcessDied(message, party=party), may_be_consequence=False)
        elif time.monotonic() - self._last_heard > limits.silence_seconds:
            message = f"The job process of {party} was silent for {limits.silence_seconds:g} s."
            self._fail(JobProcessDied(message, party=party), may_be_consequence=False)
        elif limits.memory_bytes and vitals.memory_bytes(self._job.pid) > limits.memory_bytes:
            self._fail(MemoryLimitExceeded(party=party), may_be_consequence=False)

    def _measure(self) -> None:
        self._looks += 1
        if self._looks % _WEIGHING_LOOKS:
            self.usage.look()
        else:
            self.usage.weigh()

    def _job_died(self, exit_code: int | None) -> None:
        error = JobProcessDied(
            f"The job process of {self._spec.party} ended without a result ({_describe_exit(exit_code)}).",
            party=self._spec.party,
        )
        self._fail(error, exit_code in _EXITS_AFTER_PEER)

    def _fail(self, error: WorkerError, may_be_consequence: bool) -> None:
        """End the execution, or wait a moment for the peer's failure that this one may come from."""
        seconds = _CAUSE_SECONDS if may_be_consequence else 0.0
        self._consequence = (error, time.monotonic() + seconds)

    def _check_clock(self) -> None:
        now, party = time.monotonic(), self._spec.party
        if self._consequence and now >= self._consequence[1]:
            self._ask_for_the_end(self._consequence[0])
        elif now >= self._deadline:
            self._ask_for_the_end(TaskTimeout(party=party))
        elif self._round_deadline is not None and now >= self._round_deadline:
            self._ask_for_the_end(
                TaskTimeout("The parties were not prepared in time.", party=party)
            )

    def _ask_for_the_end(self, error: WorkerError) -> None:
        if not self._asked:
            self._asked = True
            self._link.fail(error)


def _tellable(result: Any) -> dict[str, Any]:
    """The result, if an event can carry it: nobody may find out when the execution has succeeded."""
    if not isinstance(result, dict):
        raise ValueError("a result is an object")
    StatusEvent("", "", "", Status.SUCCESS, success(result), "", "").to_json()
    return result


def _seconds(value: Any) -> float:
    if not 0 <= float(value) < math.inf:
        raise ValueError("no time that can have passed")
    return float(value)


def _texts(value: Any) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(item, str) for item in value.values()):
        raise ValueError("not texts by their names")
    return value


def _describe_exit(code: int | None) -> str:
    if code is None:
        return "its pipe broke"
    if code < 0:
        names = {item.value: item.name for item in signal.Signals}
        return f"signal {names.get(-code, -code)}"
    return f"exit code {code}"
