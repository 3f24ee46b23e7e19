"""`sfworker check` as the node of the settings would run a request."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from secretflow_task.cli.check import print_plan
from secretflow_task.config.settings import Settings
from secretflow_task.contract.requests import TaskRequest

PSI = {
    "task_type": "psi",
    "keys": {"alice": ["id"], "bob": ["id"]},
    "input_paths": {"alice": "in.csv", "bob": "in.csv"},
    "output_paths": {"alice": "out.csv", "bob": "out.csv"},
    "receiver": "alice",
}


def test_files_of_a_party_at_another_node_are_not_looked_for_here(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in.csv").touch()
    request = TaskRequest("r-1", "r-1", {"task_config": PSI})
    print_plan(request, Settings(data_root=tmp_path, parties=("alice",)))
    printed = capsys.readouterr().out
    assert "CHEETAH" in printed
    assert re.search(r"alice .* in.csv .* exists", printed)
    assert re.search(r"alice .* out.csv .* not yet", printed)
    assert re.search(r"bob .* in.csv +│ +│", printed)
    assert re.search(r"bob .* out.csv +│ +│", printed)
