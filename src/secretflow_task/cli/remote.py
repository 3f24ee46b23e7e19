"""`sfworker submit` and `sfworker watch`: requests through Redis."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import Mapping

from redis.exceptions import NoPermissionError

from secretflow_task.cli import environment
from secretflow_task.cli.display import (
    ExecutionDisplay,
    describe_event,
    print_json,
    print_outcome,
)
from secretflow_task.cli.exits import Exit, complain
from secretflow_task.cli.terminal import console, print_text
from secretflow_task.client import Client
from secretflow_task.contract.errors import DuplicateExecution
from secretflow_task.contract.messages import StatusEvent
from secretflow_task.contract.plan import Plan
from secretflow_task.contract.requests import TaskRequest

_PATIENCE_SECONDS = 10.0
_AGAIN_SECONDS = 2.0  # between two looks at the queue
_SILENCE = f"There was no news of it for {_PATIENCE_SECONDS:g} s; still waiting."
_SILENCE_HINT = (
    "All nodes are busy, or none takes requests from this queue: "
    "`sfworker doctor` names those that run."
)


def submit_and_follow(
    request: TaskRequest, queue: str | None, follow: bool, timeout_seconds: float, as_json: bool
) -> Exit:
    """Send a request, unless its execution was sent before; returns the exit code.

    Raises:
        DuplicateExecution: it was; the message says what became of it.
    """
    plan = Plan.of(request)  # what the node would refuse is refused here, at once
    with Client(environment.settings()) as client:
        with suppress(NoPermissionError):  # a user who may send and read events, and no more
            _refuse_a_duplicate(client, plan, queue)
        since = client.position()
        client.submit(request, queue)
        _warn_if_unreplicated(client)
    if not as_json:
        print_text(f"Sent as {request.execution_id}.")
    if not follow:
        return Exit.OK
    return follow_execution(request.execution_id, since, timeout_seconds, as_json, queue)


def _refuse_a_duplicate(client: Client, plan: Plan, queue: str | None) -> None:
    execution_id = plan.request.execution_id
    known = client.newest(execution_id, plan.parties)
    hosted = client.hosted(plan.parties, queue)
    if hosted is None:  # no node says for whom it would be
        duplicate = len(known) == len(plan.parties)
    else:
        duplicate = not hosted.isdisjoint(known)
    if duplicate:
        stands = [f"{party}: {_standing(event)}" for party, event in known.items()]
        raise DuplicateExecution(
            f"{execution_id} was sent before ({'; '.join(stands)}), and an id is run once.",
            hint=f"`sfworker watch {execution_id}` shows it; "
            "to run the request again, give another --id.",
        )
    place = client.place(execution_id, queue)
    if place:
        raise DuplicateExecution(
            f"{execution_id} was sent before, and waits in the queue in place {place}.",
            hint=f"`sfworker watch {execution_id}` follows it, `sfworker queue` shows the queue.",
        )


def _standing(event: StatusEvent | None) -> str:
    """How an execution stands at a party, by its newest event; None where that is gone."""
    if event is None:
        return "no longer on the stream"
    if not event.status.terminal:
        return f"RUNNING, {describe_event(event.status, event.data)}"
    code = event.data.get("error_code")
    return f"{event.status.value}, {code}" if code else event.status.value


def follow_execution(
    execution_id: str,
    since: str,
    timeout_seconds: float,
    as_json: bool,
    queue: str | None = None,
) -> Exit:
    """Show an execution until it has ended at every party that reports; returns the exit code.

    Args:
        queue: where it may wait; by default in the first of the settings.
    """
    complain_at = time.monotonic() + _PATIENCE_SECONDS
    told: set[str] = set()
    with Client(environment.settings()) as client, ExecutionDisplay(quiet=as_json) as display:
        for event in client.events(execution_id, since, timeout_seconds):
            if event is not None:
                display.show(event)
            elif display.ended():
                break
            elif time.monotonic() > complain_at:
                if display.last:
                    _say_who_is_missing(display.last, told)
                else:
                    _say_where_it_is(_place(client, execution_id, queue), told)
                complain_at = time.monotonic() + _AGAIN_SECONDS
    return print_json(display.last) if as_json else print_outcome(display.last)


def _place(client: Client, execution_id: str, queue: str | None) -> int | None:
    try:
        return client.place(execution_id, queue)
    except NoPermissionError:
        return None


def _say_where_it_is(place: int | None, told: set[str]) -> None:
    """Say on standard error in which place of the queue it waits, whenever that has changed."""
    if place is None and not told:
        told.add("NothingHeard")
        complain("NothingHeard", _SILENCE, _SILENCE_HINT)
    elif place is not None and f"Queued {place}" not in told:
        told.add(f"Queued {place}")
        complain("Queued", f"It waits in the queue, in place {place}.")


def _say_who_is_missing(last: Mapping[str, StatusEvent], told: set[str]) -> None:
    """Say on standard error for which other parties it waits, once."""
    for event in last.values():
        others = event.data.get("waiting_for")
        if others and "WaitingForPeer" not in told:
            told.add("WaitingForPeer")
            complain(
                "WaitingForPeer",
                f"{event.party} waits for {', '.join(others)}, whose node has not joined yet.",
                f"Was the request sent there too, with --id {event.execution_id}? "
                f"`sfworker doctor --peer {others[0]}` tries the way.",
            )


def _warn_if_unreplicated(client: Client) -> None:
    if client.replicated is False:
        complain(
            "NotReplicated",
            "Redis has it, but no replica has confirmed it within a second.",
            "If Redis fails over now it may be lost: look later with `sfworker watch ID`.",
        )


def cancel_execution(execution_id: str) -> Exit:
    """Cancel an execution wherever it is; returns the exit code."""
    with Client(environment.settings()) as client:
        was_running = client.cancel(execution_id)
        _warn_if_unreplicated(client)
    if was_running:
        console.print("It was running and is being ended.")
    else:
        console.print(
            "No node is running it. If it waits in a queue, or comes later, it is cancelled."
        )
    return Exit.OK
