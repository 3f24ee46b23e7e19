"""The Celery task; the code is in `broker.celery_tasks`."""

from secretflow_task.broker.celery_tasks import ExecutionFailed, NodeStopping, register

__all__ = ["ExecutionFailed", "NodeStopping", "register"]
