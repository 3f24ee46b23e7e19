"""Celery's application for its ``-A``, and what makes one; the code is in `broker.celery_app`."""

from functools import lru_cache
from typing import Any

from celery import Celery

from secretflow_task.broker.celery_app import TASK_NAME, create_app
from secretflow_task.config.settings import Settings

__all__ = ["TASK_NAME", "create_app"]


def __getattr__(name: str) -> Any:
    """``app`` is made when it is first asked for: importing this module reads no settings."""
    if name == "app":
        return _app()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


@lru_cache(maxsize=1)
def _app() -> Celery:
    return create_app(Settings())
