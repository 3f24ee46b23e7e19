"""What `sfworker doctor` finds."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """What a check found: how it is, and what to do if it is not well."""

    state: str
    mend: str = ""
