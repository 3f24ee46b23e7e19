"""Full and read-only disks: the terminal event still arrives, and says what is wrong."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.bench.disks import disk, fill
from tests.bench.waiting import wait_for
from tests.e2e.conftest import psi_params, training_params
from tests.faults.field import Field
from tests.faults.report import Report

pytestmark = [pytest.mark.faults, pytest.mark.engine]


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
