"""A part of something large that is still JSON, for where the whole has no room."""

from __future__ import annotations

import json
from itertools import islice
from typing import Any, Mapping

# How many rows of a list, and entries of a large mapping, are tried: the most that fit are taken.
_ROWS = (100, 30, 10, 3, 1)
_SMALL = 64  # a mapping of so many entries is an object with keys of its own, and keeps them all
_TEXT_CHARACTERS = 1000


def excerpt(value: Mapping[str, Any], limit_bytes: int) -> dict[str, Any]:
    """What of a JSON object fits into so many bytes: its figures and the first rows of its tables.

    Every list is cut after the same number of items, so that the names of rows and columns fit the
    rows that are left.
    """
    for rows in _ROWS:
        part = _cut(value, rows)
        if _bytes(part) <= limit_bytes:
            return dict(part)
    return _first(_cut(value, 0), limit_bytes)


def _cut(value: Any, rows: int) -> Any:
    if isinstance(value, str):
        return value[:_TEXT_CHARACTERS]
    if isinstance(value, Mapping):
        kept = len(value) if len(value) <= _SMALL else rows
        return {str(key): _cut(item, rows) for key, item in islice(value.items(), kept)}
    if isinstance(value, (list, tuple)):
        return [_cut(item, rows) for item in value[:rows]]
    return value


def _first(value: Mapping[str, Any], limit_bytes: int) -> dict[str, Any]:
    """The entries that fit, in their order."""
    part: dict[str, Any] = {}
    left = limit_bytes - 2  # the brackets
    for name, item in value.items():
        size = _bytes({name: item})
        if size <= left:
            part[name] = item
            left -= size
    return part


def _bytes(value: Any) -> int:
    return len(json.dumps(value, ensure_ascii=False).encode("utf-8", "replace"))
