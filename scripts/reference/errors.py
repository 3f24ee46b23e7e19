"""The reference of all errors, from their classes."""

from __future__ import annotations

import inspect
from typing import Iterator

from scripts.reference.markdown import code, table
from secretflow_task.cli.exits import exit_code
from secretflow_task.contract.errors import WorkerError

_HEAD = """\
# All errors

`make reference` writes this page from the classes of the errors; a test compares them.

A FAILURE event names the class in `error_code` and its family in `error_type`; `error` says what
was wrong, often in more words than the message here, and `hint` what to do. All parties of an
execution get the same, and `failed_party` says where it began. With `retryable` the same request
may succeed when it is sent again, with a new execution id; `cancelled` marks what a person
has stopped. Neither text holds a data value, a path
or the words of a foreign exception: these are in [the log of the job](../ops_guide/logs.md) at the
party where it began. The commands end with the exit code of the family.
"""


def page() -> str:
    """The reference of all errors as Markdown."""
    families: list[type[WorkerError]] = [WorkerError, *WorkerError.__subclasses__()]
    return "\n".join([_HEAD, *(line for family in families for line in _section(family))])


def _section(family: type[WorkerError]) -> Iterator[str]:
    yield f"## `{family.__name__}`\n"
    yield f"{_message(family)} Exit code {exit_code(family()).value}.\n"
    classes = [family] if family is WorkerError else [*_below(family), family]
    rows = [
        (code(kind.__name__), _message(kind), "yes" if kind.retryable else "no", kind.default_hint)
        for kind in classes
    ]
    yield from table("code | message | retryable | what to do", rows)
    yield ""


def _below(kind: type[WorkerError]) -> Iterator[type[WorkerError]]:
    for child in kind.__subclasses__():
        yield child
        yield from _below(child)


def _message(kind: type[WorkerError]) -> str:
    return inspect.cleandoc(kind.__doc__ or "").splitlines()[0]
