"""The folders of a node, looked at without waiting for their file systems."""

from __future__ import annotations

import shutil
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from secretflow_task.config.settings import Settings

_FRESH_SECONDS = 5.0
_PATIENCE_SECONDS = 1.0
_GIB = 1024**3


@dataclass(frozen=True)
class Space:
    """What a folder has to offer.

    Attributes:
        writable: whether a file could be made and written there.
    """

    free_bytes: int
    size_bytes: int
    writable: bool

    @property
    def nearly_full(self) -> bool:
        """Whether less than 5 % is free, and less than 1 GiB."""
        return self.free_bytes < min(_GIB, self.size_bytes // 20)


class Folder:
    """One of them. Each look has a thread of its own, which a file system that hangs may keep."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._mutex = threading.Lock()
        self._thread: threading.Thread | None = None
        self._started = 0.0
        self._seen: Space | None = None

    def look(self) -> Space | None:
        """What was seen in the last 5 s; None while the folder is not there or does not answer.

        Only the first to ask waits for an answer, and only for a second.
        """
        with self._mutex:
            thread = self._looking()
            patience = self._started + _PATIENCE_SECONDS - time.monotonic()
        thread.join(max(0.0, patience))
        return None if thread.is_alive() else self._seen

    def _looking(self) -> threading.Thread:
        """The thread of the latest look."""
        thread, now = self._thread, time.monotonic()
        if thread and (thread.is_alive() or now < self._started + _FRESH_SECONDS):
            return thread
        self._thread = threading.Thread(target=self._look, name="look-at-folder", daemon=True)
        self._started = now
        self._thread.start()
        return self._thread

    def _look(self) -> None:
        try:
            usage = shutil.disk_usage(self._path)
        except OSError:
            self._seen = None
            return
        self._seen = Space(usage.free, usage.total, _is_writable(self._path))


def _is_writable(path: Path) -> bool:
    """Try it: permissions do not tell of a quota, a read-only disk or one that is broken."""
    try:
        with tempfile.TemporaryFile(dir=path) as file:
            file.write(b"\0")
            file.flush()
    except OSError:
        return False
    return True


def folders_of(settings: Settings) -> dict[str, Folder]:
    """The folders that a node writes to, by the names that they have in metrics."""
    return {
        "data": Folder(settings.data_root),
        "state": Folder(settings.state_dir),
        "work": Folder(settings.work_dir),
    }
