"""Looks at a job from outside, for what it cannot say itself: that it is stopped, stuck or too
large.
"""

from __future__ import annotations

import time

from secretflow_task.contract.errors import JobProcessDied, MemoryLimitExceeded, WorkerError
from secretflow_task.node.job import vitals
from secretflow_task.node.job.limits import Limits
from secretflow_task.node.job.usage import Usage

_STOPPED_LOOKS = 2  # in a row: a debugger, or a moment's SIGSTOP, is no end
_WEIGHING_LOOKS = 10


class Checkup:
    """Looks at one job, once a second or so, and notes its `Usage`."""

    def __init__(self, pid: int, party: str, limits: Limits, usage: Usage) -> None:
        self._pid = pid
        self._party = party
        self._limits = limits
        self._usage = usage
        self._looks = 0
        self._stopped_looks = 0

    def problem(self, last_heard: float) -> WorkerError | None:
        """Why the job must end, if it must; ``last_heard`` is when it last said something."""
        self._measure()
        if self._is_stopped():
            message = f"The job process of {self._party} was stopped from outside (SIGSTOP)."
            return JobProcessDied(message, party=self._party)
        silence_seconds = self._limits.silence_seconds
        if time.monotonic() - last_heard > silence_seconds:
            message = f"The job process of {self._party} was silent for {silence_seconds:g} s."
            return JobProcessDied(message, party=self._party)
        if self._is_too_large():
            return MemoryLimitExceeded(party=self._party)
        return None

    def _measure(self) -> None:
        """Weighing costs some milliseconds: without a limit of memory it is done now and then."""
        self._looks += 1
        if self._limits.memory_bytes or self._looks % _WEIGHING_LOOKS == 0:
            self._usage.weigh()
        else:
            self._usage.look()

    def _is_stopped(self) -> bool:
        if vitals.is_stopped(self._pid):
            self._stopped_looks += 1
        else:
            self._stopped_looks = 0
        return self._stopped_looks == _STOPPED_LOOKS

    def _is_too_large(self) -> bool:
        limit = self._limits.memory_bytes
        if not limit:
            return False
        return self._usage.memory_bytes + vitals.others_bytes(self._pid) > limit
