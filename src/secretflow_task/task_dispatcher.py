"""The registry of task types; the code is in `contract.task_dispatcher`."""

from secretflow_task.contract.task_dispatcher import Task, TaskDispatcher

__all__ = ["Task", "TaskDispatcher"]
