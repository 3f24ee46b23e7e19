"""What the tests of requests and plans share."""

from __future__ import annotations

from typing import Callable

import pytest

from secretflow_task.contract.plan import Plan
from secretflow_task.contract.requests import TaskRequest


@pytest.fixture
def plan_of(request_of: Callable[..., TaskRequest]) -> Callable[..., Plan]:
    """Makes the `Plan` of a ``task_config``."""
    return lambda task_config, **parts: Plan.of(request_of(task_config, **parts))
