"""The Grafana dashboards of monitoring/, each generated from its panels; a test compares them."""

from __future__ import annotations

import json
from typing import Callable

from scripts.dashboards import node, overview, task_type

DASHBOARDS: dict[str, Callable[[], dict[str, object]]] = {
    "overview": overview.dashboard,
    "task_type": task_type.dashboard,
    "node": node.dashboard,
}


def page(name: str) -> str:
    """The file of a dashboard."""
    return json.dumps(DASHBOARDS[name](), indent=2) + "\n"
