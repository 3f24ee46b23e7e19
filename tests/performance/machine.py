"""Where it was measured."""

from __future__ import annotations

import os
import platform
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path

import psutil

_PACKAGES = ("secretflow", "spu", "jax", "celery", "redis", "pyarrow")


def describe_machine() -> dict[str, str]:
    """Machine and versions, each as text; nothing that names it."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    models = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    return {
        "date": datetime.now(timezone.utc).date().isoformat(),
        "processor": next(iter(models), platform.machine()),
        "cores": str(psutil.cpu_count()),
        "memory": f"{psutil.virtual_memory().total / 1e9:.0f} GB",
        "load": f"{os.getloadavg()[2]:.1f} of 15 minutes",
        "kernel": platform.release().partition("-")[0],
        "python": platform.python_version(),
        **{package: version(package) for package in _PACKAGES},
    }
