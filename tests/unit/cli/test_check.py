"""`sfworker check` as the node of the settings would run a request."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from secretflow_task.cli.check import print_plan
from secretflow_task.config.settings import Settings
from secretflow_task.contract.errors import InvalidTaskConfig
from secretflow_task.contract.requests import TaskRequest
from secretflow_task.node.link.peer.certificates import make_certificate

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


def test_a_list_of_parties_is_for_one_node(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    params = {"task_config": PSI, "sf_init_config": {"parties": ["alice", "bob"]}}
    request = TaskRequest("r-1", "r-1", params)
    print_plan(request, Settings(data_root=tmp_path, parties=("alice",)))
    assert "SEMI2K" in capsys.readouterr().out
    _, fingerprint = make_certificate("bob", tmp_path, 1)
    peer = {"host": "bob.example", "port": 9443, "certificate": "bob.crt"}
    book = tmp_path / "parties.yaml"
    book.write_text(yaml.safe_dump({"bob": peer | {"fingerprints": [fingerprint]}}))
    with pytest.raises(InvalidTaskConfig, match="bob has a node of its own"):
        print_plan(request, Settings(data_root=tmp_path, parties=("alice",), peers_file=book))
