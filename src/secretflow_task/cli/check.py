"""`sfworker check`: what a request would do, and who would learn what."""

from __future__ import annotations

from pathlib import Path
from typing import Callable

from rich.markup import escape
from rich.table import Table

from secretflow_task.cli.terminal import console
from secretflow_task.config.settings import Settings
from secretflow_task.contract.errors import PathNotAllowed
from secretflow_task.contract.paths import PathRules
from secretflow_task.contract.plan import Plan
from secretflow_task.contract.requests import TaskRequest
from secretflow_task.contract.reveals import shown
from secretflow_task.contract.task_config import Use
from secretflow_task.node.assignment import Assignment, is_for_one_node
from secretflow_task.node.link.peer.address_book import AddressBook


def print_plan(request: TaskRequest, settings: Settings) -> None:
    """Say what a request would do, and who would learn what; nothing is run.

    Raises:
        RequestError: what is wrong with it.
    """
    plan, elsewhere = Plan.of(request), list[str]()
    if settings.parties:  # as the node of these settings would run it
        knows = _address_book(settings) if is_for_one_node(request) else lambda party: True
        assignment = Assignment.of(plan, settings, knows)
        plan, elsewhere = assignment.plan, assignment.strangers
    console.print(
        f"[bold]{plan.task.task_type}[/] for {' and '.join(plan.parties)}: {plan.task.summary}"
    )
    if plan.needs:
        note = plan.protocol.note(plan.parties)
        console.print(f"Protocol {plan.protocol.name} on {plan.protocol.field}. {note or ''}")
    table = Table("party", "does", "path", "here")
    for use in plan.config.inputs():
        there = "" if use.party in elsewhere else _state(use, settings, "[yellow]missing[/]")
        table.add_row(use.party, f"reads {use.purpose}", escape(use.path), there)
    for use in plan.config.outputs() + plan.config.models():
        there = "" if use.party in elsewhere else _state(use, settings, "not yet")
        table.add_row(use.party, use.purpose.replace("_", " "), escape(use.path), there)
    console.print(table)
    _print_reveals(plan)


def _address_book(settings: Settings) -> Callable[[str], bool]:
    """Whether a party is in the address book; none is where there is no book."""
    peers = AddressBook.read(settings.peers_file).peers if settings.peers_file else {}
    return lambda party: party in peers


def _print_reveals(plan: Plan) -> None:
    reveals = shown(plan.config.reveals(), plan.parties)
    if not reveals:
        console.print("No party learns anything about another's rows.")
        return
    table = Table("party", "learns")
    for who, what in reveals:
        table.add_row(who, escape(what))
    console.print(table)


def _state(use: Use, settings: Settings, otherwise: str) -> str:
    """Whether a path lies in the allowed folders here, and exists; ``otherwise`` if it does not."""
    roots = tuple(Path(root) for root in settings.allowed_roots)
    try:
        path = PathRules(use.party, settings.data_root.absolute(), roots).resolve(
            use.path, use.purpose
        )
    except PathNotAllowed:
        return "[red]not in an allowed folder[/]"
    return "exists" if path.exists() else otherwise
