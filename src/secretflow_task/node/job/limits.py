"""What a job may take, and by when it must have come how far."""

from __future__ import annotations

import time
from dataclasses import dataclass

from secretflow_task.contract.errors import TaskTimeout


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


class JobClock:
    """When a job that has started just now must be prepared, and at its end.

    Attributes:
        end: in seconds of `time.monotonic`.
    """

    def __init__(self, limits: Limits, party: str) -> None:
        now = time.monotonic()
        self._party = party
        self._preparation: float | None = now + limits.prepare_seconds
        self.end = now + limits.job_seconds

    def prepared(self) -> None:
        """Only the end counts now: the peers have deadlines of their own, and may need long."""
        self._preparation = None

    def next(self) -> float:
        """The next one."""
        if self._preparation is None:
            return self.end
        return min(self.end, self._preparation)

    def missed(self) -> TaskTimeout | None:
        """The failure of a job that has missed one."""
        now = time.monotonic()
        if now >= self.end:
            return TaskTimeout(party=self._party)
        if self._preparation is not None and now >= self._preparation:
            return TaskTimeout("The parties were not prepared in time.", party=self._party)
        return None
