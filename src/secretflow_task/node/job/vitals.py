"""What the kernel says about a job's processes, which they themselves cannot, and about memory."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Iterable, Iterator

_PROC = Path("/proc")
_STOPPED = frozenset("Tt")
_PSS = re.compile(rb"^Pss:\s+(\d+) kB", re.M)
_RESIDENT = re.compile(rb"^Vm(HWM|RSS):\s+(\d+) kB", re.M)
_CGROUPS = Path("/sys/fs/cgroup")
_LIMITS = (
    _CGROUPS / "memory.max",  # version 2
    _CGROUPS / "memory" / "memory.limit_in_bytes",  # version 1
)
_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


def is_stopped(pid: int) -> bool:
    """Whether a process was stopped by a signal or a debugger."""
    return _state_and_group(_PROC / str(pid))[0] in _STOPPED


def others_bytes(group: int) -> int:
    """Proportional set size of a process group, without its first process, whose id is the group's.

    A job shares most pages with the template and the other jobs; its resident size would count them
    whole.
    """
    first = _PROC / str(group)
    return sum(_pss_bytes(process) for process in _members(group) if process != first)


def weight(pid: int) -> tuple[int, int]:
    """Proportional set size of one process now, and how much larger it has been; 0 when it has
    ended.

    The kernel keeps the peak of the resident size only. What was resident then and is not now was
    its own: pages that it shares with the template stay.
    """
    try:
        resident = dict(_RESIDENT.findall((_PROC / str(pid) / "status").read_bytes()))
    except OSError:
        return 0, 0
    now = _pss_bytes(_PROC / str(pid))
    return now, 1024 * (int(resident.get(b"HWM", 0)) - int(resident.get(b"RSS", 0)))


def cpu_seconds(pid: int) -> float:
    """CPU time of a process and of its children that have ended; 0 when it has ended itself."""
    try:
        fields = _fields(_PROC / str(pid))
    except OSError:
        return 0.0
    return sum(map(int, fields[11:15])) / _TICKS_PER_SECOND


def memory_size_bytes(limits: Iterable[Path] = _LIMITS) -> int:
    """Memory of the machine, or of the container if that may use less."""
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    texts = [path.read_text(encoding="ascii").strip() for path in limits if path.is_file()]
    return min([machine, *(int(text) for text in texts if text.isdigit())])  # "max" is no limit


def _members(group: int) -> Iterator[Path]:
    for process in _PROC.iterdir():
        if process.name.isdigit() and _state_and_group(process)[1] == group:
            yield process


def _state_and_group(process: Path) -> tuple[str, int]:
    """State letter and process group; an empty text and 0 for a process that has ended."""
    try:
        fields = _fields(process)
    except OSError:
        return "", 0
    return fields[0].decode(), int(fields[2])


def _fields(process: Path) -> list[bytes]:
    """What the kernel's ``stat`` says after the name, which stands in parentheses and may hold
    anything.
    """
    return (process / "stat").read_bytes().rpartition(b")")[2].split()


def _pss_bytes(process: Path) -> int:
    try:
        found = _PSS.search((process / "smaps_rollup").read_bytes())
    except OSError:
        return 0
    return 1024 * int(found[1]) if found else 0
