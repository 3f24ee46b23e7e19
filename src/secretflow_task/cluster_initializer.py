"""The cluster of one execution; the code is in `engine.cluster`."""

from secretflow_task.engine.cluster import cluster

__all__ = ["cluster"]
