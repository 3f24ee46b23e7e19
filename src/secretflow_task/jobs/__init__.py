"""The task types; importing this package registers them all."""

from secretflow_task.jobs import (
    evaluation_task,
    ml_task,
    preprocessing_task,
    psi_task,
    stats_task,
    woe_task,
    workflow_task,
)

__all__ = [
    "evaluation_task",
    "ml_task",
    "preprocessing_task",
    "psi_task",
    "stats_task",
    "woe_task",
    "workflow_task",
]
