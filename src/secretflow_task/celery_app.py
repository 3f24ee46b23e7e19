"""Celery"s ``-A`` application and its factory; the code is in `broker.celery_app`."""

from secretflow_task.broker.celery_app import TASK_NAME, create_app

__all__ = ["TASK_NAME", "create_app"]
