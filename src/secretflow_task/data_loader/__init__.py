"""Tables of one party."""

from secretflow_task.data_loader.table import Table

__all__ = ["Table"]
