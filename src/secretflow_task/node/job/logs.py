"""The logs that job processes write: bounded in length and in age."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path

from secretflow_task.contract.errors import WorkerError
from secretflow_task.contract.messages import Status
from secretflow_task.utils.log import appended_to

_KEPT_BYTES = 1_000_000  # of the end of a log that is too long
_DAY_SECONDS = 24 * 3600.0


def log_path(folder: Path, execution_id: str, party: str) -> Path:
    """The log of a party's job, in a folder of logs."""
    return folder / f"{execution_id}.{party}.log"


def owner_of(log: Path) -> tuple[str, str]:
    """The execution and the party of such a log; ids may have dots, parties have none."""
    execution_id, _, party = log.name.removesuffix(".log").rpartition(".")
    return execution_id, party


def trim(log: Path, limit_bytes: int) -> None:
    """Drop the older part of a log longer than ``limit_bytes``; its job goes on appending."""
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


def note_failure(path: Path, failure: WorkerError, as_json: bool) -> None:
    """Say at the end of a job's log how its execution ended: its process may have been killed."""
    with suppress(OSError), appended_to(path, as_json) as log:
        log.info(
            "The execution has failed, and its job is gone.",
            action="job_gone",
            status=Status.FAILURE.value,
            code=failure.code,
            failed_party=failure.party,
        )


def forget_old(folder: Path, days: float) -> None:
    """Delete the logs that nobody has written to for so many days."""
    oldest = time.time() - days * _DAY_SECONDS
    for log in folder.iterdir():
        if log.is_file() and log.stat().st_mtime < oldest:
            os.unlink(log)
