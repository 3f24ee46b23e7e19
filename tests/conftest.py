"""Fixtures of all tests."""

from __future__ import annotations

import sys

import structlog

from secretflow_task.cli.terminal import console

# A forkserver imports its parent's main module again in every child. Under pytest that would be
# pytest itself: half a second per job process, and modules that no job of a real node has.
_main = sys.modules["__main__"]
_main.__spec__ = None
if hasattr(_main, "__file__"):
    del _main.__file__

# structlog's own tracebacks draw a frame around every local variable, a second each.
_PLAIN = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
structlog.configure(processors=[*structlog.get_config()["processors"][:-1], _PLAIN])

# Rich keeps the width that COLUMNS asks for at first, as it does in a process of pytest-xdist;
# tests ask for others.
console._width = None
