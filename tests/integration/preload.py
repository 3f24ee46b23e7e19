"""What the template of the integration tests preloads: what every template does, probes, and a listener."""

import os
from typing import Any

import secretflow_task.template_process  # noqa: F401  # pylint: disable=unused-import
from secretflow.utils import secure_pickle

from secretflow_task.task_dispatcher import TaskDispatcher
from tests.integration.probes import TASKS

TaskDispatcher.TASK_REGISTRY.update(TASKS)
_loads = secure_pickle.loads


def _loads_and_tells(*arguments: Any, **keywords: Any) -> Any:
    """Write every message of a peer to the job's log, where tests look for what a party must not learn."""
    message = _loads(*arguments, **keywords)
    os.write(1, f"RECEIVED {message!r}\n".encode())  # at once: several threads receive
    return message


secure_pickle.loads = _loads_and_tells
