"""Outputs are moved to their places together, or none is, whenever the node is killed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from secretflow_task.contract.errors import OutputNotWritable
from secretflow_task.contract.paths import PathRules
from secretflow_task.node.job.outputs import move_outputs, put_back, remove_staged

STAGING = ".sfworker-test"
BEFORE = {"new/a.csv": None, "b.csv": "old b", "model": ["old"], "c.csv": "old c"}
AFTER = {"new/a.csv": "new a", "b.csv": "new b", "model": ["new"], "c.csv": "new c"}


class Killed(BaseException):
    """The process ends here."""


class Shelf:
    """A party's folder with old outputs and staged new ones."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.rules = PathRules("alice", root)
        self.staged = root / STAGING
        (self.staged / "2").mkdir(parents=True)
        (self.staged / "2" / "new").touch()
        for number, name in enumerate("ab"):
            (self.staged / f"{number}.csv").write_text(f"new {name}")
        (self.staged / "3.csv").write_text("new c")
        (root / "model").mkdir()
        (root / "model" / "old").touch()
        for name in "bc":
            (root / f"{name}.csv").write_text(f"old {name}")
        names = {"0.csv": "new/a.csv", "1.csv": "b.csv", "2": "model", "3.csv": "c.csv"}
        self.outputs = {
            str(self.staged / staged): str(root / name) for staged, name in names.items()
        }

    def content(self) -> dict[str, Any]:
        """What lies at the targets."""
        return {name: self._read(self.root / name) for name in BEFORE}

    @staticmethod
    def _read(path: Path) -> Any:
        if path.is_dir():
            return [item.name for item in path.iterdir()]
        return path.read_text() if path.exists() else None

    def undo(self) -> None:
        """What a node does at its next start with an execution that had failed."""
        put_back([self.staged], self.rules)
        remove_staged([self.staged], succeeded=False)


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    """A new one."""
    return Shelf(tmp_path)


def kill_at_call(patch: pytest.MonkeyPatch, last: int, *names: str) -> None:
    """Let the process die instead of its ``last``-th call of functions of `os`."""
    calls = [0]

    def counted(function: Any) -> Any:
        def call(*arguments: Any, **options: Any) -> Any:
            calls[0] += 1
            if calls[0] == last:
                raise Killed
            return function(*arguments, **options)

        return call

    for name in names:
        patch.setattr(os, name, counted(getattr(os, name)))


def test_outputs_replace_what_was_there(shelf: Shelf) -> None:
    move_outputs(shelf.outputs, shelf.rules, STAGING)
    assert shelf.content() == AFTER
    remove_staged([shelf.staged], succeeded=True)
    assert shelf.content() == AFTER and not shelf.staged.exists()


def test_a_move_can_be_undone_more_than_once(shelf: Shelf) -> None:
    move_outputs(shelf.outputs, shelf.rules, STAGING)
    for _ in range(2):
        put_back([shelf.staged, shelf.root / "never"], shelf.rules)
        assert shelf.content() == BEFORE


@pytest.mark.parametrize("moment", range(1, 10))
def test_whenever_a_node_is_killed_all_is_as_it_was(
    moment: int, shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        kill_at_call(patch, moment, "replace", "link", "fsync")
        with pytest.raises(Killed):
            move_outputs(shelf.outputs, shelf.rules, STAGING)
    shelf.undo()
    assert shelf.content() == BEFORE and not shelf.staged.exists()


@pytest.mark.parametrize("moment", range(1, 8))
def test_undoing_may_be_interrupted_too(
    moment: int, shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    move_outputs(shelf.outputs, shelf.rules, STAGING)
    with monkeypatch.context() as patch:
        kill_at_call(patch, moment, "replace")
        with pytest.raises(Killed):
            shelf.undo()
    shelf.undo()
    assert shelf.content() == BEFORE


@pytest.mark.parametrize("wrong", ["missing.csv", "../b.csv"])
def test_a_job_that_names_what_it_has_not_staged_moves_nothing(wrong: str, shelf: Shelf) -> None:
    outputs = shelf.outputs | {str(shelf.staged / wrong): str(shelf.root / "d.csv")}
    with pytest.raises(OutputNotWritable):
        move_outputs(outputs, shelf.rules, STAGING)
    assert shelf.content() == BEFORE


def test_what_somebody_else_wrote_meanwhile_stays(shelf: Shelf) -> None:
    move_outputs(shelf.outputs, shelf.rules, STAGING)
    later = shelf.root / "later.csv"
    later.write_text("later")
    later.replace(shelf.root / "b.csv")
    shelf.undo()
    assert shelf.content() == BEFORE | {"b.csv": "later"}
    assert [path.read_text() for path in shelf.staged.glob("*.old")] == [
        "old b"
    ]  # nobody else has it


def test_a_folder_in_which_somebody_wrote_is_still_the_one_that_was_moved(shelf: Shelf) -> None:
    move_outputs(shelf.outputs, shelf.rules, STAGING)
    (shelf.root / "model" / "lock").touch()
    shelf.undo()
    assert shelf.content() == BEFORE and not shelf.staged.exists()


def test_what_cannot_be_put_back_is_kept(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    move_outputs(shelf.outputs, shelf.rules, STAGING)

    def fail(*_paths: Path) -> None:
        raise OSError("read-only")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", fail)
        assert not put_back([shelf.staged], shelf.rules)
        remove_staged([shelf.staged], succeeded=False)
    assert put_back([shelf.staged], shelf.rules) and shelf.content() == BEFORE


def test_a_journal_that_cannot_be_written_moves_nothing(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_handle: int) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OutputNotWritable):
        move_outputs(shelf.outputs, shelf.rules, STAGING)
    shelf.undo()
    assert shelf.content() == BEFORE and not shelf.staged.exists()
