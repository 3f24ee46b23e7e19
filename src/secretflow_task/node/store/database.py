"""The one connection to `node.sqlite`, which the parts of the store share."""

from __future__ import annotations

import fcntl
import os
import sqlite3
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Iterator

from secretflow_task.node.store.migrations import open_store


class StoreInUse(Exception):
    """Another node uses this state folder; give each node its own SFWORKER_STATE_DIR."""


class StoreDatabase:
    """SQLite in the state folder, for one node at a time and any of its threads.

    Raises:
        StoreInUse: another node has the folder's lock.
        StoreTooNew: a newer version of the worker wrote the store.
        StoreUnusable: it cannot be opened or upgraded.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock_handle = os.open(folder / "lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        self._mutex = threading.RLock()
        try:
            fcntl.flock(self._lock_handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._db = open_store(folder / "node.sqlite")
        except BaseException as error:
            os.close(self._lock_handle)
            if isinstance(error, BlockingIOError):
                raise StoreInUse(StoreInUse.__doc__) from None
            raise

    def close(self) -> None:
        """Let another process have the store."""
        with self._mutex:  # whoever is late gets an error; SQLite itself would crash
            self._db.close()
        os.close(self._lock_handle)

    def _row(self, query: str, *values: object) -> Any:
        with self._mutex:
            return self._db.execute(query, values).fetchone()

    def _rows(self, query: str, *values: object) -> list[Any]:
        with self._mutex:
            return self._db.execute(query, values).fetchall()

    @contextmanager
    def _transaction(self, durable: bool) -> Iterator[sqlite3.Connection]:
        """All or nothing of what is done in it.

        Args:
            durable: it is on disk afterwards; else it survives the process, but maybe not the
                machine.
        """
        synchronous = "FULL" if durable else "NORMAL"
        with self._mutex:
            self._db.execute(f"PRAGMA synchronous = {synchronous}")
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
            except BaseException:
                if self._db.in_transaction:  # a full disk ends it by itself
                    self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")
