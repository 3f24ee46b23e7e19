"""`sfworker queue`: the requests that no node has taken yet."""

from __future__ import annotations

import json
import time
from typing import Any, Iterable

from rich.markup import escape
from rich.table import Table

from secretflow_task.broker.queue import MOST, Waiting
from secretflow_task.cli import environment
from secretflow_task.cli.terminal import console
from secretflow_task.client import Client


def print_queue(queue: str | None, as_json: bool) -> None:
    """Print the requests of a queue, the next to be taken first."""
    settings = environment.settings()
    name = queue or settings.queues[0]
    with Client(settings) as client:
        waiting = client.waiting(name)
    rows = [_row(each) for each in waiting]
    if as_json:
        print(json.dumps(rows, indent=2))
        return
    console.print(_table(rows) if rows else f"Nothing waits in {name}.")
    if len(waiting) == MOST:
        console.print(f"These are the first {MOST}.")


def _row(waiting: Waiting) -> dict[str, Any]:
    request = waiting.request
    seconds = None
    if waiting.sent_at is not None:
        seconds = round(max(0.0, time.time() - waiting.sent_at), 1)
    return {
        "place": waiting.place,
        "execution_id": waiting.execution_id,
        "task_request_id": request and request.task_request_id,
        "task_type": request and request.task_type,
        "seconds": seconds,
        "size_bytes": waiting.size_bytes,
    }


def _table(rows: Iterable[dict[str, Any]]) -> Table:
    table = Table("place", "execution", "task type", "waits (s)", "bytes")
    table.columns[1].overflow = "fold"
    for row in rows:
        seconds = "?" if row["seconds"] is None else f"{row['seconds']:.0f}"
        names = (row["execution_id"] or "(cannot be read here)", row["task_type"] or "")
        table.add_row(str(row["place"]), *map(escape, names), seconds, str(row["size_bytes"]))
    return table
