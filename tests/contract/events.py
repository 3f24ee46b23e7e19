"""Events for the contract tests."""

from __future__ import annotations

from secretflow_task.contract.messages import Status, StatusEvent
from secretflow_task.contract.requests import TaskRequest


def request(execution_id: str = "e-1", **ids: str) -> TaskRequest:
    """A request of that execution."""
    return TaskRequest(execution_id, "r-1", {"task_config": {"task_type": "psi"}}, **ids)


def event(
    status: Status = Status.RUNNING, party: str = "alice", execution_id: str = "e-1", **data: object
) -> StatusEvent:
    """An event that has no number yet."""
    return StatusEvent(
        execution_id, "r-1", party, status, data, "node-1", "tasks.secretflow.execute_task"
    )
