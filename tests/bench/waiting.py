"""Waiting for what must come, however slow the machine is."""

from __future__ import annotations

import time
from typing import Any, Callable

# Only a defect lets it pass; pytest's own timeout is above it.
PATIENCE_SECONDS = 90.0


def comes_true(condition: Callable[[], Any], seconds: float = PATIENCE_SECONDS) -> bool:
    """Whether ``condition()`` comes true within ``seconds``; returns at once when it does."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def wait_for(condition: Callable[[], Any], seconds: float = PATIENCE_SECONDS) -> None:
    """Wait until ``condition()`` is true; fails after ``seconds``."""
    assert comes_true(condition, seconds), f"waited in vain for {seconds:g} s"
