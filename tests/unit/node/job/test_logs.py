"""Logs of jobs are bounded in age (the tests of the supervisor bound their length)."""

from __future__ import annotations

import os
import time
from pathlib import Path

from secretflow_task.node.job.logs import forget_old, trim


def test_logs_go_when_nobody_has_written_to_them_for_long(tmp_path: Path) -> None:
    for name, days in (("old.log", 31), ("new.log", 29)):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (time.time() - days * 86400,) * 2)
    forget_old(tmp_path, 30)
    assert [path.name for path in tmp_path.iterdir()] == ["new.log"]


def test_a_short_log_is_left_alone_and_a_missing_one_is_no_fault(tmp_path: Path) -> None:
    (tmp_path / "a.log").write_text("short")
    trim(tmp_path / "a.log", 5)
    trim(tmp_path / "none.log", 5)
    assert (tmp_path / "a.log").read_text() == "short"
