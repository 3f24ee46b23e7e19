"""The logs that job processes write: bounded in length and in age."""

from __future__ import annotations

import os
import time
from pathlib import Path

_KEPT_BYTES = 1_000_000  # of the end of a log that is too long
_DAY_SECONDS = 24 * 3600.0


def trim(log: Path, limit_bytes: int) -> None:
    """Drop the older part of a log that is longer than ``limit_bytes``; its job goes on appending."""
    try:
        length = log.stat().st_size
        if length <= limit_bytes:
            return
        with log.open("r+b") as file:
            file.seek(length - _KEPT_BYTES)
            end = file.read()
            file.truncate(0)
        with log.open("ab") as file:
            file.write(f"[{length - len(end)} bytes dropped]\n".encode() + end)
    except OSError:
        return  # no log yet, or a full disk


def forget_old(folder: Path, days: float) -> None:
    """Delete the logs that nobody has written to for so many days."""
    oldest = time.time() - days * _DAY_SECONDS
    for log in folder.iterdir():
        if log.is_file() and log.stat().st_mtime < oldest:
            os.unlink(log)
