"""What a person sees of an execution: a bar per party while it runs, a table when it has ended."""

from __future__ import annotations

import json
import sys
from typing import Any, Iterable, Mapping

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from secretflow_task.cli.exits import Exit
from secretflow_task.cli.terminal import console, print_text
from secretflow_task.contract.messages import Status, StatusEvent
from secretflow_task.contract.task_config import STEP_PREFIX

_STYLES = {Status.RUNNING: "none", Status.SUCCESS: "green", Status.FAILURE: "red"}
_OF_THE_WHOLE = ("truncated", "size_bytes", "sha256")
_SHOWN = 6  # of a longer list or mapping the table shows as many


class ExecutionDisplay:
    """One progress bar per party, fed with events from any thread."""

    def __init__(self, quiet: bool = False) -> None:
        self._progress = Progress(
            SpinnerColumn(finished_text=" "),
            TextColumn("{task.fields[party]:<10}", markup=False),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f}% {task.description}"),
            TimeElapsedColumn(),
            console=Console(file=sys.stderr),
            disable=quiet,
        )
        self._bars: dict[str, TaskID] = {}
        self.last: dict[str, StatusEvent] = {}

    def __enter__(self) -> ExecutionDisplay:
        self._progress.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._progress.stop()

    def show(self, event: StatusEvent) -> None:
        """Move the bar of the event's party."""
        self.last[event.party] = event
        if event.party not in self._bars:
            self._bars[event.party] = self._progress.add_task("", total=1.0, party=event.party)
        row = self._bars[event.party]
        text = escape(describe_event(event.status, event.data))
        described = f"[{_STYLES[event.status]}]{text}[/]"
        self._progress.update(row, completed=float(event.data["progress"]), description=described)
        if event.status.terminal:
            self._progress.stop_task(row)

    def ended(self, parties: Iterable[str] = ()) -> bool:
        """Whether each party that was heard of, and each of ``parties``, has ended."""
        ended = {party for party, event in self.last.items() if event.status.terminal}
        wanted = {*self.last, *parties}
        return bool(wanted) and wanted <= ended


def describe_event(status: Status, data: Mapping[str, Any]) -> str:
    """Where an execution is, in a few words."""
    if status.terminal:
        return status.value
    described = str(data.get("stage", "")).replace("_", " ")
    if "waiting_for" in data:
        described = f"waiting for {', '.join(data['waiting_for'])}"
    if "step" in data:
        described = f"{data['step']}: {described}"
    if "epochs" in data:
        described += f" {data['epoch']}/{data['epochs']}"
    return described


def print_outcome(last: Mapping[str, StatusEvent]) -> Exit:
    """Print the parties' results, or why there are none; returns the exit code."""
    failed = [event for event in last.values() if event.status is Status.FAILURE]
    if failed:
        data = failed[0].data
        print_text(f"{data['error_code']}: {data['error']}")
        print_text(f"  {data['hint']}")
        return Exit.FAILED
    for party, event in sorted(last.items()):
        console.print(result_table(party, event.data["result"]))
        print_where_the_rest_is(event.execution_id, party, event.data["result"])
    return Exit.OK


def print_where_the_rest_is(execution_id: str, party: str, result: Mapping[str, Any]) -> None:
    """Say of a result of which the event has only the head where the whole is."""
    if result.get("truncated"):
        size = f"{result['size_bytes'] / 1e6:.1f} MB"
        print_text(f"{party} found {size}; these are the first rows. At its node the whole:")
        print_text(f"  sfworker result {execution_id} --party {party}")


def print_json(last: Mapping[str, StatusEvent]) -> Exit:
    """Print the terminal events as one JSON object by party; returns the exit code."""
    events = {party: json.loads(event.to_json()) for party, event in sorted(last.items())}
    print(json.dumps(events, indent=2))
    if any(event.status is Status.FAILURE for event in last.values()):
        return Exit.FAILED
    return Exit.OK


def result_table(party: str, result: Mapping[str, Any]) -> Table:
    """The figures of a result."""
    table = Table(title=party, title_justify="left", show_header=False, title_style="bold")
    table.add_column(style="cyan", no_wrap=True)
    table.add_column(overflow="fold")
    shown = {name: value for name, value in result.items() if name not in _OF_THE_WHOLE}
    for name, value in _rows(shown if "truncated" in result else result):
        table.add_row(escape(name), escape(value))
    return table


def _rows(result: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, str]]:
    """One row per figure; steps and timings are unfolded, a workflow's own files left out."""
    for name, value in result.items():
        if name == "steps":
            for step, own in value.items():
                yield from _rows(own, f"{step}: ")
        elif name == "timings":
            yield from _rows(value, "seconds for ")
        elif isinstance(value, list) and value and isinstance(value[0], Mapping):
            yield f"{prefix}{name}", f"{len(value)} rows (see --json)"
        elif value not in ([], {}, None) and STEP_PREFIX not in str(value):
            yield f"{prefix}{name}", _cell(value)


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, Mapping):
        return _shortened([f"{key}={_cell(item)}" for key, item in value.items()])
    if isinstance(value, list):
        return _shortened([_item(item) for item in value])
    return str(value)


def _item(value: Any) -> str:
    if isinstance(value, list):
        return f"[{_cell(value)}]"
    return _cell(value)


def _shortened(parts: list[str]) -> str:
    shown = ", ".join(parts[:_SHOWN])
    if len(parts) > _SHOWN:
        shown += f", ... ({len(parts)} in all, see --json)"
    return shown
