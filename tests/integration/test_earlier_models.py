"""Models that earlier versions wrote are refused, and predict as they did once converted.

``tests/data/earlier_models`` was written by the last version whose share files were pickle.
"""

from __future__ import annotations

import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from secretflow_task.engine.model_store import MANIFEST, read_manifest, save_manifest
from tests.integration.bench import Bench, read_csv
from tests.integration.cases import CASES
from tests.integration.test_models import assert_same

pytestmark = pytest.mark.engine

EARLIER = Path(__file__).parents[1] / "data" / "earlier_models"
TRAININGS = ["ss_lr", "ss_glm", "ss_xgb", "ss_kmeans", "sgb"]


def convert(*folders: Path) -> subprocess.CompletedProcess[str]:
    """`sfworker models convert` on each model."""
    script = [sys.executable, "-m", "secretflow_task.engine.earlier_models", *map(str, folders)]
    return subprocess.run(script, capture_output=True, text=True, timeout=90, check=False)


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All of them, converted."""
    folder = tmp_path_factory.mktemp("earlier") / "models"
    shutil.copytree(EARLIER, folder)
    done = convert(*sorted(path.parent for path in folder.rglob(MANIFEST)))
    assert done.returncode == 0, done.stdout
    return folder


@pytest.mark.parametrize("kind", TRAININGS)
def test_a_model_of_an_earlier_version_predicts_as_it_did(
    kind: str, converted: Path, bench: Bench
) -> None:
    workspace = bench.workspace("earlier")
    shutil.copytree(EARLIER / kind / "alice", workspace.path("alice", "model") / "alice")
    shutil.copytree(EARLIER / kind / "bob", workspace.path("bob", "model") / "bob")
    config = CASES[f"{kind}_predict"](workspace)
    refused = bench.execute({"task_config": config})
    assert refused.code == "ModelFormat"  # which party says it first is open
    assert "sfworker models convert" in refused.failures["alice"]["hint"]
    for party in ("alice", "bob"):
        shutil.rmtree(workspace.path(party, "model"))
        shutil.copytree(converted / kind / party, workspace.path(party, "model") / party)
    workspace.run(config)
    assert_same(
        {"alice": read_csv(workspace.path("alice", "out.csv"))},
        {"alice": read_csv(EARLIER / kind / "alice.csv")},
    )


class _RunsCode:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return exec, (f"open({str(MARK)!r}, 'w')",)


MARK = Path("poisoned")


def test_what_cannot_be_converted_stays_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, converted: Path
) -> None:
    monkeypatch.setattr(sys.modules[__name__], "MARK", tmp_path / "mark")
    poisoned, damaged, before = (tmp_path / name for name in ("poisoned", "damaged", "before"))
    for folder in (poisoned, damaged, before):
        shutil.copytree(EARLIER / "ss_lr" / "alice", folder)
    manifest = read_manifest(poisoned, "alice")
    (poisoned / "weights.share").write_bytes(pickle.dumps(_RunsCode()))
    (poisoned / MANIFEST).unlink()
    save_manifest(poisoned, manifest, "alice")
    (damaged / "weights.share").write_bytes(b"")
    before.with_name("before.earlier").mkdir()
    new = converted / "ss_lr" / "alice"
    done = convert(poisoned, damaged, before, new)
    assert done.returncode == 1
    said = [line for line in done.stdout.splitlines() if str(tmp_path) in line or "ss_lr" in line]
    assert [line.partition(":")[0] for line in said] == [
        "Left as it is",
        "Left as it is",
        "Left as it is",
        "Already of this version",
    ]
    assert sorted(os.listdir(tmp_path)) == ["before", "before.earlier", "damaged", "poisoned"]
    assert not any(path.suffix == ".new" for path in tmp_path.iterdir())
