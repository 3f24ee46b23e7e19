"""Stores of earlier versions.

`tests/data/stores` has one for each shape that the schema had before stores said their version,
written by the code of the commit in its name, as SQL.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import sqlite3
import sys
import tempfile
import threading
from collections import Counter
from contextlib import closing
from pathlib import Path
from types import FrameType
from typing import Any, Iterator

import pytest

from secretflow_task.cli.exits import Exit, guarded
from secretflow_task.contract.messages import Status, StatusEvent
from secretflow_task.node.store import migrations
from secretflow_task.node.store.event_store import EventStore
from secretflow_task.node.store.migrations import VERSION, StoreTooNew, StoreUnusable
from secretflow_task.node.store.reader import StateFolder

STORES = sorted((Path(__file__).parents[3] / "data" / "stores").glob("*.sql"))
EARLIER = [store for store in STORES if not store.name.startswith("5-")]
OLDEST = STORES[0]
# What a version from before migrations left in an older store, where its next statement failed.
LEFT_BY_A_LATER_VERSION = """
    CREATE TABLE IF NOT EXISTS node (id TEXT NOT NULL);
    CREATE TABLE IF NOT EXISTS results (
        execution_id TEXT NOT NULL, party TEXT NOT NULL, result TEXT NOT NULL,
        PRIMARY KEY (execution_id, party));
    CREATE TABLE IF NOT EXISTS decisions (execution_id TEXT PRIMARY KEY, decided_at REAL NOT NULL);
"""


def named(path: Path) -> str:
    """How a store is called in the name of a test."""
    return path.stem


def restored(dump: Path, folder: Path) -> Path:
    """The store that a dump was made of, as its node had left it."""
    folder.mkdir(exist_ok=True)
    with closing(connected(folder / "node.sqlite")) as db:
        db.execute("PRAGMA journal_mode = WAL")
        db.executescript(dump.read_text())
    return folder / "node.sqlite"


def connected(path: Path) -> sqlite3.Connection:
    """A connection without transactions of its own."""
    return sqlite3.connect(path, isolation_level=None)


def columns(db: sqlite3.Connection, table: str) -> list[str]:
    """The names of a table's columns."""
    return [row[1] for row in db.execute(f"PRAGMA table_info({table})")]


def told(path: Path) -> dict[str, Any]:
    """What a store of any version says, in the words of the newest."""
    with closing(connected(path)) as db:
        waiting = "WHERE sent_at IS NULL" if "sent_at" in columns(db, "events") else ""
        epoch = "epoch" if "epoch" in columns(db, "executions") else "1"
        names = {row[0] for row in db.execute("SELECT name FROM sqlite_master")}
        queries = {
            "waiting": f"SELECT number, body FROM events {waiting} ORDER BY number",
            "executions": "SELECT execution_id, party, task_request_id, task_id, subtask_id,"
            f" status, last_seq, {epoch} FROM executions ORDER BY rowid",
        }
        queries |= {
            table: f"SELECT * FROM {table} ORDER BY 1"
            for table in ("node", "results", "decisions")
            if table in names
        }
        return {name: db.execute(query).fetchall() for name, query in queries.items()}


def shape(path: Path) -> dict[str, Any]:
    """The tables and indexes of a store."""
    with closing(connected(path)) as db:
        objects = db.execute("SELECT type, name FROM sqlite_master").fetchall()
        pragmas = {"table": "table_info", "index": "index_xinfo"}
        found: dict[str, Any] = {
            name: db.execute(f"PRAGMA {pragmas[kind]}({name})").fetchall() for kind, name in objects
        }
        found["version"] = db.execute("PRAGMA user_version").fetchone()
        found["partial"] = db.execute("PRAGMA index_list(events)").fetchall()
        return found


def new_store(folder: Path) -> Path:
    """A store that this version has made."""
    with EventStore(folder):
        return folder / "node.sqlite"


@pytest.mark.parametrize("dump", STORES, ids=named)
def test_an_upgrade_keeps_what_the_earlier_version_stored(dump: Path, tmp_path: Path) -> None:
    path = restored(dump, tmp_path)
    before = told(path)
    assert len(before["waiting"]) >= 5  # else this test compares nothing
    with EventStore(tmp_path) as store:
        waiting = store.unsent(100)
        assert [unsent.number for unsent in waiting] == [number for number, _ in before["waiting"]]
        for unsent, (_, body) in zip(waiting, before["waiting"]):
            fields = json.loads(body)
            sent = json.loads(unsent.event.to_json())
            assert {name: sent[name] for name in fields} == fields
            assert unsent.event == StatusEvent.from_json(body)
        for execution_id, party, *_, status, _seq, _epoch in before["executions"]:
            kept = None if status == "TAKEN_OVER" else Status(status)
            assert store.status(execution_id, party) is kept
            assert store.knows(execution_id, party)
    after = told(path)
    assert {name: after[name] for name in before} == before


@pytest.mark.parametrize("dump", STORES, ids=named)
def test_an_upgraded_node_goes_on_where_the_earlier_one_was(dump: Path, tmp_path: Path) -> None:
    path = restored(dump, tmp_path)
    with closing(connected(path)) as db:
        (last_number,) = db.execute("SELECT seq FROM sqlite_sequence").fetchone()
        query = "SELECT last_seq FROM executions WHERE execution_id = 'e-2'"
        (last_seq,) = db.execute(query).fetchone()
    with EventStore(tmp_path) as store:
        left = [
            (execution.request.execution_id, execution.party, execution.request.task_type)
            for execution in store.unfinished()
        ]
        assert left == [
            ("e-1", "alice", "psi"),
            ("e-2", "bob", "logistic_regression"),
            ("e-4", "alice", "psi"),
        ]
        event = StatusEvent("e-2", "r-2", "bob", Status.FAILURE, {}, "node-1", "task")
        stored = store.append(event)
        assert stored is not None and stored.seq == last_seq + 1
        assert store.unsent(100)[-1].number == last_number + 1
        assert store.taken_at("e-1") > 1_700_000_000


def test_numbers_go_on_also_when_all_events_were_sent(tmp_path: Path) -> None:
    path = restored(OLDEST, tmp_path)
    with closing(connected(path)) as db:
        db.execute("DELETE FROM events")
    with EventStore(tmp_path) as store:
        store.append(StatusEvent("e-2", "r-2", "bob", Status.FAILURE, {}, "node-1", "task"))
        assert [unsent.number for unsent in store.unsent(10)] == [8]


@pytest.mark.parametrize("dump", STORES, ids=named)
def test_an_upgraded_store_has_the_tables_of_a_new_one(dump: Path, tmp_path: Path) -> None:
    path = restored(dump, tmp_path / "old")
    with EventStore(path.parent):
        pass
    assert shape(path) == shape(new_store(tmp_path / "new"))
    assert shape(path)["version"] == (VERSION,)


@pytest.mark.parametrize("dump", EARLIER, ids=named)
def test_tables_that_a_later_version_left_do_not_hinder(dump: Path, tmp_path: Path) -> None:
    path = restored(dump, tmp_path / "old")
    before = told(path)
    with closing(connected(path)) as db:
        db.executescript(LEFT_BY_A_LATER_VERSION)
    with EventStore(path.parent):
        pass
    after = told(path)
    assert {name: after[name] for name in before} == before
    assert shape(path) == shape(new_store(tmp_path / "new"))


def test_events_of_the_first_versions_may_hold_numbers_that_json_lacks(tmp_path: Path) -> None:
    path = restored(OLDEST, tmp_path)
    with closing(connected(path)) as db:
        db.execute("UPDATE events SET body = replace(body, '0.25', 'NaN')")
    with EventStore(tmp_path) as store:
        bodies = [unsent.event.to_json() for unsent in store.unsent(10)]
    assert '"result": {"rows": 7, "ratio": null}' in bodies[2]


@pytest.mark.parametrize("dump", EARLIER, ids=named)
def test_what_a_killed_node_had_only_in_its_log_counts(dump: Path, tmp_path: Path) -> None:
    path = restored(dump, tmp_path / "old")
    killed = tmp_path / "killed"
    killed.mkdir()
    with closing(connected(path)) as db:
        db.execute("UPDATE executions SET task_id = 'in the log'")
        for name in ("node.sqlite", "node.sqlite-wal"):
            (killed / name).write_bytes((path.parent / name).read_bytes())
    with EventStore(killed) as store:
        assert {execution.request.task_id for execution in store.unfinished()} == {"in the log"}
    with closing(connected(killed / f"node.sqlite.{dump.name[0]}.bak")) as db:
        assert db.execute("SELECT DISTINCT task_id FROM executions").fetchall() == [("in the log",)]


@pytest.fixture(name="quick_folder")
def _quick_folder(tmp_path: Path) -> Iterator[Path]:
    """A folder for hundreds of stores: in memory where there is room, as a disk takes a minute."""
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        yield Path(folder)


def left_by_a_kill_at_each_line(folder: Path, copies: Path) -> list[Path]:
    """Open the store, and copy its folder before each line of `migrations`, twice in a loop.

    A killed process leaves what it has given to the kernel, which is what a copy finds.
    """
    left: list[Path] = []
    visits: Counter[int] = Counter()

    def trace(frame: FrameType, kind: str, _value: object) -> Any:
        if frame.f_code.co_filename != migrations.__file__:
            return None
        if kind == "line":
            visits[frame.f_lineno] += 1
            if visits[frame.f_lineno] <= 2:
                left.append(shutil.copytree(folder, copies / str(len(left))))
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        with EventStore(folder):
            pass
    finally:
        sys.settrace(before)
    return left


@pytest.mark.parametrize("dump", [OLDEST, STORES[-1]], ids=named)
def test_a_node_killed_anywhere_in_an_upgrade_leaves_the_old_store_or_the_new(
    dump: Path, quick_folder: Path
) -> None:
    original = restored(dump, quick_folder / "original")
    before = told(original)
    versions = []
    for folder in left_by_a_kill_at_each_line(original.parent, quick_folder):
        path = folder / original.name
        with closing(connected(path)) as db:
            (version,) = db.execute("PRAGMA user_version").fetchone()
            assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        versions.append(version)
        after = told(path)
        assert {name: after[name] for name in before} == before
        with EventStore(folder):
            pass
        again = told(path)
        assert {name: again[name] for name in before} == before
        assert shape(path)["version"] == (VERSION,)
    assert sorted(set(versions)) == [0, VERSION]
    assert versions == sorted(versions)


def test_the_old_store_is_kept_for_who_goes_back(tmp_path: Path) -> None:
    path = restored(OLDEST, tmp_path)
    with closing(connected(path)) as db:
        before = list(db.iterdump())
    with EventStore(tmp_path) as store:
        store.append(StatusEvent("e-2", "r-2", "bob", Status.FAILURE, {}, "node-1", "task"))
    backup = tmp_path / "node.sqlite.1.bak"
    with closing(connected(backup)) as db:
        assert list(db.iterdump()) == before
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [
        "lock",
        "node.sqlite",
        "node.sqlite.1.bak",
    ]
    backup.replace(path)
    with EventStore(tmp_path) as store:
        assert store.status("e-2", "bob") is Status.RUNNING


def test_a_store_of_this_version_is_opened_as_it_is(tmp_path: Path) -> None:
    path = new_store(tmp_path)
    before = path.read_bytes()
    with EventStore(tmp_path):
        pass
    assert path.read_bytes() == before
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["lock", "node.sqlite"]


def too_new(folder: Path) -> Path:
    """A store of the next version."""
    path = new_store(folder)
    with closing(connected(path)) as db:
        db.execute(f"PRAGMA user_version = {VERSION + 1}")
    return path


def test_a_store_of_a_newer_version_is_refused_untouched(tmp_path: Path) -> None:
    path = too_new(tmp_path)
    before = path.read_bytes()
    written_by = (
        f"has version {VERSION + 1}, written by a newer worker; this one reads up to version"
    )
    with pytest.raises(StoreTooNew, match=f"{written_by} {VERSION}. Start the newer worker again"):
        EventStore(tmp_path)
    assert path.read_bytes() == before


def test_who_refuses_a_newer_store_names_the_one_to_go_back_to(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    too_new(tmp_path)
    for version in (1, VERSION, VERSION + 1):
        (tmp_path / f"node.sqlite.{version}.bak").touch()
    with pytest.raises(SystemExit) as exited:
        guarded(lambda: EventStore(tmp_path))()
    assert exited.value.code == Exit.UNAVAILABLE
    said = capsys.readouterr().err
    backup = tmp_path / f"node.sqlite.{VERSION}.bak"
    assert said.startswith(f"StoreTooNew: The store {tmp_path / 'node.sqlite'} has version")
    assert f"or go back to {backup}, the store before the upgrade." in said


def test_a_refused_store_can_be_opened_by_another(tmp_path: Path) -> None:
    path = too_new(tmp_path)
    with pytest.raises(StoreTooNew):
        EventStore(tmp_path)
    with closing(connected(path)) as db:
        db.execute(f"PRAGMA user_version = {VERSION}")
    with EventStore(tmp_path) as store:
        assert store.unfinished() == []


def test_a_store_that_cannot_be_upgraded_is_as_it_was(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = restored(OLDEST, tmp_path)
    before = told(path)
    (tmp_path / "node.sqlite.new").mkdir()  # in the way of the copy
    with pytest.raises(SystemExit) as exited:
        guarded(lambda: EventStore(tmp_path))()
    assert exited.value.code == Exit.UNAVAILABLE
    assert "StoreUnusable: " in capsys.readouterr().err
    assert told(path) == before
    (tmp_path / "node.sqlite.new").rmdir()
    with EventStore(tmp_path) as store:
        assert len(store.unsent(10)) == len(before["waiting"])


def test_an_upgrade_without_room_leaves_no_half_copy(tmp_path: Path) -> None:
    path = restored(OLDEST, tmp_path)
    with closing(connected(path)) as db:
        db.execute("PRAGMA journal_mode = DELETE")
    before = told(path)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size // 2, limits[1]))
    try:
        with pytest.raises(StoreUnusable):
            EventStore(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["lock", "node.sqlite"]
    assert told(path) == before


def test_what_is_not_a_store_is_refused(tmp_path: Path) -> None:
    (tmp_path / "node.sqlite").write_text("not a store" * 100)
    with pytest.raises(StoreUnusable, match="cannot be opened or upgraded: file is not a database"):
        EventStore(tmp_path)


def test_an_upgrade_waits_for_a_command_that_reads(tmp_path: Path) -> None:
    path = restored(OLDEST, tmp_path)
    reader = sqlite3.connect(f"file:{path}?mode=ro", uri=True, check_same_thread=False)
    reader.execute("SELECT * FROM executions").fetchone()
    timer = threading.Timer(0.2, reader.close)
    timer.start()
    with EventStore(tmp_path) as store:
        assert len(store.unsent(10)) == 5
    timer.join()


def test_an_upgrade_gives_up_when_somebody_reads_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migrations, "_READERS_SECONDS", 0.1)
    path = restored(OLDEST, tmp_path)
    before = told(path)
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as reader:
        reader.execute("SELECT * FROM executions").fetchone()
        with pytest.raises(StoreUnusable, match="database is locked"):
            EventStore(tmp_path)
    assert told(path) == before


@pytest.mark.parametrize("dump", STORES, ids=named)
def test_a_command_that_only_reads_does_not_upgrade(dump: Path, tmp_path: Path) -> None:
    path = restored(dump, tmp_path)
    state = StateFolder(tmp_path)
    assert state.statuses("e-1") == {"alice": "RUNNING", "bob": "SUCCESS"}
    assert state.runs("e-1")
    with closing(connected(path)) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (0,)
