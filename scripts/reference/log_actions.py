"""The reference of everything that is logged, from the calls in the source."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from typing import Iterator

from scripts.reference.markdown import code, table
from scripts.reference.source import calls, text

_LEVELS = {
    "debug": "debug",
    "info": "info",
    "warning": "warning",
    "error": "error",
    "exception": "error",
}
_HEAD = """\
# All log records

`make reference` writes this page from the calls in the source; a test compares them.
[Logs](../ops_guide/logs.md) says where they go. Every record has `timestamp`, `level`, `action` and
`message`; inside an execution also `execution_id`, `task_request_id` and `task_type`, and `party`
where it is about one party. An `action` stands in one place of the source and keeps its name. What
libraries log, from warnings on, has the action `library` and the name of the `logger`.
"""


@dataclass(frozen=True)
class Record:
    """One call that logs."""

    action: str
    level: str
    message: str
    fields: tuple[str, ...]
    module: str


def records() -> Iterator[Record]:
    """Every record that our own code writes.

    Raises:
        ValueError: the message or the action of a call is no literal text.
    """
    for module, call in calls(*_LEVELS):
        assert isinstance(call.func, ast.Attribute)
        if isinstance(call.func.value, ast.Name) and call.func.value.id == "log":
            fields = {str(keyword.arg): keyword.value for keyword in call.keywords}
            action, level = text(fields.pop("action", None)), _LEVELS[call.func.attr]
            names = ["exception" if name == "exc_info" else name for name in fields]
            if call.func.attr == "exception":
                names.append("exception")
            yield Record(action, level, text(call.args[0]), tuple(names), module)


def page() -> str:
    """The reference of all log records as Markdown."""
    rows = [
        (
            code(each.action),
            each.level,
            each.message,
            ", ".join(map(code, each.fields)),
            code(each.module),
        )
        for each in sorted(records(), key=lambda record: record.action)
    ]
    return "\n".join(
        [_HEAD, *table("action | level | message | further fields | module", rows), ""]
    )
