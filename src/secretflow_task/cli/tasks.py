"""`sfworker tasks`: the task types, and what one takes."""

from __future__ import annotations

import json
from importlib import resources
from typing import Any, Iterator

from rich.markup import escape
from rich.table import Table

from secretflow_task.cli.terminal import console
from secretflow_task.contract.task_dispatcher import Task, TaskDispatcher


def print_tasks() -> None:
    """A table of all task types."""
    table = Table("task type", "what it does")
    for name in TaskDispatcher.list_supported_tasks():
        table.add_row(name, TaskDispatcher.get(name).summary)
    console.print(table)
    console.print(
        "sfworker tasks TYPE shows a request, --example prints one, --schema its JSON Schema."
    )


def print_task(task_type: str) -> None:
    """A table of the keys of a task's ``task_config``."""
    task = TaskDispatcher.get(task_type)
    console.print(f"[bold]{task.task_type}[/]: {task.summary}")
    table = Table("key", "type", "default", "meaning")
    for key, kind, default, meaning in keys_of(task):
        table.add_row(key, kind, default, escape(meaning))
    console.print(table)


def print_schema(task_type: str) -> None:
    """The JSON Schema of a task's ``task_config``."""
    task = TaskDispatcher.get(task_type)
    print(json.dumps(_schema(task), indent=2))


def print_example(task_type: str) -> None:
    """A request to start from, as YAML."""
    task = TaskDispatcher.get(task_type)
    print(example_of(task.task_type), end="")


def example_of(task_type: str) -> str:
    """The example request of a task type, as YAML."""
    examples = resources.files("secretflow_task") / "examples"
    return (examples / f"{task_type}.yaml").read_text(encoding="utf-8")


def keys_of(task: Task) -> Iterator[tuple[str, str, str, str]]:
    """``(key, type, default, meaning)`` of each key of a ``task_config``, parts after the whole."""
    schema = _schema(task)
    yield from _keys(schema, schema.get("$defs", {}), "")


def _schema(task: Task) -> dict[str, Any]:
    if task.config is None:
        return {}
    return task.config.model_json_schema()


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
