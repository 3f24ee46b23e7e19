"""Copies of values as they come out at the other end of a pipe or a connection."""

from __future__ import annotations

import json
from typing import Any


def as_json(value: Any) -> Any:
    """A value as JSON carries it."""
    return json.loads(json.dumps(value))
