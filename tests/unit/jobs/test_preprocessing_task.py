"""The scaler is scikit-learn's, at the owner of the columns, and applies an earlier fit."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any, Mapping

import numpy as np
import pytest
from sklearn.preprocessing import StandardScaler

from secretflow_task.contract.errors import (
    BadColumnType,
    InvalidTaskConfig,
    MissingColumn,
    MissingFile,
    ModelMismatch,
    NonFiniteValues,
    RowCountMismatch,
    TooFewRows,
    WorkerError,
)
from secretflow_task.contract.reveals import Fineness, Reveal, Role
from secretflow_task.contract.task_config import parse
from secretflow_task.contract.task_dispatcher import TaskDispatcher
from secretflow_task.contract.tasks.splitting import TrainTestSplitConfig
from secretflow_task.contract.tasks.transformation import StandardScalerConfig
from secretflow_task.data_loader.table import Table
from secretflow_task.engine.devices import Devices
from secretflow_task.engine.model_store import load_manifest
from secretflow_task.engine.run import Run
from secretflow_task.jobs.preprocessing_task import prepare_split
from secretflow_task.testing import MemoryChannel
from tests.unit.conftest import RunOf
from tests.unit.plan_requests import PATHS, PLAN_REQUESTS

SCALE = {"input_data": PATHS, "output_data": {"alice": "out/a.csv", "bob": "out/b.csv"}}
SPLIT = {
    "input_data": PATHS,
    "train_data": {"alice": "tr/a.csv", "bob": "tr/b.csv"},
    "test_data": {"alice": "te/a.csv", "bob": "te/b.csv"},
}
ALICE = "uid,age,income\n007,20,1e3\n008,40,\n009,90,-2e3\n010,30,5.5\n"
BOB = {"features": ["score"], "rows": 4}


@pytest.fixture
def alice(make_run: RunOf, tmp_path: Path) -> Run:
    """Alice's run with her table; bob holds the column `score`."""
    run = make_run("alice", {"bob": BOB}, {"bob": BOB})
    (tmp_path / "data/alice/alice.csv").write_text(ALICE)
    return run


def scale(run: Run, **values: Any) -> dict[str, Any]:
    """Run the scaler at one party and return its result."""
    config = TaskDispatcher.get("standard_scaler").parse({**SCALE, **values})
    return TaskDispatcher.dispatch("standard_scaler", Devices(run), config)


def staged(run: Run, end: str) -> Path:
    """Where an output waits."""
    return next(Path(path) for path, target in run.outputs.items() if target.endswith(end))


def plaintext(with_mean: bool = True, with_std: bool = True) -> StandardScaler:
    """scikit-learn's scaler, fitted to alice's columns."""
    values = np.genfromtxt(io.StringIO(ALICE), delimiter=",", skip_header=1, usecols=(1, 2))
    scaler = StandardScaler(with_mean=with_mean, with_std=with_std)
    scaler.fit(values)
    scaler.scaled = scaler.transform(values)
    return scaler


@pytest.mark.parametrize("with_mean", [True, False])
@pytest.mark.parametrize("with_std", [True, False])
def test_scaled_columns_are_those_of_scikit_learn(
    with_mean: bool, with_std: bool, alice: Run, tmp_path: Path
) -> None:
    result = scale(
        alice, columns=["score", "age", "income"], with_mean=with_mean, with_std=with_std
    )
    expected = plaintext(with_mean, with_std)
    table = Table.read(staged(alice, "out/a.csv"), "alice", "output_data")
    assert table.columns == ["uid", "age", "income"] and table.text("uid") == [
        "007",
        "008",
        "009",
        "010",
    ]
    np.testing.assert_allclose(
        table.numbers(["age", "income"], missing=True), expected.scaled, rtol=1e-14
    )
    assert result["rows"] == 4 and result["columns_used"] == ["age", "income"]
    assert result["output_data"] == {"alice": str(tmp_path / "data/alice/out/a.csv")}
    shown = {
        "mean": expected.mean_ if with_mean else None,
        "std": expected.scale_ if with_std else None,
    }
    for name, values in shown.items():
        if values is None:
            assert name not in result
        else:
            assert result[name] == pytest.approx(dict(zip(["age", "income"], values)))


def test_a_constant_column_becomes_zeros_as_in_scikit_learn(
    make_run: RunOf, tmp_path: Path
) -> None:
    run = make_run("alice", {"bob": BOB})
    (tmp_path / "data/alice/alice.csv").write_text("c\n3\n3\n3\n3\n")
    assert scale(run, columns=["c"])["std"] == {"c": 1.0}
    assert Table.read(staged(run, "out/a.csv"), "alice", "x").numbers(["c"]).tolist() == [[0]] * 4


def test_a_party_without_asked_columns_writes_its_table_as_it_is(alice: Run) -> None:
    result = scale(alice, columns=["score"])
    assert staged(alice, "out/a.csv").read_text() == ALICE
    assert (result["columns_used"], result["mean"], result["std"]) == ([], {}, {})


def test_without_a_list_ids_and_label_are_not_scaled(alice: Run) -> None:
    assert scale(alice, ids={"alice": ["uid"]}, label="age")["columns_used"] == ["income"]


def test_what_was_fitted_is_saved_and_applied_in_another_execution(
    alice: Run, make_run: RunOf, tmp_path: Path
) -> None:
    fitted = scale(alice, columns=["age", "income", "score"], model_output="models/scaler")
    model = tmp_path / "data/alice/models/scaler"
    assert fitted["model_output"] == {"alice": str(model)}
    model.parent.mkdir()
    staged(alice, "models/scaler").rename(model)
    manifest = load_manifest(model, "alice")
    assert manifest.features == {"alice": ["age", "income"], "bob": ["score"]}
    assert (manifest.model_type, manifest.model_id, manifest.parties) == (
        "standard_scaler",
        "e-1",
        ["alice", "bob"],
    )

    facts = {"model": manifest.digest(), "rows": 1}
    later = make_run("alice", {"bob": facts})
    (tmp_path / "data/alice/alice.csv").write_text("income,extra,age\n100,x,25\n")
    result = scale(later, model_path="models/scaler")
    assert (result["mean"], result["std"]) == (fitted["mean"], fitted["std"])
    table = Table.read(staged(later, "out/a.csv"), "alice", "x")
    assert table.columns == ["income", "extra", "age"]
    np.testing.assert_allclose(
        table.numbers(["age", "income"]), plaintext().transform([[25, 100]]), rtol=1e-14
    )
    assert later.channel.offered[0]["model"] == manifest.digest()  # type: ignore[attr-defined]

    other = make_run("alice", {"bob": {**facts, "model": "of another training"}})
    with pytest.raises(ModelMismatch, match="different trainings"):
        scale(other, model_path="models/scaler")


def test_a_model_that_is_not_there_is_missed(alice: Run) -> None:
    with pytest.raises(MissingFile, match="^alice: model_path holds no model.$"):
        scale(alice, model_path="models/none")


@pytest.mark.parametrize(
    ("content", "error"),
    [
        ("age\n1\nx\n3\n4\n", BadColumnType),
        ("age\n1\ninf\n3\n4\n", NonFiniteValues),
        ("old\n1\n2\n3\n4\n", MissingColumn),
        ("age\n1\n2\n", RowCountMismatch),
    ],
)
def test_bad_input_is_refused(
    content: str, error: type[WorkerError], make_run: RunOf, tmp_path: Path
) -> None:
    run = make_run("alice", {"bob": BOB})
    (tmp_path / "data/alice/alice.csv").write_text(content)
    with pytest.raises(error):
        scale(run, columns=["age", "score"])
    assert run.outputs == {}


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({}, "give columns, or ids or label so that they are not transformed"),
        ({"columns": [], "ids": {}}, "columns: name one column or more, or leave it out"),
        (
            {"columns": ["a"], "output_data": {"alice": "x.csv"}},
            "input_data and output_data must name the same parties: output_data lacks bob",
        ),
        (
            {"columns": ["a"], "model_path": "m"},
            "model_path goes without columns, which the model has",
        ),
        ({"columns": ["a"], "with_men": True}, "unknown key 'with_men', did you mean 'with_mean'?"),
        ({"columns": ["a"], "with_mean": "true"}, "with_mean: input should be a valid boolean"),
    ],
)
def test_a_wrong_scaler_is_refused(values: Mapping[str, Any], problem: str) -> None:
    with pytest.raises(InvalidTaskConfig) as caught:
        parse(StandardScalerConfig, {**SCALE, **values}, "standard_scaler")
    assert caught.value.message == f"standard_scaler: {problem}.".replace("?.", "?")


def test_a_scaler_shows_the_others_names_and_rows_only() -> None:
    config = parse(StandardScalerConfig, PLAN_REQUESTS["standard_scaler"], "x")
    what = "names of the transformed columns, number of rows"
    assert config.reveals() == [Reveal(Role.EVERYONE, what, Fineness.NAMES)]


def test_a_result_counts_categories_that_are_too_many_to_show(alice: Run, tmp_path: Path) -> None:
    rows = "".join(f"{row},{row % 2}\n" for row in range(1001))
    (tmp_path / "data/alice/alice.csv").write_text("many,few\n" + rows)
    config = TaskDispatcher.get("label_encoder").parse({**SCALE, "columns": ["many", "few"]})
    alice.channel = MemoryChannel("alice", {"bob": {"features": [], "rows": 1001}})
    result = TaskDispatcher.dispatch("label_encoder", Devices(alice), config)
    assert result["category_count"] == {"many": 1001, "few": 2}
    assert result["categories"] == {"few": [0, 1]}


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"train_size": 1.0}, "train_size: input should be less than 1"),
        (
            {"train_size": 0.7, "test_size": 0.1},
            "unknown key 'test_size', did you mean 'train_size'?",
        ),
        ({"train_size": 0}, "train_size: input should be greater than 0"),
        ({"seed": -1}, "seed: input should be greater than or equal to 0"),
        (
            {"test_data": {"alice": "x.csv"}},
            "input_data, train_data and test_data must name the same parties: test_data lacks bob",
        ),
        (
            {"stratify": {"party": "carol", "column": "y"}},
            "stratify.party is carol, who is not in input_data",
        ),
    ],
)
def test_a_wrong_split_is_refused(values: Mapping[str, Any], problem: str) -> None:
    with pytest.raises(InvalidTaskConfig) as caught:
        parse(TrainTestSplitConfig, {**SPLIT, **values}, "train_test_split")
    assert caught.value.message == f"train_test_split: {problem}.".replace("?.", "?")


def test_a_split_by_a_label_tells_the_others_so() -> None:
    rows = Reveal(Role.EVERYONE, "number of rows", Fineness.COUNT)
    assert parse(TrainTestSplitConfig, SPLIT, "x").reveals() == [rows]
    config = parse(
        TrainTestSplitConfig, {**SPLIT, "stratify": {"party": "alice", "column": "y"}}, "x"
    )
    what = "which rows are for training, drawn in private within the groups of the label"
    told = Reveal(Role.OTHERS, what, Fineness.ROW, ("y",), "alice")
    assert config.reveals() == [rows, told]
    assert told.learners(["alice", "bob"]) == ["bob"]


def test_a_split_needs_the_same_rows_everywhere(
    alice: Run, make_run: RunOf, tmp_path: Path
) -> None:
    config = parse(TrainTestSplitConfig, SPLIT, "x")
    assert prepare_split(alice, config).table.rows == 4
    assert alice.channel.offered == [{"rows": 4}]  # type: ignore[attr-defined]
    with pytest.raises(RowCountMismatch):
        prepare_split(make_run("alice", {"bob": {"rows": 5}}), config)
    (tmp_path / "data/alice/alice.csv").write_text("uid\n1\n")
    with pytest.raises(TooFewRows, match="^alice: a split needs two rows or more.$"):
        prepare_split(alice, config)


def test_the_label_of_a_split_must_be_there(alice: Run) -> None:
    config = parse(
        TrainTestSplitConfig, {**SPLIT, "stratify": {"party": "alice", "column": "y"}}, "x"
    )
    with pytest.raises(MissingColumn, match="no column 'y'"):
        prepare_split(alice, config)
