"""What the source says of itself."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Iterator

SOURCE = Path(__file__).parents[2] / "src" / "secretflow_task"


def calls(*names: str) -> Iterator[tuple[str, ast.Call]]:
    """Every call ``x.name(...)`` of these methods, with the module that it is in."""
    for path in sorted(SOURCE.rglob("*.py")):
        module = ".".join(path.relative_to(SOURCE).with_suffix("").parts)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr in names
            ):
                yield module, node


def text(node: ast.expr | None) -> str:
    """The text that is written there; raises `ValueError` for anything but a literal one."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    raise ValueError(f"no literal text: {ast.unparse(node) if node else None}")
