"""`sfworker rejected`: what lay in the queues and is no request."""

from __future__ import annotations

from rich.markup import escape
from rich.table import Table

from secretflow_task.broker.connection import connect
from secretflow_task.broker.quarantine import Rejected, delete, rejected
from secretflow_task.cli import environment
from secretflow_task.cli.terminal import console, print_text
from secretflow_task.contract.errors import UnknownExecution


def print_rejected(name: str | None, remove: bool) -> None:
    """List what the quarantines hold, or show or delete one entry.

    Args:
        name: of the entry; None for all.
        remove: delete instead of showing.

    Raises:
        UnknownExecution: there is no such entry.
        redis.RedisError: Redis cannot be reached.
    """
    settings = environment.settings()
    with connect(settings) as redis:
        entries = list(rejected(redis, settings.queues))
        if name is not None:
            entries = [entry for entry in entries if entry.name == name]
            if not entries:
                raise UnknownExecution(
                    "The quarantine has no such entry.", hint="`sfworker rejected` lists all."
                )
        if remove:
            delete(redis, entries)
            print_text(f"Deleted: {len(entries)}.")
        elif name is not None:
            _show(entries[0])
        else:
            _list(entries)


def _list(entries: list[Rejected]) -> None:
    if not entries:
        print_text("The quarantine is empty.")
        return
    table = Table("entry", "when (UTC)", "bytes", "why")
    for entry in entries:
        when = entry.rejected_at.strftime("%Y-%m-%d %H:%M:%S")
        table.add_row(escape(entry.name), when, f"{entry.size:,}", escape(entry.sentence))
    console.print(table)


def _show(entry: Rejected) -> None:
    print_text(f"{entry.sentence} {entry.size:,} bytes, SHA-1 {entry.digest}, it begins with:")
    print_text(_printable(entry.head))
    if entry.left_out:
        print_text(f"... {entry.left_out:,} bytes that were not kept, and it ends with:")
    if entry.tail:
        print_text(_printable(entry.tail))


def _printable(text: str) -> str:
    """A text that cannot steer the terminal."""
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode()
        for letter in text
    )
