"""Imports that coverage does not trace; every process of `make test` finds this on its path.

Tracing SecretFlow's import, of which no line is counted, made each template half as slow again.
"""

from __future__ import annotations

import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Callable, Sequence

OWN = ("secretflow_task", "scripts", "tests")


class UntracedImports(MetaPathFinder):
    """Finds foreign modules as always, and lets them run without a trace function."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Leave what is ours, and what is not traced anyway, to the other finders."""
        if sys.gettrace() is None or fullname.partition(".")[0] in OWN:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            untraced = _untraced(spec.loader.exec_module)
            spec.loader.exec_module = untraced  # type: ignore[assignment]
        return spec


def _untraced(exec_module: Callable[[ModuleType], None]) -> Callable[[ModuleType], None]:
    def exec_untraced(module: ModuleType) -> None:
        tracer = sys.gettrace()
        sys.settrace(None)
        try:
            exec_module(module)
        finally:
            sys.settrace(tracer)
            _call()

    return exec_untraced


def _call() -> None:
    """Do nothing: coverage's tracer is itself again from the next call on."""


sys.meta_path.insert(0, UntracedImports())
