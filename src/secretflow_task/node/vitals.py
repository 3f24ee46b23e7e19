"""What the kernel says about a job's processes, which they themselves cannot: stopped, and how large."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Iterator

_PROC = Path("/proc")
_STOPPED = frozenset("Tt")
_PSS = re.compile(rb"^Pss:\s+(\d+) kB", re.M)


def is_stopped(pid: int) -> bool:
    """Whether a process was stopped by a signal or a debugger."""
    return _state_and_group(_PROC / str(pid))[0] in _STOPPED


def memory_bytes(group: int) -> int:
    """Proportional set size of all processes of a process group.

    A job shares most pages with the template and the other jobs; its resident size would count them whole.
    """
    return sum(map(_pss_bytes, _members(group)))


def _members(group: int) -> Iterator[Path]:
    for process in _PROC.iterdir():
        if process.name.isdigit() and _state_and_group(process)[1] == group:
            yield process


def _state_and_group(process: Path) -> tuple[str, int]:
    """State letter and process group; an empty text and 0 for a process that has ended."""
    try:
        # The name, which may hold anything, stands in parentheses.
        fields = (process / "stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return "", 0
    return fields[0].decode(), int(fields[2])


def _pss_bytes(process: Path) -> int:
    try:
        found = _PSS.search((process / "smaps_rollup").read_bytes())
    except OSError:
        return 0
    return 1024 * int(found[1]) if found else 0
