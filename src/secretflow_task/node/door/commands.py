"""What a node does for its operators, by the names that they use."""

from __future__ import annotations

from secretflow_task.node.controls import Controls
from secretflow_task.node.door.server import Command
from secretflow_task.node.node import Node
from secretflow_task.node.queue_watch import QueueWatch


def commands_of(node: Node, controls: Controls, watch: QueueWatch) -> dict[str, Command]:
    """The commands of a running node; `Door` checks their arguments by their annotations."""
    return {
        "health": node.describe,
        "pause": controls.pause,
        "resume": controls.resume,
        "drain": controls.drain,
        "reload": controls.reload,
        "renew": controls.renew,
        "queue": watch.describe,
        "result": node.result,
    }
