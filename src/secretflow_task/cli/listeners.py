"""`sfworker listeners`, and what `sfworker doctor` says of them: who reads the stream of events."""

from __future__ import annotations

from typing import Sequence

import typer
from redis import Redis
from rich.markup import escape
from rich.table import Table

from secretflow_task.broker.connection import connect
from secretflow_task.broker.listener_groups import ListenerGroup, listener_groups, remove
from secretflow_task.cli import environment
from secretflow_task.cli.terminal import console, print_text
from secretflow_task.config.settings import Settings
from secretflow_task.contract.errors import DatabaseUnavailable
from secretflow_task.listener.database import Database
from secretflow_task.listener.group import group_of
from secretflow_task.utils.spelling import did_you_mean

_BEHIND_SECONDS = 120.0  # as the alert SfworkerListenerBehind
_MEND = (
    "No listener reads {name}: start `sfworker listen` on its database (its log says what it waits "
    "for), or, if that database is gone, `sfworker listeners --remove {name}`."
)


def print_groups() -> None:
    """Print the group of each database: who reads for it, and how far behind it is."""
    settings = environment.settings()
    with connect(settings) as redis:
        groups = listener_groups(redis)
    if not groups:
        print_text("No database has been written from this Redis.")
        return
    own = _own_group(settings)
    table = Table("group", "listeners", "in hand", "behind")
    table.columns[0].overflow = "fold"
    for group in groups:
        names = ", ".join(group.readers) or "none"
        name = escape(_marked(group, own))
        table.add_row(name, escape(names), str(group.pending), _behind(group))
    console.print(table)


def remove_group(name: str) -> None:
    """Remove a group that nobody reads.

    Raises:
        typer.BadParameter: there is no such group, or a listener reads it.
    """
    with connect(environment.settings()) as redis:
        groups = {group.name: group for group in listener_groups(redis)}
        if name not in groups:
            guess = did_you_mean(name, groups) or "; `sfworker listeners` lists them."
            raise typer.BadParameter(f"there is no group {name!r}{guess}", param_hint="--remove")
        if groups[name].readers:
            names = ", ".join(groups[name].readers)
            raise typer.BadParameter(
                f"{names} reads it: stop that listener first.", param_hint="--remove"
            )
        remove(redis, name)
    print_text(f"Removed {name}. A listener on its database would read from the start.")


def state_and_advice(redis: Redis, settings: Settings) -> tuple[str, str]:
    """How the listeners on a Redis are, and what to do about those that are missing.

    Raises:
        redis.RedisError: Redis is away.
    """
    groups = listener_groups(redis)
    own = _own_group(settings)
    lines = [f"{_marked(group, own)}: {_state(group)}" for group in groups]
    mend = [_MEND.format(name=group.name) for group in _left_alone(groups)]
    return "\n".join(lines) or "none has run", "\n".join(mend)


def _left_alone(groups: Sequence[ListenerGroup]) -> list[ListenerGroup]:
    late = [group for group in groups if group.lag_seconds > _BEHIND_SECONDS]
    return [group for group in late if not group.readers]


def _state(group: ListenerGroup) -> str:
    readers = ", ".join(group.readers) or "no listener"
    return f"{readers}, {group.pending} in hand, {_behind(group)}"


def _behind(group: ListenerGroup) -> str:
    if not group.lag_seconds:
        return "all written"
    return f"{group.lag_seconds:.0f} s behind"


def _marked(group: ListenerGroup, own: str | None) -> str:
    if group.name == own:
        return f"{group.name} (of this database)"
    return group.name


def _own_group(settings: Settings) -> str | None:
    """The group of the database of the settings; None where there is none."""
    try:
        with Database.of(settings, read_only=True) as database:
            return group_of(database)
    except DatabaseUnavailable:
        return None
