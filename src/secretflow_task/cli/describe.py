"""`sfworker tasks` and `sfworker check`: what a task takes, and what a request would do."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Iterator

from rich.markup import escape
from rich.table import Table

from secretflow_task.cli.display import console
from secretflow_task.config.settings import Settings
from secretflow_task.contract.errors import PathNotAllowed
from secretflow_task.contract.messages import TaskRequest
from secretflow_task.contract.paths import PathRules
from secretflow_task.contract.requests import Plan
from secretflow_task.contract.task_config import Use
from secretflow_task.contract.task_dispatcher import Task, TaskDispatcher
from secretflow_task.node.assignment import Assignment


def print_tasks() -> None:
    """A table of all task types."""
    table = Table("task type", "what it does")
    for name in TaskDispatcher.list_supported_tasks():
        table.add_row(name, TaskDispatcher.get(name).summary)
    console.print(table)
    console.print(
        "sfworker tasks TYPE shows a request, --example prints one, --schema its JSON Schema."
    )


def print_task(task: Task) -> None:
    """A table of the keys of a task's ``task_config``."""
    console.print(f"[bold]{task.task_type}[/]: {task.summary}")
    table = Table("key", "type", "default", "meaning")
    for key, kind, default, meaning in keys_of(task):
        table.add_row(key, kind, default, escape(meaning))
    console.print(table)


def keys_of(task: Task) -> Iterator[tuple[str, str, str, str]]:
    """``(key, type, default, meaning)`` of every key of a task's ``task_config``, parts after their whole."""
    schema = task.config.model_json_schema() if task.config else {}
    yield from _keys(schema, schema.get("$defs", {}), "")


def _keys(
    schema: dict[str, Any], parts: dict[str, Any], prefix: str
) -> Iterator[tuple[str, str, str, str]]:
    required = schema.get("required", [])
    for name, field in schema.get("properties", {}).items():
        default = "required" if name in required else _default(field)
        yield f"{prefix}{name}", _type(field), default, field.get("description", "")
        part = _part(field)
        if part in parts:
            yield from _keys(parts[part], parts, f"{prefix}{name}.")


def _default(field: dict[str, Any]) -> str:
    value = field.get("default")
    return "" if value is None or isinstance(value, dict) else str(value)


def _part(field: dict[str, Any]) -> str:
    options = [field, *field.get("anyOf", []), field.get("items", {})]
    return next((option["$ref"].rsplit("/", 1)[1] for option in options if "$ref" in option), "")


def _type(field: dict[str, Any]) -> str:
    if "enum" in field:
        return " | ".join(map(str, field["enum"]))
    if "anyOf" in field:
        return " | ".join(
            _type(option) for option in field["anyOf"] if option.get("type") != "null"
        )
    if "patternProperties" in field:
        return "{party: " + _type(next(iter(field["patternProperties"].values()))) + "}"
    if isinstance(field.get("additionalProperties"), dict):
        return "{name: " + _type(field["additionalProperties"]) + "}"
    if field.get("type") == "array":
        return f"list of {_type(field['items'])}"
    return str(field.get("type", "object")) + _range(field)


def _range(field: dict[str, Any]) -> str:
    bounds = {
        "minimum": "from",
        "exclusiveMinimum": "above",
        "maximum": "to",
        "exclusiveMaximum": "below",
    }
    return "".join(f" {word} {field[bound]:g}" for bound, word in bounds.items() if bound in field)


def print_plan(request: TaskRequest, settings: Settings) -> None:
    """Say what a request would do, and who would learn what; nothing is run.

    Raises:
        RequestError: what is wrong with it.
    """
    plan = Plan.of(request)
    if settings.parties:  # as the node of these settings would run it
        plan = Assignment.of(plan, settings, lambda party: True).plan
    console.print(
        f"[bold]{plan.task.task_type}[/] for {' and '.join(plan.parties)}: {plan.task.summary}"
    )
    if plan.needs:
        note = plan.protocol.note(plan.parties)
        console.print(f"Protocol {plan.protocol.name} on {plan.protocol.field}. {note or ''}")
    table = Table("party", "does", "path", "here")
    for use in plan.config.inputs():
        there = _state(use, settings, "[yellow]missing[/]")
        table.add_row(use.party, f"reads {use.purpose}", escape(use.path), there)
    for use in plan.config.outputs() + plan.config.models():
        there = _state(use, settings, "not yet")
        table.add_row(use.party, use.purpose.replace("_", " "), escape(use.path), there)
    console.print(table)
    _print_reveals(plan)


def _print_reveals(plan: Plan) -> None:
    reveals = list(dict.fromkeys(plan.config.reveals()))
    if not reveals:
        console.print("No party learns anything about another's rows.")
        return
    table = Table("party", "learns")
    for use in reveals:
        columns = f" ({', '.join(use.columns)})" if use.columns else ""
        table.add_row(use.party, escape(f"{use.purpose}{columns}"))
    console.print(table)


def _state(use: Use, settings: Settings, otherwise: str) -> str:
    """Whether a path lies in the allowed folders of this machine, and exists there; ``otherwise`` if not."""
    roots = tuple(Path(root) for root in settings.allowed_roots)
    try:
        path = PathRules(use.party, settings.data_root.absolute(), roots).resolve(
            use.path, use.purpose
        )
    except PathNotAllowed:
        return "[red]not in an allowed folder[/]"
    return "exists" if path.exists() else otherwise
