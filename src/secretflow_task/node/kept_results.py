"""Results that are too large for an event: whole in a file at their party, and the head of each for
its event.
"""

from __future__ import annotations

import hashlib
import os
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Mapping

from secretflow_task.contract.errors import OutputNotWritable, ResultNotHere
from secretflow_task.contract.messages import json_text
from secretflow_task.node.store.reader import StateFolder
from secretflow_task.utils.excerpt import excerpt
from secretflow_task.utils.log import get_logger, problem_of

log = get_logger()

_DAY_SECONDS = 24 * 3600.0


def result_path(state_dir: Path, execution_id: str, party: str) -> Path:
    """Where a party's result is kept, if it is too large for an event."""
    return state_dir / "results" / f"{execution_id}.{party}.json"


def bounded(data: Mapping[str, Any], limit_bytes: int) -> Mapping[str, Any]:
    """What an event may carry: ``data``, or its head and `truncated` if that is too large."""
    if len(json_text(data).encode()) <= limit_bytes:
        return data
    return {**excerpt(data, limit_bytes // 2), "truncated": True}


@dataclass(frozen=True)
class KeptResults:
    """The results of a node.

    Attributes:
        limit_bytes: a result up to this size stands in its event.
        days: how long a larger one is kept.
    """

    state_dir: Path
    limit_bytes: int
    days: float

    def keep(self, execution_id: str, party: str, result: Mapping[str, Any]) -> Mapping[str, Any]:
        """What the event tells of a result: all, or of one that is now on the disk its head.

        The head has `truncated`, and `size_bytes` and `sha256` of the file.

        Raises:
            OutputNotWritable: it could not be kept.
        """
        content = json_text(result).encode()
        if len(content) <= self.limit_bytes:
            return result
        try:
            _write(result_path(self.state_dir, execution_id, party), content)
        except OSError as error:
            problem = problem_of(error)
            log.error("A result could not be kept.", action="result_not_kept", problem=problem)
            raise OutputNotWritable(
                "The result is too large for an event and could not be kept.",
                hint="Make room in SFWORKER_STATE_DIR at that party, and send the request again.",
                party=party,
            ) from error
        return {
            **excerpt(result, self.limit_bytes // 4),
            "truncated": True,
            "size_bytes": len(content),
            "sha256": hashlib.sha256(content).hexdigest(),
        }

    def read(self, execution_id: str, party: str) -> str:
        """The whole of a result that was kept; raises `ResultNotHere`."""
        path = StateFolder(self.state_dir).results(execution_id).get(party)
        if path is None:
            raise ResultNotHere("No result of this execution and party is kept here.")
        return path.read_text(encoding="utf-8")

    def forget(self, execution_id: str, party: str) -> None:
        """Undo `keep`."""
        with suppress(OSError):
            result_path(self.state_dir, execution_id, party).unlink()

    def forget_old(self) -> None:
        """Delete what is older than its days, and what a node that was killed had begun."""
        now = time.time()
        for file in (self.state_dir / "results").glob("*"):
            days = self.days if file.suffix == ".json" else 1.0
            with suppress(FileNotFoundError):
                if file.stat().st_mtime < now - days * _DAY_SECONDS:
                    file.unlink()


def _write(path: Path, content: bytes) -> None:
    """All of it, on the disk, or nothing at ``path``."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = path.with_suffix(".new")
    try:
        handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
    except OSError:
        draft.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
