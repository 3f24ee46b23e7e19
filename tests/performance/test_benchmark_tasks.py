"""The benchmark itself runs."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from subprocess import run

import pytest

from tests.performance.report import pages
from tests.performance.works import works

ROOT = Path(__file__).parents[2]


@pytest.mark.matrix
@pytest.mark.engine
@pytest.mark.timeout(600)
def test_a_quick_run_measures_and_tells_what_is_asked_for(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="`make bench` installs it")
    parts = ["psi", "min_max_scaler", "ss_lr_predict", "status"]
    command = [
        sys.executable,
        "-m",
        "tests.performance.benchmark_tasks",
        "--quick",
        "--into",
        str(tmp_path),
    ]
    run([*command, "--only", *parts], cwd=ROOT, check=True, capture_output=True)
    measured = json.loads((tmp_path / "results.json").read_text())
    assert sorted(measured["tasks"]) == sorted(works(task_type)[0].name for task_type in parts[:-1])
    for work in measured["tasks"].values():
        assert len(work["worker"]) == len(work["warm"]) == 2 and len(work["cold"]) == 1
        assert all(seconds > 0 for side in ("worker", "warm", "cold") for seconds in work[side])
        assert all(peak > 100 for peak in work["megabytes"].values())
    assert measured["tasks"]["psi-10000x2"]["alignment"][0] > 0
    assert measured["status"]["psi"]["delays"]
    assert {path.name: path.read_text() for path in tmp_path.glob("*.md")} == pages(measured)
    assert len(list(tmp_path.glob("*.svg"))) == 2
