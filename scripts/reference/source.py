"""What the source says of itself."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path
from typing import Iterator

SOURCE = Path(__file__).parents[2] / "src" / "secretflow_task"


def calls(*names: str) -> Iterator[tuple[str, ast.Call]]:
    """Every call ``x.name(...)`` of these methods, with the module that it is in."""
    for module, call in _method_calls():
        assert isinstance(call.func, ast.Attribute)
        if call.func.attr in names:
            yield module, call


@cache
def _method_calls() -> list[tuple[str, ast.Call]]:
    found = []
    for path in sorted(SOURCE.rglob("*.py")):
        module = ".".join(path.relative_to(SOURCE).with_suffix("").parts)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                found.append((module, node))
    return found


def text(node: ast.expr | None) -> str:
    """The text that is written there; raises `ValueError` for anything but a literal one."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    raise ValueError(f"no literal text: {ast.unparse(node) if node else None}")
