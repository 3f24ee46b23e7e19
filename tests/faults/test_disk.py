"""Full and read-only disks: the terminal event still arrives, and says what is wrong."""

from __future__ import annotations

import subprocess
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator

import pytest

from tests.bench.waiting import wait_for
from tests.e2e.conftest import psi_params, training_params
from tests.faults.field import Field
from tests.faults.report import Report

pytestmark = [pytest.mark.faults, pytest.mark.engine]


@contextmanager
def disk(folder: Path, options: str = "size=4m") -> Iterator[Path]:
    """A small file system of its own at a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("file systems cannot be mounted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder: Path) -> Path:
    """Take all that is left of a disk."""
    filler = folder / "filler"
    with filler.open("ab", buffering=0) as file:
        for size in (65_536, 4096, 1):
            try:
                while True:
                    file.write(b"x" * size)
            except OSError:
                continue
    return filler


@pytest.mark.parametrize(
    ("options", "filled"), [("size=64k", True), ("size=64k,ro", False)], ids=["full", "read-only"]
)
def test_an_output_folder_that_takes_nothing(
    options: str, filled: bool, tmp_path: Path, report: Report
) -> None:
    field = Field(tmp_path, report)
    outputs = {"output_paths": {"alice": "out.csv", "bob": "small/out.csv"}}
    with disk(tmp_path / "data" / "bob" / "small", options) as small, field.redis.running():
        if filled:
            fill(small)
        with field.node() as node:
            struck = time.time()
            node.send("it", psi_params(**outputs))
            what = "full" if filled else "read-only"
            field.settle(f"disk of an output is {what}", struck, {"it": {"OutputNotWritable"}})
            events = field.ended("it")["alice"]
            assert events[-1].data["failed_party"] == "bob"
            assert not (tmp_path / "data" / "alice" / "out.csv").exists()
            field.serves(node, "next")


def test_a_full_disk_of_the_store(tmp_path: Path, report: Report) -> None:
    field = Field(tmp_path, report)
    with disk(tmp_path / "state-one") as small, field.redis.running(), field.node() as node:
        node.send("it", training_params(epochs=30))
        wait_for(field.jobs)
        time.sleep(1.0)
        struck = time.time()
        filler = fill(small)
        field.settle("disk of the store is full", struck, {"it": {"", "JobProcessDied"}})
        filler.unlink()
        field.serves(node, "next")


def test_a_full_disk_of_the_temporary_folder(tmp_path: Path, report: Report) -> None:
    field = Field(tmp_path, report)
    with disk(tmp_path / "work", "size=256k") as small, field.redis.running(), field.node() as node:
        filler = fill(small)
        struck = time.time()
        node.send("it", psi_params())
        field.settle(
            "disk of temporary files is full", struck, {"it": {"OutputNotWritable", "WorkerError"}}
        )
        filler.unlink()
        field.serves(node, "next")
