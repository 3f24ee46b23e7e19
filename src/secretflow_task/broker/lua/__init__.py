"""The scripts that Redis runs as one step each; the head of each file says what its KEYS and ARGV
are.
"""

from __future__ import annotations

from importlib.resources import files


def script(name: str) -> str:
    """The text of ``name.lua``."""
    return (files(__name__) / f"{name}.lua").read_text(encoding="utf-8")
