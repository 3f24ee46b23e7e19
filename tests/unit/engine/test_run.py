"""What a task sees of its execution at its own party."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Iterator, Mapping

import pyarrow as pa
import pytest

from secretflow_task.contract.errors import (
    InvalidTaskConfig,
    MissingColumn,
    PathNotAllowed,
    UnsupportedFormat,
)
from secretflow_task.contract.paths import folder_beside
from secretflow_task.data_loader.table import Table
from secretflow_task.engine.status import bind_status_sink
from tests.unit.conftest import RunOf

Events = list[tuple[str, Mapping[str, Any]]]
TABLE = Table(pa.table({"a": ["1"]}), "alice", "x")


@pytest.fixture
def events() -> Iterator[Events]:
    """What the run reports."""
    seen: Events = []
    bind_status_sink(lambda status, data: seen.append((status, dict(data))))
    yield seen
    bind_status_sink(None)


def test_an_output_waits_in_the_staging_folder_and_is_named_by_where_it_will_be(
    make_run: RunOf, tmp_path: Path
) -> None:
    run = make_run("alice")
    target = tmp_path / "data/alice/out/t.csv"
    assert run.write(TABLE, "out/t.csv", "output_data") == str(target)
    assert not target.exists() and not target.parent.exists()
    ((staged, final),) = run.outputs.items()
    assert final == str(target)
    assert Path(staged) == tmp_path / "data/alice/.staging/0.csv"
    assert Path(staged).read_text() == "a\n1\n"


def test_staged_outputs_do_not_overwrite_each_other(make_run: RunOf) -> None:
    run = make_run("alice")
    run.write(TABLE, "a.csv", "train_data")
    run.write(TABLE, "b/a.csv", "test_data")
    run.write(TABLE, "a.parquet", "more")
    run.stage_folder("model", "model_output")
    assert len(run.outputs) == len(set(run.outputs.values())) == 4
    assert all(Path(staged).exists() for staged in run.outputs)


def test_an_output_is_staged_on_the_file_system_of_its_target(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    assert folder_beside(tmp_path / "there/x.csv", ".s") == tmp_path / "there/.s"
    assert folder_beside(tmp_path / "there/not/yet/x.csv", ".s") == tmp_path / "there/.s"


def test_an_output_outside_the_roots_or_of_another_format_is_refused(
    make_run: RunOf, tmp_path: Path
) -> None:
    run = make_run("alice")
    with pytest.raises(PathNotAllowed):
        run.write(TABLE, "../bob/x.csv", "output_data")
    with pytest.raises(UnsupportedFormat):
        run.write(TABLE, "x.txt", "output_data")
    assert run.outputs == {} and not list((tmp_path / "data").rglob("x.*"))


def test_an_output_of_an_earlier_step_is_read_where_it_waits(
    make_run: RunOf, tmp_path: Path
) -> None:
    run = make_run("alice")
    (tmp_path / "data/alice/t.csv").write_text("old\n1\n")
    assert run.read_path("t.csv", "x").columns == ["old"]
    run.write(TABLE, "t.csv", "output_data")
    assert run.read_path("./t.csv", "x").columns == ["a"]
    assert run.read({"alice": "t.csv", "bob": "b.csv"}, "x").columns == ["a"]


def test_an_intermediate_file_lies_in_the_jobs_own_folder_and_is_no_output(
    make_run: RunOf, tmp_path: Path
) -> None:
    run = make_run("alice")
    assert (
        run.write(TABLE, "step:psi.output_paths.parquet", "output_paths")
        == "step:psi.output_paths.parquet"
    )
    assert run.outputs == {}
    assert (
        run.source("step:psi.output_paths.parquet", "x")
        == tmp_path / "job.alice/steps/psi.output_paths.parquet"
    )
    assert run.read_path("step:psi.output_paths.parquet", "x").text("a") == ["1"]


@pytest.mark.parametrize(
    "rest", ["../x.csv", "a/../../x.csv", "/etc/x.csv", "..", "a/..", "x/../../../etc/x.csv"]
)
def test_an_intermediate_path_does_not_leave_the_jobs_own_folder(
    rest: str, make_run: RunOf
) -> None:
    run = make_run("alice")
    for use in (run.source, run.stage):
        with pytest.raises(PathNotAllowed):
            use(f"step:{rest}", "input_data")


def test_a_model_has_one_folder_per_party(make_run: RunOf) -> None:
    run = make_run("alice")
    assert run.model_path({"alice": "m/a", "bob": "m/b"}) == "m/a"
    assert run.model_path("m") == "m"
    run.several = True
    assert run.model_path("m") == "m/alice"
    assert run.model_path({"alice": "m/a", "bob": "m/b"}) == "m/a"


def test_progress_fills_the_second_half(make_run: RunOf, events: Events) -> None:
    run = make_run("alice")
    for share in (0.0, 0.5, 1.0):
        run.progress(share, "training", epoch=1)
    assert events == [
        ("RUNNING", {"stage": "training", "progress": progress, "epoch": 1})
        for progress in (0.5, 0.75, 0.999)
    ]


def test_the_progress_of_a_step_fills_its_share_and_carries_its_name(
    make_run: RunOf, events: Events
) -> None:
    run = make_run("alice")
    for index, name in enumerate(["psi", "scale"]):
        with run.step(name, index, 2):
            run.progress(0.5, "working")
            assert run.model_id == f"e-1/{name}"
    assert events == [
        ("RUNNING", {"stage": "started", "progress": 0.5, "step": "psi"}),
        ("RUNNING", {"stage": "working", "progress": 0.625, "step": "psi"}),
        ("RUNNING", {"stage": "started", "progress": 0.75, "step": "scale"}),
        ("RUNNING", {"stage": "working", "progress": 0.875, "step": "scale"}),
    ]
    assert run.model_id == "e-1"
    assert list(run.timings) == ["psi", "scale"]


def test_an_error_inside_a_step_carries_its_name(make_run: RunOf) -> None:
    run = make_run("alice")
    with pytest.raises(MissingColumn) as caught, run.step("scale", 0, 1):
        raise MissingColumn("No column.")
    assert caught.value.public_message == "Step 'scale': No column."
    with pytest.raises(MissingColumn) as caught, run.named_step("outer"):
        raise MissingColumn("No column.", step="inner")
    assert caught.value.step == "inner"
    assert run.model_id == "e-1"


def test_times_of_one_name_add_up_also_after_an_error(make_run: RunOf) -> None:
    run = make_run("alice")
    for _ in range(2):
        with pytest.raises(KeyError), run.timed("prepare"):
            raise KeyError
    assert list(run.timings) == ["prepare"] and run.timings["prepare"] >= 0


def test_a_stage_within_itself_counts_once(
    make_run: RunOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, clock = make_run(), iter(range(100))
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    with run.timed("prepare"), run.timed("prepare"), run.timed("task_execution"):
        pass
    assert run.timings == {"task_execution": 1, "prepare": 3}


def test_agree_tells_the_own_facts_and_returns_everyones(make_run: RunOf) -> None:
    run = make_run("bob", {"alice": {"rows": 3}}, {"alice": {"rows": 4}})
    assert run.agree(rows=5) == {"alice": {"rows": 3}, "bob": {"rows": 5}}
    assert run.agree() == {"alice": {"rows": 4}, "bob": {}}


def test_a_party_without_a_file_is_told_so(make_run: RunOf) -> None:
    with pytest.raises(InvalidTaskConfig):
        make_run("carol").read({"alice": "a.csv"}, "train_data")
