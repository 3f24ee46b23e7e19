"""The reference of all requests, from their schemas and examples."""

from __future__ import annotations

from typing import Iterator

import yaml

from scripts.reference.markdown import code, table
from secretflow_task.cli.tasks import example_of, keys_of
from secretflow_task.contract.plan import Plan
from secretflow_task.contract.requests import TaskRequest
from secretflow_task.contract.reveals import shown
from secretflow_task.contract.task_dispatcher import Task, TaskDispatcher

_HEAD = """\
# All requests

`make reference` writes this page from the schemas of the requests; a test compares them.
[The user guide](../user_guide/index.md) says what the words mean that every task has.
A key that is not required may be left out.
"""


def page() -> str:
    """The reference of all task types as Markdown."""
    names = TaskDispatcher.list_supported_tasks()
    contents = " ·\n".join(f"[`{name}`](#{name})" for name in names)
    return "\n".join([_HEAD, contents, "", *(line for name in names for line in _section(name))])


def _section(name: str) -> Iterator[str]:
    task, example = TaskDispatcher.get(name), example_of(name)
    yield f"## `{name}`\n"
    yield f"{task.summary}\n"
    yield from _keys(task)
    yield f"\n```yaml\n{example}```\n"
    yield from _reveals(example)


def _keys(task: Task) -> Iterator[str]:
    rows = [(code(key), *rest) for key, *rest in keys_of(task)]
    yield from table("key | type | default | meaning", rows)


def _reveals(example: str) -> Iterator[str]:
    """Who learns what from the example."""
    plan = Plan.of(TaskRequest.from_arguments(yaml.safe_load(example)))
    reveals = shown(plan.config.reveals(), plan.parties)
    if not reveals:
        yield "No party learns anything about another's rows.\n"
        return
    yield "Who learns what here, besides its own results:\n"
    for who, what in reveals:
        yield f"- {who}: {what}"
    yield ""
