"""Parts of a page."""

from __future__ import annotations

from itertools import cycle
from typing import Iterable, Iterator


def table(header: str, rows: Iterable[Iterable[str]]) -> Iterator[str]:
    """The lines of a table; ``header`` names its columns with a bar between them."""
    yield f"| {header} |"
    yield "|" + "---|" * (header.count("|") + 1)
    for row in rows:
        yield "| " + " | ".join(map(_cell, row)) + " |"


def _cell(text: str) -> str:
    """Text that neither ends a cell nor begins a tag; within code only the former can be."""
    parts = text.replace("|", "\\|").split("`")
    return "`".join(
        part if is_code else part.replace("<", "&lt;")
        for part, is_code in zip(parts, cycle((0, 1)))
    )


def code(text: str) -> str:
    """Text as code; nothing for nothing."""
    return f"`{text}`" if text else ""
