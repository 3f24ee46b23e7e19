"""What a job takes: the seconds of its stages, its CPU time and its memory."""

from __future__ import annotations

from secretflow_task.contract.messages import Stage
from secretflow_task.node.job import vitals

PREPARE, SETTLING = "prepare", "settling"
STAGES = (PREPARE, *(stage.value for stage in Stage), SETTLING)


class Usage:
    """What one job process has taken so far, as far as it was looked at.

    Attributes:
        stages: seconds of each stage that has ended, and of each step of a workflow.
        memory_bytes: proportional set size when it was weighed last.
        peak_memory_bytes: the most that it ever was; 0 if it was never weighed.
        sampled: whether it is weighed though it may be short.
    """

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self.stages: dict[str, float] = {}
        self.cpu_seconds = 0.0
        self.memory_bytes = 0
        self.peak_memory_bytes = 0
        self.sampled = True

    def note(self, stage: str, seconds: float) -> None:
        """Add the seconds of a stage, which a workflow may pass several times."""
        self.stages[stage] = round(self.stages.get(stage, 0.0) + seconds, 3)

    def look(self) -> None:
        """Read the CPU time, which costs next to nothing."""
        self.cpu_seconds = max(self.cpu_seconds, vitals.cpu_seconds(self._pid))

    def weigh(self) -> None:
        """Read the memory, for which the kernel walks through all pages: some milliseconds."""
        self.look()
        self.memory_bytes, since_then = vitals.weight(self._pid)
        self.peak_memory_bytes = max(self.peak_memory_bytes, self.memory_bytes + since_then)

    def conclude(self) -> None:
        """Look at the process before it leaves."""
        if self.sampled or self.peak_memory_bytes:
            self.weigh()
        else:
            self.look()
