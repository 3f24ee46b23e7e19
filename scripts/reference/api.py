"""The reference of the public Python interface, from signatures and docstrings."""

from __future__ import annotations

import inspect
import re
from enum import Enum
from types import FunctionType
from typing import Any, Callable, Iterator

from pydantic import BaseModel

from secretflow_task.client import Client
from secretflow_task.contract.errors import WorkerError
from secretflow_task.contract.messages import Stage, Status, StatusEvent
from secretflow_task.contract.plan import Plan
from secretflow_task.contract.requests import TaskRequest
from secretflow_task.contract.task_config import ColumnAt, PathRole, TaskConfig, Use
from secretflow_task.contract.task_dispatcher import Task, TaskDispatcher
from secretflow_task.data_loader.table import Table
from secretflow_task.engine.devices import Devices
from secretflow_task.engine.run import Run

PUBLIC: list[type] = [
    *(Client, TaskRequest, StatusEvent, Status, Stage, Plan, WorkerError),
    *(TaskDispatcher, Task, TaskConfig, ColumnAt, Use, PathRole, Devices, Run, Table),
]
_HEAD = """\
# Python interface

`make reference` writes this page from signatures and docstrings; a test compares them.

A program that sends requests uses the first five modules, and needs no extra:
[A web application](../user_guide/web_application.md). A task type uses the others:
[Adding a task type](../developer_guide/adding_a_task.md). What is not here may change without
notice.
"""
_SECTION = re.compile(r"(Args|Attributes|Raises|Returns):$")
_QUOTED = re.compile(r"(: |-> )(['\"])(.*?)\2(?=[,) ]|$)")
_NAMED = re.compile(r" {4}(\w[\w, .]*): (.*)")


def page() -> str:
    """The reference of the public classes as Markdown."""
    lines = [_HEAD]
    for module in dict.fromkeys(kind.__module__ for kind in PUBLIC):
        lines.append(f"## `{module}`\n")
        for kind in PUBLIC:
            if kind.__module__ == module:
                lines += _class(kind)
    return "\n".join(lines)


def _class(kind: type) -> Iterator[str]:
    yield f"### `{kind.__name__}`\n"
    yield from _made(kind)
    yield from _text(kind)
    for name, member in vars(kind).items():
        if name.startswith("_") or not inspect.getdoc(member):
            continue
        if isinstance(member, property):
            yield f"#### `{name}`\n"
            yield from _text(member)
        elif isinstance(member, (FunctionType, classmethod, staticmethod)):
            bound = inspect.getattr_static(kind, name).__get__(object(), kind)
            yield f"#### `{name}{_signature(bound)}`\n"
            yield from _text(member)


def _made(kind: type) -> Iterator[str]:
    """The values of an enumeration; how an object is made, where a program may."""
    if issubclass(kind, Enum):
        yield ", ".join(f"`{member.name}`" for member in kind) + "\n"
    elif not issubclass(kind, BaseModel) and not any(
        name[0] == "_" for name in inspect.signature(kind).parameters
    ):
        yield f"`{kind.__name__}{_signature(kind)}`\n"


def _signature(function: Callable[..., Any]) -> str:
    """As a caller sees it: annotations without their quotes."""
    text = _QUOTED.sub(
        lambda found: found[1] + found[3].strip("'"), str(inspect.signature(function))
    )
    return text.removesuffix(" -> None") if isinstance(function, type) else text


def _text(item: Any) -> Iterator[str]:
    """A docstring, in which what a section names becomes a list."""
    for line in (inspect.getdoc(item) or "").replace("``", "`").splitlines():
        if title := _SECTION.match(line):
            yield f"**{title[1]}**\n"
        elif named := _NAMED.match(line):
            yield f"- `{named[1]}`: {named[2]}"
        else:
            yield line.strip()
    yield ""
