"""The schema of `node.sqlite`, as the steps that lead to it, and how a store of an earlier version
gets there.

`PRAGMA user_version` says how many steps a store has seen. A new store takes all of them, so it has
the very tables that an upgraded one has. To change the schema, append a step; a step that stands
here never changes. Alembic, which the listener's database uses, would bring SQLAlchemy into every
node for a few statements that SQLite runs by itself.

An upgrade works on a copy, which takes the store's place by one rename when it is whole: a crash
leaves the old store or the new one. The old one is kept beside it, for whoever goes back to an
earlier version.
"""

from __future__ import annotations

import json
import os
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import Callable

from secretflow_task.utils.log import get_logger

_READERS_SECONDS = 5.0  # for commands that read the store to be done with it

log = get_logger()


class StoreTooNew(Exception):
    """A newer version of the worker wrote this store."""


class StoreUnusable(Exception):
    """The store cannot be opened or upgraded; it is as it was."""


def _first_tables(db: sqlite3.Connection) -> None:
    db.execute("""
        CREATE TABLE executions (
            execution_id TEXT NOT NULL,
            party TEXT NOT NULL,
            task_request_id TEXT NOT NULL,
            task_id TEXT,
            subtask_id TEXT,
            task_type TEXT NOT NULL,
            status TEXT NOT NULL DEFAULT 'RUNNING',
            last_seq INTEGER NOT NULL DEFAULT 0,
            started_at TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP,
            PRIMARY KEY (execution_id, party)
        )""")
    db.execute("""
        CREATE TABLE events (
            number INTEGER PRIMARY KEY AUTOINCREMENT,
            execution_id TEXT NOT NULL,
            party TEXT NOT NULL,
            body TEXT NOT NULL
        )""")


def _epochs(db: sqlite3.Connection) -> None:
    """Know which node has an execution, keep its whole request, and for a while sent events."""
    # A later version that was started on this store has left this table, empty, and failed at the
    # next.
    db.execute("CREATE TABLE IF NOT EXISTS node (id TEXT NOT NULL)")
    db.execute("ALTER TABLE executions RENAME TO old_executions")
    db.execute("""
        CREATE TABLE executions (
            execution_id TEXT NOT NULL,
            party TEXT NOT NULL,
            task_request_id TEXT NOT NULL,
            task_id TEXT,
            subtask_id TEXT,
            params TEXT NOT NULL,
            epoch INTEGER NOT NULL,
            last_seq INTEGER NOT NULL,
            status TEXT NOT NULL DEFAULT 'RUNNING',
            taken_at REAL NOT NULL,
            PRIMARY KEY (execution_id, party)
        )""")
    rows = db.execute("""
        SELECT execution_id, party, task_request_id, task_id, subtask_id, task_type, last_seq,
            status, CAST(strftime('%s', started_at) AS REAL)
        FROM old_executions ORDER BY rowid""")
    for *key, task_type, last_seq, status, taken_at in rows.fetchall():
        # All that was stored of the request; enough for its events to name the task.
        params = json.dumps({"task_config": {"task_type": task_type}})
        db.execute(
            "INSERT INTO executions VALUES (?, ?, ?, ?, ?, ?, 1, ?, ?, ?)",
            (*key, params, last_seq, status, taken_at),
        )
    db.execute("DROP TABLE old_executions")
    _set_events_aside(db)
    db.execute("""
        CREATE TABLE events (
            number INTEGER PRIMARY KEY AUTOINCREMENT,
            epoch INTEGER NOT NULL,
            body TEXT NOT NULL,
            sent_at REAL
        )""")
    db.execute("INSERT INTO events SELECT number, 1, body, NULL FROM old_events")
    _drop_old_events(db)


def _events_by_execution(db: sqlite3.Connection) -> None:
    """Find the events of an execution."""
    _set_events_aside(db)
    db.execute("""
        CREATE TABLE events (
            number INTEGER PRIMARY KEY AUTOINCREMENT,
            execution_id TEXT NOT NULL,
            party TEXT NOT NULL,
            epoch INTEGER NOT NULL,
            body TEXT NOT NULL,
            sent_at REAL
        )""")
    rows = db.execute("SELECT number, epoch, body, sent_at FROM old_events ORDER BY number")
    for number, epoch, body, sent_at in rows.fetchall():
        event = json.loads(body)  # SQLite's own functions refuse the NaN of the first events
        db.execute(
            "INSERT INTO events VALUES (?, ?, ?, ?, ?, ?)",
            (number, event["execution_id"], event["party"], epoch, body, sent_at),
        )
    _drop_old_events(db)


def _results(db: sqlite3.Connection) -> None:
    """Keep the result of a party until its execution has ended."""
    db.execute("""
        CREATE TABLE IF NOT EXISTS results (
            execution_id TEXT NOT NULL,
            party TEXT NOT NULL,
            result TEXT NOT NULL,
            PRIMARY KEY (execution_id, party)
        )""")


def _decisions(db: sqlite3.Connection) -> None:
    """Keep that an execution between nodes has succeeded."""
    db.execute("""
        CREATE TABLE IF NOT EXISTS decisions (
            execution_id TEXT PRIMARY KEY,
            decided_at REAL NOT NULL
        )""")


def _set_events_aside(db: sqlite3.Connection) -> None:
    db.execute("ALTER TABLE events RENAME TO old_events")


def _drop_old_events(db: sqlite3.Connection) -> None:
    """Number on where the old table was, also when its last events are gone; and make the indexes
    again.
    """
    db.execute("DELETE FROM sqlite_sequence WHERE name = 'events'")
    db.execute("UPDATE sqlite_sequence SET name = 'events' WHERE name = 'old_events'")
    db.execute("DROP TABLE old_events")
    db.execute("CREATE INDEX unsent ON events (number) WHERE sent_at IS NULL")
    db.execute("CREATE INDEX sent ON events (sent_at) WHERE sent_at IS NOT NULL")


_STEPS: tuple[Callable[[sqlite3.Connection], None], ...] = (
    _first_tables,
    _epochs,
    _events_by_execution,
    _results,
    _decisions,
)
VERSION = len(_STEPS)


def open_store(path: Path) -> sqlite3.Connection:
    """Connect to the store at ``path``, which is made, or brought to `VERSION`, first.

    Only for who holds the lock of the state folder.

    Raises:
        StoreTooNew: its version is above `VERSION`.
        StoreUnusable: it is not a store, or there is no room for an upgrade.
    """
    try:
        found = _bring_up_to_date(path)
        if 0 < found < VERSION:
            log.info(
                "The store was upgraded.", action="store_upgraded", version=VERSION, before=found
            )
        db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        db.execute("PRAGMA journal_mode = WAL")
        return db
    except (sqlite3.Error, OSError) as error:
        raise StoreUnusable(f"The store {path} cannot be opened or upgraded: {error}.") from error


def _bring_up_to_date(path: Path) -> int:
    """Returns the version that was found; 0 for none."""
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        marked = _marked_version(db)
        found = marked or _version_of_tables(db)
        if found > VERSION:
            raise StoreTooNew(_how_to_go_back(path, found))
        if 0 < found < VERSION:
            _upgrade(db, path, found)
        elif marked != VERSION:
            _take_steps(db, found)
        return found


def _marked_version(db: sqlite3.Connection) -> int:
    return int(db.execute("PRAGMA user_version").fetchone()[0])


def _version_of_tables(db: sqlite3.Connection) -> int:
    """The version of a store from before stores said theirs."""
    columns = {name for _, name, *_ in db.execute("PRAGMA table_info(events)")}
    tables = {name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if not columns:
        return 0
    if "sent_at" not in columns:
        return 1
    if "party" not in columns:
        return 2
    if "results" not in tables:
        return 3
    if "decisions" not in tables:
        return 4
    return 5


def _upgrade(store: sqlite3.Connection, path: Path, found: int) -> None:
    copy = path.with_name(f"{path.name}.new")
    _end_wal(store)
    try:
        _copy(store, copy)
        os.replace(copy, backup_path(path, found))
        _copy(store, copy)
        with closing(_connect_to_copy(copy)) as db:
            _take_steps(db, found)
            _verify(db, store)
        _sync(copy)
        os.replace(copy, path)
    finally:
        copy.unlink(missing_ok=True)  # of an upgrade that failed, maybe since the disk is full
    _sync(path.parent)


def backup_path(path: Path, version: int) -> Path:
    """Where a store of an earlier version is kept when it is upgraded."""
    return path.with_name(f"{path.name}.{version}.bak")


def _end_wal(store: sqlite3.Connection) -> None:
    """Move everything into the one file: a log beside it would be applied to the copy that replaces
    it.
    """
    deadline = time.monotonic() + _READERS_SECONDS
    while True:
        try:
            store.execute("PRAGMA journal_mode = DELETE")
            return
        except sqlite3.OperationalError:  # at once when somebody reads
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def _copy(store: sqlite3.Connection, copy: Path) -> None:
    copy.unlink(missing_ok=True)  # what a crash has left
    with closing(_connect_to_copy(copy)) as db:
        store.backup(db)
    _sync(copy)


def _connect_to_copy(copy: Path) -> sqlite3.Connection:
    db = sqlite3.connect(copy, isolation_level=None)
    db.execute("PRAGMA journal_mode = MEMORY")  # a crash leaves one file to remove
    return db


def _take_steps(db: sqlite3.Connection, found: int) -> None:
    db.execute("BEGIN IMMEDIATE")
    for step in _STEPS[found:]:
        step(db)
    db.execute(f"PRAGMA user_version = {VERSION}")
    db.execute("COMMIT")  # what fails before is undone when the connection closes


def _verify(upgraded: sqlite3.Connection, store: sqlite3.Connection) -> None:
    if upgraded.execute("PRAGMA integrity_check").fetchall() != [("ok",)]:
        raise sqlite3.DatabaseError("the upgraded copy is damaged")
    for table in ("executions", "events"):
        count = f"SELECT COUNT(*) FROM {table}"
        if upgraded.execute(count).fetchone() != store.execute(count).fetchone():
            raise sqlite3.DatabaseError(f"the upgraded copy lacks {table}")


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _how_to_go_back(path: Path, found: int) -> str:
    sentence = (
        f"The store {path} has version {found}, written by a newer worker; this one reads up to"
        f" version {VERSION}. Start the newer worker again, or go back"
    )
    for version in range(VERSION, 0, -1):
        backup = backup_path(path, version)
        if backup.exists():
            return f"{sentence} to {backup}, the store before the upgrade."
    return f"{sentence} to a backup of the state folder from before the upgrade."
