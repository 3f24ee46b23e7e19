"""One execution at one party; the code is in `engine.executor`."""

from secretflow_task.engine.executor import execute_secretflow_task

__all__ = ["execute_secretflow_task"]
