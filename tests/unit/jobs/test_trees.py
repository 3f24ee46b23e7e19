"""What the boosted trees take, check before cryptography, and keep of a model."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, Mapping

import numpy as np
import pytest

from secretflow_task.contract.errors import BadLabel, InvalidTaskConfig, ValueRange
from secretflow_task.contract.protocols import HeuConfig, Protocol
from secretflow_task.contract.reveals import Fineness, Reveal, Role
from secretflow_task.contract.task_config import parse
from secretflow_task.contract.tasks.trees import SgbConfig, SsXgbConfig, TreeParams
from secretflow_task.jobs.ml_task.sgb import prepare_sgb
from secretflow_task.jobs.ml_task.trees import named_splits, numbered_splits, probabilities
from secretflow_task.jobs.ml_task.xgb import prepare_xgb
from tests.unit.conftest import RunOf
from tests.unit.plan_requests import PATHS, PLAN_REQUESTS

TRAIN = {"train_data": PATHS, "label": "y", "ids": {"alice": ["uid"]}, "model_output": "m"}
ROWS = 6
PROBABILITY = "base_score of a classification is a probability between 0.0001 and 0.9999"
BOB = {"features": ["f3"], "rows": ROWS, "has_label": False}


def training(**params: Any) -> SsXgbConfig:
    """An `ss_xgb` with such parameters."""
    config = parse(SsXgbConfig, {**TRAIN, "params": params}, "ss_xgb")
    assert isinstance(config, SsXgbConfig)
    return config


def write(tmp_path: Path, labels: list[float]) -> None:
    """Alice's table."""
    rows = "".join(f"{y},{1e9 * row},{row:03d}\n" for row, y in enumerate(labels))
    (tmp_path / "data/alice").mkdir(parents=True, exist_ok=True)
    (tmp_path / "data/alice/alice.csv").write_text("y,f1,uid\n" + rows)


def test_defaults_are_those_of_xgboost_or_of_secretflow() -> None:
    assert training().params.model_dump() == {
        "num_boost_round": 10,
        "max_depth": 5,
        "learning_rate": 0.3,
        "objective": "binary:logistic",
        "reg_lambda": 1.0,
        "subsample": 1.0,
        "colsample_by_tree": 1.0,
        "sketch_eps": 0.03,
        "base_score": None,
        "seed": 42,
    }


@pytest.mark.parametrize(
    ("params", "problem"),
    [
        (
            {"num_boost_round": 0},
            "params.num_boost_round: input should be greater than or equal to 1",
        ),
        ({"max_depth": 11}, "params.max_depth: input should be less than or equal to 10"),
        ({"max_depth": 3.5}, "params.max_depth: input should be a valid integer"),
        ({"learning_rate": 0}, "params.learning_rate: input should be greater than 0"),
        ({"learning_rate": 1.1}, "params.learning_rate: input should be less than or equal to 1"),
        ({"learning_rate": "0.1"}, "params.learning_rate: input should be a valid number"),
        ({"reg_lambda": 0}, "params.reg_lambda: input should be greater than or equal to 0.001"),
        ({"sketch_eps": 0.005}, "params.sketch_eps: input should be greater than or equal to 0.01"),
        ({"base_score": 1.0}, f"params: {PROBABILITY}"),
        (
            {"colsample_bytree": 1},
            "unknown key 'params.colsample_bytree', did you mean 'colsample_by_tree'?",
        ),
        ({"gamma": 1}, None),
        ({"objective": "binary:hinge"}, None),
        ({"objective": "tweedie"}, None),
    ],
)  # fmt: skip
def test_a_wrong_parameter_is_refused(params: Mapping[str, Any], problem: str | None) -> None:
    with pytest.raises(InvalidTaskConfig) as caught:
        training(**params)
    assert problem is None or caught.value.message == f"ss_xgb: {problem}.".replace("?.", "?")


@pytest.mark.parametrize(
    ("objective", "engine"),
    [
        ("binary:logistic", "logistic"),
        ("logistic", "logistic"),
        ("reg:squarederror", "linear"),
        ("linear", "linear"),
    ],
)
def test_both_names_of_an_objective_are_understood(objective: str, engine: str) -> None:
    assert training(objective=objective).params.engine_params()["objective"] == engine


def test_base_score_is_a_probability_as_for_xgboost() -> None:
    params = training(base_score=0.2).params
    assert params.engine_params()["base_score"] == pytest.approx(math.log(0.25))
    np.testing.assert_allclose(probabilities(params, np.array([0.0, math.log(4)])), [0.2, 0.5])
    np.testing.assert_allclose(probabilities(TreeParams(), np.array([0.0])), [0.5])


def test_the_request_of_the_plan_is_accepted() -> None:
    config = parse(SsXgbConfig, PLAN_REQUESTS["ss_xgb"], "ss_xgb")
    assert isinstance(config, SsXgbConfig) and config.params.reg_lambda == 0.1


def test_features_may_have_any_scale(make_run: RunOf, tmp_path: Path) -> None:
    write(tmp_path, [0, 1] * 3)
    own = prepare_xgb(make_run("alice", {"bob": BOB}), training())
    assert own.names == {"alice": ["f1"], "bob": ["f3"]} and own.label_party == "alice"
    assert own.values.max() == 5e9 and own.target is None


@pytest.mark.parametrize("labels", [[1, 2] * 3, [-1, 1] * 3, [0, 0.5] * 3, [1] * 6])
def test_a_class_must_be_0_or_1_and_both_must_exist(
    make_run: RunOf, tmp_path: Path, labels: list[float]
) -> None:
    write(tmp_path, labels)
    with pytest.raises(BadLabel):
        prepare_xgb(make_run("alice", {"bob": BOB}), training())


@pytest.mark.parametrize("base, center", [(None, 2e3 + 2.5), (2e3, 2e3)])
def test_a_target_is_standardised_from_where_the_trees_start(
    make_run: RunOf, tmp_path: Path, base: float | None, center: float
) -> None:
    y = 2e3 + np.arange(6.0)
    write(tmp_path, y.tolist())
    config = training(objective="linear", base_score=base)
    own = prepare_xgb(make_run("alice", {"bob": BOB}), config)
    assert own.label is not None and own.target is not None
    assert own.target == pytest.approx((center, math.sqrt(((y - center) ** 2).mean())))
    np.testing.assert_allclose(own.label.ravel() * own.target[1] + own.target[0], y)
    assert (own.label**2).mean() == pytest.approx(1) and config.params.start == 0


def test_many_rows_on_fm64_are_refused_by_all_alike(make_run: RunOf, tmp_path: Path) -> None:
    write(tmp_path, [0, 1] * 2501)
    run = make_run("alice", {"bob": BOB | {"rows": 5002}})
    run.protocol = Protocol("SEMI2K", "FM64")
    with pytest.raises(ValueRange, match="5002 rows are too many") as caught:
        prepare_xgb(run, training())
    assert caught.value.party is None


@pytest.mark.parametrize(
    ("heu", "accepted"),
    [
        ({}, True),
        ({"sk_keeper": "alice", "evaluators": ["bob"]}, True),
        ({"sk_keeper": "bob"}, False),
        ({"evaluators": ["alice", "bob"]}, False),
        ({"evaluators": []}, False),
    ],
)
def test_only_the_label_party_may_hold_the_key(
    make_run: RunOf, tmp_path: Path, heu: dict[str, Any], accepted: bool
) -> None:
    write(tmp_path, [0, 1] * 3)
    run = make_run("alice", {"bob": BOB})
    run.heu = HeuConfig.model_validate(heu)
    config = parse(SgbConfig, TRAIN, "sgb")
    assert isinstance(config, SgbConfig)
    if accepted:
        assert prepare_sgb(run, config).label_party == "alice"
    else:
        with pytest.raises(InvalidTaskConfig, match="heu_config"):
            prepare_sgb(run, config)


def test_splits_are_kept_by_name_as_strict_json_and_found_again_in_any_order() -> None:
    splits = named_splits(["f1", "f2"], [1, -1, 0], [0.1, math.inf, math.inf])
    assert json.dumps(splits, allow_nan=False) == '[["f2", 0.1], null, ["f1", null]]'
    assert numbered_splits(["f2", "f1"], splits) == ([0, -1, 1], [0.1, math.inf, math.inf])


def test_who_learns_what_is_said() -> None:
    names = Reveal(Role.EVERYONE, "names of the features, number of rows", Fineness.NAMES)
    bins = "for every node of the trees: which party splits it, and the number of the bin"
    assert training().reveals() == [names, Reveal(Role.EVERYONE, bins, Fineness.MODEL)]
    sgb = parse(SgbConfig, {**TRAIN, "label_party": "bob"}, "sgb").reveals()
    rows = "which rows lie in which node of every tree, and whose feature splits it"
    sums = "sums of its own gradients over the others' bins, in shuffled order"
    assert sgb == [
        names,
        Reveal(Role.EVERYONE, rows, Fineness.ROW),
        Reveal(Role.LABEL_PARTY, sums, Fineness.BIN, party="bob"),
    ]
