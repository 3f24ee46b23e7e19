"""What a job says on its pipe, from its first word to its result or its failure, and its ``go``."""

from __future__ import annotations

import math
import signal
import time
from dataclasses import dataclass
from typing import Any, Mapping, Protocol

from secretflow_task.contract.errors import JobProcessDied, WorkerError
from secretflow_task.contract.messages import Kind, PipeMessage, Status, StatusEvent
from secretflow_task.node.job.ending import success
from secretflow_task.node.job.limits import JobClock
from secretflow_task.node.job.process import JobProcess
from secretflow_task.node.job.usage import Usage
from secretflow_task.node.link.protocol import Facts, PeerLink
from secretflow_task.utils.log import get_logger

log = get_logger()

# How long a failure that looks like a consequence of a peer's failure waits for that one to be
# heard.
_CAUSE_SECONDS = 3.0
# How long a process whose pipe broke may take to end.
_EXIT_SECONDS = 1.0
# Messages of a job that are read before the clock and the peers have their turn.
_MESSAGES_AT_ONCE = 100
_EVENTS_PER_SECOND = 200  # of one job; what comes beyond that is progress that nobody could read
_MOST_STAGES = 1000  # of one job: more than any workflow has, and no more lines in the log
UNFINISHED = 0.999  # where the progress of what has not succeeded ends
# Exits by which SecretFlow ends its own process when a peer is gone.
_EXITS_AFTER_PEER = frozenset({255, -signal.SIGABRT, -signal.SIGSEGV, -signal.SIGPIPE})
_GARBLED = (EOFError, OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError)


class Listener(Protocol):
    """Who is told how a job goes."""

    def report(self, data: Mapping[str, Any]) -> None:
        """Publish a RUNNING event."""


@dataclass(frozen=True)
class Failure:
    """In what a job has failed.

    Attributes:
        counts_at: until then the peer's failure may be heard that this one may come from.
    """

    error: WorkerError
    counts_at: float


class Dialogue:
    """Hears one job, and hands on what it says.

    Attributes:
        last_heard: when it said something, in seconds of `time.monotonic`.
        finished_at: when it had its result.
        progress: of the last event; it never falls.
        result: None until it has one.
        outputs: ``{staged: target}``.
        failure: None unless it has failed; nothing is heard after that.
    """

    def __init__(
        self,
        party: str,
        job: JobProcess,
        link: PeerLink,
        listener: Listener,
        usage: Usage,
        clock: JobClock,
    ) -> None:
        self._party = party
        self._job = job
        self._link = link
        self._listener = listener
        self._usage = usage
        self._clock = clock
        self.last_heard = self.finished_at = time.monotonic()
        self.progress = 0.0
        self.result: Mapping[str, Any] | None = None
        self.outputs: Mapping[str, str] = {}
        self.failure: Failure | None = None
        self._waits_for_go = False
        self._second_began = self.last_heard
        self._events_in_second = 0
        self._stages = 0

    @property
    def over(self) -> bool:
        """Whether nothing more is heard: the job has its result, or has failed."""
        return self.failure is not None or self.result is not None

    def hear(self) -> None:
        """Read what the job said; a process that ended without a result is a failure."""
        if self.over:
            return
        ended = self._job.exit_code() is not None  # asked first, so that its last words count
        try:
            if not self._read():
                return
        except _GARBLED:
            # For its exit code; alive or not, nothing that it says can be believed any more.
            self._job.wait(_EXIT_SECONDS)
            ended = True
        if ended and not self.over:
            self._died(self._job.exit_code())

    def answer(self) -> None:
        """Say ``go`` when every party is prepared."""
        if not self._waits_for_go:
            return
        facts = self._link.agreed()
        if facts is not None:
            self._waits_for_go = False
            self._say_go(facts)

    def fail(self, error: WorkerError, may_be_consequence: bool = False) -> None:
        """Hear no more, after a moment for a peer's failure that may have caused this one."""
        wait_seconds = _CAUSE_SECONDS if may_be_consequence else 0.0
        self.failure = Failure(error, time.monotonic() + wait_seconds)

    def report(self, data: Mapping[str, Any]) -> None:
        """Publish progress, unless too much came within a second."""
        told = float(data.get("progress", 0.0))
        self.progress = min(max(self.progress, told), UNFINISHED)
        if self.last_heard >= self._second_began + 1.0:
            self._second_began, self._events_in_second = self.last_heard, 0
        self._events_in_second += 1
        if self._events_in_second <= _EVENTS_PER_SECOND:
            self._listener.report({**data, "progress": self.progress})

    def _read(self) -> bool:
        """Handle what has come; False when there may be more, though others have their turn now."""
        for _ in range(_MESSAGES_AT_ONCE):
            message = self._job.receive()
            if message is None:
                return True
            self._handle(PipeMessage.from_bytes(message))
            if self.over:
                return True
        return False

    def _handle(self, message: PipeMessage) -> None:
        body = message.body
        self.last_heard = time.monotonic()
        if message.kind is Kind.EVENT:
            self.report(body)
        elif message.kind is Kind.STAGE:
            self._note_stage(str(body["stage"])[:64], _seconds(body["seconds"]))
        elif message.kind is Kind.PREPARED:
            self._waits_for_go = True
            self._clock.prepared()
            self._link.offer(body)
        elif message.kind is Kind.RESULT:
            self.outputs = _texts(body["outputs"])
            self.result = _tellable(body["result"])
            self._link.finish()
            self.finished_at = self.last_heard
            self._usage.conclude()  # the job waits for its peers now, and leaves then
        elif message.kind in (Kind.REFUSED, Kind.FAILED):
            self._usage.conclude()
            self.fail(WorkerError.from_dict(body["error"]), bool(body["from_peer"]))

    def _note_stage(self, stage: str, seconds: float) -> None:
        """Log a stage that has ended, and add it up; what comes beyond a number fills neither."""
        self._stages += 1
        if self._stages <= _MOST_STAGES:
            self._usage.note(stage, seconds)
            log.info("A stage has ended.", action="stage_ended", stage=stage, seconds=seconds)

    def _say_go(self, facts: Facts) -> None:
        try:
            self._job.connection.send_bytes(PipeMessage(Kind.GO, facts).to_bytes())
        except OSError:
            log.debug("The job process exited before it was told to go.", action="go_not_heard")

    def _died(self, exit_code: int | None) -> None:
        how = _describe_exit(exit_code)
        message = f"The job process of {self._party} ended without a result ({how})."
        error = JobProcessDied(message, party=self._party)
        self.fail(error, may_be_consequence=exit_code in _EXITS_AFTER_PEER)


def _tellable(result: Any) -> dict[str, Any]:
    """The result, if an event can carry it: after a success it is too late to find out."""
    if not isinstance(result, dict):
        raise ValueError("a result is an object")
    StatusEvent("", "", "", Status.SUCCESS, success(result), "", "").to_json()
    return result


def _seconds(value: Any) -> float:
    seconds = float(value)
    if not 0 <= seconds < math.inf:
        raise ValueError("no time that can have passed")
    return seconds


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
