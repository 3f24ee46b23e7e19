"""How an execution ended at one party."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Mapping

from secretflow_task.contract.errors import WorkerError
from secretflow_task.contract.messages import Status
from secretflow_task.node.job.usage import Usage

NODE_LOG = "Read the log of the node; `sfworker doctor` checks its folders, ports and disk."


@dataclass(frozen=True)
class Ending:
    """How an execution ended at one party.

    Attributes:
        failure: None for success.
        data: of the terminal event.
        usage: of its job; None when there was none.
    """

    failure: WorkerError | None
    data: Mapping[str, Any]
    usage: Usage | None = None

    @staticmethod
    def of(failure: WorkerError, progress: float = 0.0, usage: Usage | None = None) -> Ending:
        """The ending in a failure."""
        timings = dict(usage.stages) if usage else {}
        return Ending(
            failure, {"progress": progress, "timings": timings, **failure.as_event_data()}, usage
        )

    @property
    def status(self) -> Status:
        """The terminal status."""
        return Status.FAILURE if self.failure else Status.SUCCESS


def success(result: Mapping[str, Any]) -> dict[str, Any]:
    """The ``data`` of a SUCCESS event."""
    return {"stage": "SUCCESS", "progress": 1.0, "result": result}
