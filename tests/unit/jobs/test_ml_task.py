"""What training and prediction take, and what they check before cryptography starts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Mapping

import numpy as np
import pytest

from secretflow_task.contract.errors import (
    AmbiguousColumn,
    BadColumnType,
    BadLabel,
    FeatureRange,
    InvalidTaskConfig,
    MissingColumn,
    MissingFile,
    MissingValues,
    ModelDamaged,
    ModelMismatch,
    RowCountMismatch,
    TooFewRows,
    WorkerError,
)
from secretflow_task.contract.reveals import Fineness, Reveal, Role
from secretflow_task.contract.task_config import Use, parse
from secretflow_task.contract.tasks.learning import PredictConfig
from secretflow_task.contract.tasks.linear import SsLrConfig
from secretflow_task.engine.model_store import Manifest, load_manifest, save_manifest
from secretflow_task.jobs.ml_task.linear import prepare_regression
from secretflow_task.jobs.ml_task.prediction import prepare_prediction
from tests.unit.conftest import RunOf
from tests.unit.plan_requests import PATHS, PLAN_REQUESTS

prepare_lr_prediction = prepare_prediction("ss_lr")
TRAIN = {"train_data": PATHS, "label": "y", "model_output": "m"}
PREDICT = {"predict_data": PATHS, "model_path": "m", "output_path": "p.csv"}
ROWS = 6
BOB = {"features": ["f3"], "rows": ROWS, "has_label": False}
ALICE = "y,f2,uid,f1\n" + "".join(
    f"{row % 2},{row / 10},{row:03d},{-row / 5}\n" for row in range(ROWS)
)


def training(**values: Any) -> SsLrConfig:
    """An `ss_lr` with other values."""
    config = parse(SsLrConfig, {**TRAIN, "ids": {"alice": ["uid"]}, **values}, "ss_lr")
    assert isinstance(config, SsLrConfig)
    return config


def prediction(**values: Any) -> PredictConfig:
    """An `ss_lr_predict` with other values."""
    config = parse(PredictConfig, {**PREDICT, **values}, "ss_lr_predict")
    assert isinstance(config, PredictConfig)
    return config


def write(tmp_path: Path, content: str = ALICE) -> None:
    """Alice's table."""
    (tmp_path / "data/alice").mkdir(parents=True, exist_ok=True)
    (tmp_path / "data/alice/alice.csv").write_text(content)


def test_parameters_have_the_usual_names_and_defaults() -> None:
    assert training().params.model_dump() == {
        "epochs": 10,
        "learning_rate": 0.1,
        "batch_size": 128,
        "penalty": "None",
        "l2_norm": 0.1,
        "sig_type": "real",
        "reg_type": "logistic",
        "tol": 0.0,
        "report_metrics": False,
        "allow_unscaled": False,
    }


@pytest.mark.parametrize(
    ("params", "problem"),
    [
        ({"epochs": 0}, "params.epochs: input should be greater than or equal to 1"),
        ({"learning_rate": 0}, "params.learning_rate: input should be greater than 0"),
        ({"learning_rate": "0.1"}, "params.learning_rate: input should be a valid number"),
        ({"learning_rate": float("inf")}, "params.learning_rate: input should be a finite number"),
        ({"batch_size": 0}, "params.batch_size: input should be greater than or equal to 1"),
        ({"batch_size": 1.5}, "params.batch_size: input should be a valid integer"),
        ({"penalty": "l1"}, "params.penalty: input should be 'None' or 'l2'"),
        ({"tol": 1}, "params.tol: input should be less than 1"),
        ({"learning_rat": 1}, "unknown key 'params.learning_rat', did you mean 'learning_rate'?"),
    ],
)
def test_a_wrong_parameter_is_refused(params: Mapping[str, Any], problem: str) -> None:
    with pytest.raises(InvalidTaskConfig) as caught:
        training(params=params)
    assert caught.value.message == f"ss_lr: {problem}.".replace("?.", "?")


def test_training_reveals_names_and_rows_and_more_only_where_it_is_asked_for() -> None:
    known = Reveal(Role.EVERYONE, "names of the features, number of rows", Fineness.NAMES)
    assert training().reveals() == [known]
    reporting = training(params={"report_metrics": True, "tol": 0.01}, label_party="bob")
    metrics = "loss and AUC or R2 per epoch"
    assert reporting.reveals() == [
        known,
        Reveal(Role.EVERYONE, "after how many epochs training stopped", Fineness.MODEL),
        Reveal(Role.LABEL_PARTY, metrics, Fineness.MODEL, ("y",), "bob"),
    ]


def test_only_the_receiver_of_a_prediction_sees_it() -> None:
    predicted = "the prediction for every row"
    told = prediction(receiver="bob").reveals()
    assert told[1:] == [Reveal(Role.RECEIVER, predicted, Fineness.ROW, party="bob")]
    assert told[1].learners(["alice", "bob"], label_party="alice") == ["bob"]
    (unnamed,) = prediction().reveals()[1:]
    assert unnamed.learners(["alice", "bob"]) is None
    assert unnamed.learners(["alice", "bob"], label_party="alice") == ["alice"]
    assert prediction(receiver="bob").outputs() == [Use("bob", "p.csv", (), "output_path")]
    assert [use.party for use in prediction().models()] == ["alice", "bob"]


def test_training_agrees_on_features_rows_and_label(make_run: RunOf, tmp_path: Path) -> None:
    write(tmp_path)
    run = make_run("alice", {"bob": BOB})
    own = prepare_regression(run, training())
    assert own.names == {"alice": ["f2", "f1"], "bob": ["f3"]} and own.count == 3
    assert own.label_party == "alice" and own.label is not None and own.target is None
    assert own.label.tolist() == [[row % 2] for row in range(ROWS)]
    np.testing.assert_allclose(own.values, [[row / 10, -row / 5] for row in range(ROWS)])
    assert run.channel.offered == [  # type: ignore[attr-defined]
        {"features": ["f2", "f1"], "rows": ROWS, "has_label": True}
    ]


def test_asked_features_come_in_the_order_of_the_request(make_run: RunOf, tmp_path: Path) -> None:
    write(tmp_path)
    own = prepare_regression(make_run("alice", {"bob": BOB}), training(features=["f3", "f1", "f2"]))
    assert own.names == {"alice": ["f1", "f2"], "bob": ["f3"]}
    assert own.values[1].tolist() == [-0.2, 0.1]


def test_the_request_of_the_plan_prepares(make_run: RunOf, tmp_path: Path) -> None:
    write(tmp_path)
    config = parse(SsLrConfig, PLAN_REQUESTS["ss_lr"], "ss_lr")
    assert prepare_regression(make_run("alice", {"bob": BOB}), config).count == 3


def test_a_party_without_the_label_has_none(make_run: RunOf, tmp_path: Path) -> None:
    write(tmp_path, ALICE.replace("y,", "z,"))
    own = prepare_regression(make_run("alice", {"bob": {**BOB, "has_label": True}}), training())
    assert (own.label, own.label_party) == (None, "bob")


def test_the_target_of_a_regression_is_standardised(make_run: RunOf, tmp_path: Path) -> None:
    write(tmp_path)
    config = training(label="f1", params={"reg_type": "linear"})
    own = prepare_regression(make_run("alice", {"bob": BOB}), config)
    raw = np.array([-row / 5 for row in range(ROWS)])
    assert own.label is not None
    assert own.target == pytest.approx((raw.mean(), raw.std()))
    np.testing.assert_allclose(own.label.ravel(), (raw - raw.mean()) / raw.std())


@pytest.mark.parametrize(
    ("old", "new", "error"),
    [
        ("0.3,", "x,", BadColumnType),
        ("0.3,", ",", MissingValues),
        ("0.3,", "900,", FeatureRange),
        ("1,0.3", "2,0.3", BadLabel),
        ("1,0.3", "NA,0.3", MissingValues),
        ("uid", "id", MissingColumn),
    ],
)
def test_bad_input_is_found_at_its_owner_before_any_agreement(
    old: str, new: str, error: type[WorkerError], make_run: RunOf, tmp_path: Path
) -> None:
    assert old in ALICE
    write(tmp_path, ALICE.replace(old, new))
    run = make_run("alice", {"bob": BOB})
    with pytest.raises(error) as caught:
        prepare_regression(
            run, training(features=["f1", "f2", "f3"] if error is BadColumnType else None)
        )
    assert caught.value.party == "alice"
    assert run.channel.offered == []  # type: ignore[attr-defined]


@pytest.mark.parametrize("label", ["1", "0"])
def test_a_constant_label_is_refused(label: str, make_run: RunOf, tmp_path: Path) -> None:
    write(tmp_path, "y,f1\n" + f"{label},0.5\n" * 3)
    with pytest.raises(BadLabel):
        prepare_regression(make_run("alice", {"bob": BOB}), training(ids=None))
    with pytest.raises(BadLabel, match="is constant"):
        prepare_regression(
            make_run("alice", {"bob": BOB}), training(ids=None, params={"reg_type": "linear"})
        )


def test_unscaled_features_are_taken_only_when_they_are_allowed(
    make_run: RunOf, tmp_path: Path
) -> None:
    write(tmp_path, "y,f1\n0,1000\n1,-1000\n0,1\n1,1\n")
    facts = {"bob": {**BOB, "rows": 4}}
    with pytest.raises(FeatureRange, match="^alice: feature 'f1' of train_data is not scaled.$"):
        prepare_regression(make_run("alice", facts), training(ids=None))
    allowed = training(ids=None, params={"allow_unscaled": True})
    assert prepare_regression(make_run("alice", facts), allowed).values.max() == 1000


@pytest.mark.parametrize(
    ("facts", "values", "error"),
    [
        ({"rows": ROWS + 1}, {}, RowCountMismatch),
        ({"has_label": True}, {}, AmbiguousColumn),
        ({"features": ["f1"]}, {}, AmbiguousColumn),
        ({"features": ["f3", "f4", "f5", "f6"]}, {}, TooFewRows),
        ({}, {"features": ["f1", "f9"]}, MissingColumn),
        ({}, {"label_party": "bob"}, MissingColumn),
    ],
)
def test_what_does_not_fit_with_the_peers_is_refused(
    facts: Mapping[str, Any],
    values: Mapping[str, Any],
    error: type[WorkerError],
    make_run: RunOf,
    tmp_path: Path,
) -> None:
    write(tmp_path)
    with pytest.raises(error):
        prepare_regression(make_run("alice", {"bob": {**BOB, **facts}}), training(**values))


MODEL = Manifest(
    model_id="e-0",
    model_type="ss_lr",
    parties=["alice", "bob"],
    features={"alice": ["f1", "f2"], "bob": ["f3"]},
    protocol="SEMI2K",
    field="FM128",
    params=training().params.model_dump(),
    label="y",
    label_party="alice",
)


def save(tmp_path: Path, manifest: Manifest = MODEL) -> dict[str, Any]:
    """Alice's part of a model; returns the facts that bob has about his."""
    folder = tmp_path / "data/alice/m"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "weights.share").write_bytes(b"share")
    save_manifest(folder, manifest, "alice")
    return {"rows": ROWS, "model": manifest.digest()}


def test_prediction_takes_the_features_of_the_model_by_name(
    make_run: RunOf, tmp_path: Path
) -> None:
    facts = save(tmp_path)
    write(tmp_path)
    own = prepare_lr_prediction(make_run("alice", {"bob": facts}), prediction())
    assert own.names == MODEL.features
    assert own.values[1].tolist() == [-0.2, 0.1]
    assert (own.label_party, own.receiver) == ("alice", "alice")
    assert own.model == load_manifest(own.folder, "alice")
    assert (
        prepare_lr_prediction(
            make_run("alice", {"bob": facts}), prediction(receiver="bob")
        ).receiver
        == "bob"
    )


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"model_type": "ss_glm"}, ModelMismatch),
        ({"parties": ["alice", "carol"]}, ModelMismatch),
        ({"protocol": "CHEETAH"}, ModelMismatch),
        ({"field": "FM64"}, ModelMismatch),
        ({"features": {"alice": ["f1", "f9"], "bob": ["f3"]}}, MissingColumn),
    ],
)
def test_a_model_that_does_not_fit_is_refused(
    change: Mapping[str, Any], error: type[WorkerError], make_run: RunOf, tmp_path: Path
) -> None:
    facts = save(tmp_path, replace(MODEL, **change))
    write(tmp_path)
    run = make_run("alice", {"bob": facts})
    with pytest.raises(error):
        prepare_lr_prediction(run, prediction())
    assert run.channel.offered == []  # type: ignore[attr-defined]


def test_parts_of_different_trainings_are_refused(make_run: RunOf, tmp_path: Path) -> None:
    facts = save(tmp_path)
    write(tmp_path)
    with pytest.raises(ModelMismatch, match="different trainings"):
        prepare_lr_prediction(make_run("alice", {"bob": {**facts, "model": "other"}}), prediction())
    with pytest.raises(RowCountMismatch):
        prepare_lr_prediction(make_run("alice", {"bob": {**facts, "rows": 1}}), prediction())


def test_a_missing_or_damaged_model_is_refused(make_run: RunOf, tmp_path: Path) -> None:
    write(tmp_path)
    with pytest.raises(MissingFile):
        prepare_lr_prediction(make_run("alice"), prediction())
    save(tmp_path)
    (tmp_path / "data/alice/m/weights.share").write_bytes(b"other")
    with pytest.raises(ModelDamaged):
        prepare_lr_prediction(make_run("alice"), prediction())


def test_ids_that_are_not_there_are_missed(make_run: RunOf, tmp_path: Path) -> None:
    facts = save(tmp_path)
    write(tmp_path)
    with pytest.raises(MissingColumn, match="'customer'"):
        prepare_lr_prediction(
            make_run("alice", {"bob": facts}), prediction(ids={"alice": ["customer"]})
        )
