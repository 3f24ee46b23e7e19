"""What the kernel says of memory."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from secretflow_task.node.job.vitals import memory_size_bytes


@pytest.mark.parametrize("text", [None, "max", "9223372036854771712"])
def test_without_a_limit_the_memory_is_the_machines(text: str | None, tmp_path: Path) -> None:
    if text:
        (tmp_path / "limit").write_text(f"{text}\n")
    assert memory_size_bytes([tmp_path / "limit"]) == psutil.virtual_memory().total


def test_a_containers_limit_counts(tmp_path: Path) -> None:
    (tmp_path / "limit").write_text("4194304\n")
    assert memory_size_bytes([tmp_path / "none", tmp_path / "limit"]) == 4_194_304
