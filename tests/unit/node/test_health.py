"""A node says what it cannot do, and asking holds nobody up."""

from __future__ import annotations

import os
import shutil
import threading
from pathlib import Path
from typing import Iterator

import pytest

from secretflow_task.node import folders
from secretflow_task.node.folders import Folder
from secretflow_task.node.health import (
    DATA_DISK_FULL,
    DATA_NOT_WRITABLE,
    PROBLEMS,
    STATE_NOT_WRITABLE,
    TEMPLATE_MISSING,
    WORK_NOT_WRITABLE,
    Health,
    Problem,
)
from tests.bench.disks import disk, fill
from tests.bench.waiting import PATIENCE_SECONDS, wait_for
from tests.unit.node.test_node import Bench


@pytest.fixture(autouse=True)
def _look_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each question is a look, which may take as long as a slow machine needs."""
    monkeypatch.setattr(folders, "_FRESH_SECONDS", 0.0)
    monkeypatch.setattr(folders, "_PATIENCE_SECONDS", PATIENCE_SECONDS)


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Until it is set no file system answers."""
    answers, usage = threading.Event(), shutil.disk_usage

    def hang(path: Path) -> object:
        answers.wait()
        return usage(path)

    monkeypatch.setattr(shutil, "disk_usage", hang)
    monkeypatch.setattr(folders, "_PATIENCE_SECONDS", 0.1)
    yield answers
    answers.set()


def codes(health: Health) -> list[str]:
    """What is wrong."""
    return [problem.code for problem in health.problems()]


def of_data(path: Path) -> Health:
    """What is asked about a data root."""
    health = Health()
    health.watch_folders({"data": Folder(path)})
    return health


def test_a_node_that_can_work_has_no_problem(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    with bench.node() as node:
        assert node.health.problems() == node.describe()["problems"] == []


def test_what_a_node_cannot_do_is_told_with_what_to_do(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    with bench.node() as node:
        bench.template.ready = False
        for folder in ("state", "work", "data"):
            (tmp_path / folder).rename(tmp_path / f"{folder}.away")
        expected = [TEMPLATE_MISSING, DATA_NOT_WRITABLE, STATE_NOT_WRITABLE, WORK_NOT_WRITABLE]
        assert node.health.problems() == expected
        assert node.describe()["problems"] == [problem.to_dict() for problem in expected]
        bench.template.ready = True
        for folder in ("state", "work", "data"):
            (tmp_path / f"{folder}.away").rename(tmp_path / folder)
        assert node.health.problems() == []


def test_each_problem_has_a_code_a_sentence_and_what_to_do() -> None:
    assert len({problem.code for problem in PROBLEMS}) == len(PROBLEMS)
    for problem in PROBLEMS:
        assert problem.code.isalpha()
        assert problem.message.endswith(".") and problem.hint.endswith(".")


def test_a_look_leaves_nothing_behind(tmp_path: Path) -> None:
    assert codes(of_data(tmp_path)) == []
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_a_file_or_read_only_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert codes(of_data(tmp_path / "file")) == [DATA_NOT_WRITABLE.code]
    with disk(tmp_path / "read-only", "size=64k,ro") as folder:
        assert codes(of_data(folder)) == [DATA_NOT_WRITABLE.code]


def test_a_full_disk_is_told_and_so_is_one_that_is_nearly_full(tmp_path: Path) -> None:
    with disk(tmp_path / "small", "size=4m") as folder:
        health = of_data(folder)
        assert codes(health) == []
        filler = fill(folder)
        assert codes(health) == [DATA_NOT_WRITABLE.code, DATA_DISK_FULL.code]
        os.truncate(filler, filler.stat().st_size - 64 * 1024)
        assert codes(health) == [DATA_DISK_FULL.code]
        filler.unlink()
        assert codes(health) == []


def test_a_file_system_that_hangs_holds_up_nobody_and_keeps_one_thread(
    tmp_path: Path, answers: threading.Event
) -> None:
    before, health = threading.active_count(), of_data(tmp_path)
    for _ in range(3):
        assert codes(health) == [DATA_NOT_WRITABLE.code]
    assert threading.active_count() == before + 1
    answers.set()
    wait_for(lambda: codes(health) == [])


def test_a_check_that_fails_counts_as_a_problem_and_hides_no_other() -> None:
    def broken() -> bool:
        raise OSError

    health = Health()
    health.watch(Problem("Broken", "It broke.", "Mend it."), broken)
    health.watch(TEMPLATE_MISSING, lambda: True)
    assert codes(health) == ["Broken", TEMPLATE_MISSING.code]
