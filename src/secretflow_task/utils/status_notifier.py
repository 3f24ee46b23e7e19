"""Status events; the code is in `engine.status` and `node.publisher`."""

from secretflow_task.engine.status import _publish_status, bind_status_sink
from secretflow_task.node.publisher import Publisher

__all__ = ["Publisher", "_publish_status", "bind_status_sink"]
