"""`sfworker queue`: the requests that no node has taken yet."""

from __future__ import annotations

import json
from typing import Any, Iterable

from redis.exceptions import (  # pylint: disable=redefined-builtin
    AuthenticationError,
    ConnectionError,
)
from rich.markup import escape
from rich.table import Table

from secretflow_task.broker.queue import MOST
from secretflow_task.cli import environment
from secretflow_task.cli.terminal import console
from secretflow_task.client import Client
from secretflow_task.node.door.client import ask


def print_queue(queue: str | None, as_json: bool) -> None:
    """Print the requests of a queue, the next to be taken first.

    The node of this machine is asked by its door when Redis cannot be reached from here.

    Raises:
        NodeUnreachable: neither answers.
    """
    settings = environment.settings()
    name = queue or settings.queues[0]
    try:
        with Client(settings) as client:
            rows = [each.describe() for each in client.waiting(name)]
    except (ConnectionError, AuthenticationError):
        rows = ask(settings.state_dir, "queue", queue=name)["waiting"]
    if as_json:
        print(json.dumps(rows, indent=2))
        return
    console.print(_table(rows) if rows else f"Nothing waits in {name}.")
    if len(rows) == MOST:
        console.print(f"These are the first {MOST}.")


def _table(rows: Iterable[dict[str, Any]]) -> Table:
    table = Table("place", "execution", "task type", "waits (s)", "bytes")
    table.columns[1].overflow = "fold"
    for row in rows:
        seconds = "?" if row["seconds"] is None else f"{row['seconds']:.0f}"
        names = (row["execution_id"] or "(cannot be read here)", row["task_type"] or "")
        table.add_row(str(row["place"]), *map(escape, names), seconds, str(row["size_bytes"]))
    return table
