"""How an execution ended at this node."""

from __future__ import annotations

from dataclasses import dataclass

from secretflow_task.contract.errors import WorkerError
from secretflow_task.contract.messages import Status


@dataclass(frozen=True)
class Outcome:
    """How an execution ended at this node: its status, and the first party's failure if it failed.

    Attributes:
        repeated: the request was delivered before, and this delivery ran nothing.
    """

    execution_id: str
    status: Status
    failure: WorkerError | None = None
    repeated: bool = False
