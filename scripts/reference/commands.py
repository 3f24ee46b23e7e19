"""The reference of the command line, as typer writes it."""

from __future__ import annotations

import re

import typer
from typer.cli import get_docs_for_click

from secretflow_task.cli import app

_HEAD = """\
# All commands

`make reference` writes this page from the commands themselves; a test compares them. `sfworker
COMMAND --help` says the same.
"""


def page() -> str:
    """The reference of all commands as Markdown."""
    group = typer.main.get_command(app)
    text = get_docs_for_click(obj=group, ctx=typer.Context(group), name="sfworker")
    sections = text[
        text.index("\n## ") :
    ]  # above them only the beginning of what each of them says
    sections = re.sub(r"\* `--help`: .*\n", "", sections)
    sections = re.sub(r"\n\*\*Options\*\*:\n\n(?!\*)", "", sections)
    return "\n".join([_HEAD, f"{app.info.epilog}", sections.rstrip(), ""])
