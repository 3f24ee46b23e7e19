"""`sfworker result`: what an execution found, whole, also where its event has only the head."""

from __future__ import annotations

import json
import sys

from secretflow_task.cli import environment
from secretflow_task.cli.display import print_outcome
from secretflow_task.cli.exits import Exit
from secretflow_task.client import Client
from secretflow_task.config.settings import Settings
from secretflow_task.contract.errors import ResultNotHere, UnknownExecution
from secretflow_task.contract.messages import Status, StatusEvent, json_text
from secretflow_task.node.store.reader import StateFolder


def print_result(execution_id: str, party: str | None) -> Exit:
    """Print a party's result as JSON, or those of all parties here by party; returns the exit code.

    One that is kept in a file is printed as it is there, so that its digest fits.

    Raises:
        ResultNotHere: the event has the head, and the file is not here.
        UnknownExecution: nothing is known of the execution, or it has not ended.
    """
    settings = environment.settings()
    folder = StateFolder.holding(execution_id, settings.state_dir)
    wanted = {party} if party else {*folder.statuses(execution_id), *settings.parties}
    found = {
        name: path.read_bytes()
        for name, path in folder.results(execution_id).items()
        if party in (None, name)
    }
    failed: dict[str, StatusEvent] = {}
    for name, event in _told(settings, execution_id, wanted - found.keys()).items():
        if event.status is Status.FAILURE:
            failed[name] = event
        else:
            found[name] = _whole(event)
    if failed:
        return print_outcome(failed)
    if not found:
        raise UnknownExecution(f"No result of {execution_id} is known here.")
    _print(found)
    return Exit.OK


def _told(settings: Settings, execution_id: str, parties: set[str]) -> dict[str, StatusEvent]:
    """The terminal events of these parties that the stream still has."""
    if not parties:
        return {}
    with Client(settings) as client:
        newest = client.newest(execution_id, sorted(parties))
    return {name: event for name, event in newest.items() if event and event.status.terminal}


def _whole(event: StatusEvent) -> bytes:
    result = event.data["result"]
    if result.get("truncated"):
        raise ResultNotHere(
            f"The whole result of {event.party} is kept by its node, {event.worker_container}, "
            "and is not in this state folder."
        )
    return json_text(result).encode()


def _print(found: dict[str, bytes]) -> None:
    if len(found) > 1:
        print(json.dumps({name: json.loads(found[name]) for name in sorted(found)}, indent=2))
        return
    (content,) = found.values()
    sys.stdout.buffer.write(content)
    if sys.stdout.isatty():
        print()
