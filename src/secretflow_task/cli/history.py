"""`sfworker jobs` and `sfworker show`: what the listener has written to its database."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any, Iterable

from rich.markup import escape
from rich.table import Table

from secretflow_task.cli import environment
from secretflow_task.cli.display import describe_event, print_where_the_rest_is, result_table
from secretflow_task.cli.terminal import console, print_text
from secretflow_task.contract.messages import Status
from secretflow_task.listener.database import Database
from secretflow_task.listener.history import AtParty, Row, find, latest


def print_jobs(limit: int, as_json: bool, **wanted: str | None) -> None:
    """Print the executions that started last."""
    with Database.of(environment.settings(), read_only=True) as database:
        rows = latest(database, limit, **wanted)
    if as_json:
        print(json.dumps([_plain(row) for row in rows], indent=2))
    else:
        console.print(_jobs_table(rows) if rows else "No execution fits.")


def print_execution(execution_id: str, as_json: bool) -> None:
    """Print all that is known of one execution."""
    with Database.of(environment.settings(), read_only=True) as database:
        found = find(database, execution_id)
    if as_json:
        parties = {party: _plain(at.row) | {"events": _events(at)} for party, at in found.items()}
        print(json.dumps({"execution_id": execution_id, "parties": parties}, indent=2))
        return
    for at in found.values():
        _print_party(at)


def _events(at: AtParty) -> list[dict[str, Any]]:
    return [_plain(event) for event in at.events]


def _plain(row: Row) -> dict[str, Any]:
    return {
        name: value.isoformat() if isinstance(value, datetime) else value
        for name, value in row.items()
    }


def _jobs_table(rows: Iterable[Row]) -> Table:
    table = Table("execution", "party", "task type", "status", "at", "started (UTC)", "seconds")
    table.columns[0].overflow = "fold"
    for row in rows:
        names = (row["execution_id"], row["party"], row["task_type"], row["status"], _where(row))
        started = f"{row['first_timestamp']:%m-%d %H:%M:%S}"
        table.add_row(*map(escape, names), started, f"{_seconds(row):.1f}")
    return table


def _where(row: Row) -> str:
    """Why it ended, or how far it is."""
    if row["status"] == Status.RUNNING:
        return f"{describe_event(Status.RUNNING, row)} {row['progress']:.0%}"
    return row["error_code"] or ""


def _seconds(row: Row) -> float:
    """From its first to its newest event."""
    return float((row["last_timestamp"] - row["first_timestamp"]).total_seconds())


def _print_party(at: AtParty) -> None:
    row = at.row
    kind = row["task_type"] or row["task_name"]
    line = f"{row['party']}: {row['status']}, {kind}, on {row['worker']}, {_seconds(row):.1f} s"
    print_text(line)
    console.print(_timeline(at))
    if row["status"] == Status.FAILURE:
        where = f" (began at {row['failed_party']})" if row["failed_party"] else ""
        print_text(f"{row['error_code']}: {row['error']}{where}")
        print_text(f"  {row['hint']}")
    elif row["result"]:
        console.print(result_table("result", row["result"]))
        print_where_the_rest_is(row["execution_id"], row["party"], row["result"])


def _timeline(at: AtParty) -> Table:
    """One row per event, with the seconds since the first."""
    table = Table("seq", "seconds", "event", "progress")
    for event in at.events:
        after = (event["timestamp"] - at.row["first_timestamp"]).total_seconds()
        said = describe_event(Status(event["status"]), event["data"])
        table.add_row(
            str(event["seq"]),
            f"{after:.3f}",
            escape(said),
            f"{event['data'].get('progress', 0):.0%}",
        )
    return table
