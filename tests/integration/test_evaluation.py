"""Evaluations in job processes, and what SecretFlow itself makes of the same numbers."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn import metrics

from secretflow_task.jobs.evaluation_task import biclassification_figures, regression_figures
from tests.data.scores import classifications, classified, measured, regressions
from tests.integration.bench import Workspace

pytestmark = pytest.mark.engine


def evaluation(
    workspace: Workspace, task_type: str, party: str = "alice", **more: Any
) -> dict[str, Any]:
    """A request to evaluate the column `p` of ``scores.parquet`` against `y` of ``truth.csv``."""
    return {
        "task_type": task_type,
        "label": {"party": party, "path": workspace.text("truth.csv"), "column": "y"},
        "prediction": {"party": party, "path": workspace.text("scores.parquet"), "column": "p"},
        **more,
    }


def write_scores(workspace: Workspace, party: str, values: Any) -> None:
    """The predictions of a party as Parquet, between columns that are not asked for."""
    path = workspace.path(party, "scores.parquet")
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = range(len(values))
    pd.DataFrame({"uid": [f"{row}" for row in rows], "p": values, "other": rows}).to_parquet(path)


def test_figures_of_a_regression_go_to_the_label_party_or_if_shared_to_all(
    workspace: Workspace,
) -> None:
    label, prediction = measured(1e9)
    workspace.write("truth.csv", {"bob": {"z": [""] * len(label), "y": label.tolist()}})
    write_scores(workspace, "bob", prediction)
    parties = {"sf_init_config": {"parties": ["alice", "bob", "carol"]}}
    kept = workspace.run(evaluation(workspace, "regression_eval", "bob"), **parties).results
    assert set(kept["alice"]) == set(kept["carol"]) == {"columns_used", "timings"}
    assert kept["bob"]["r2"] == pytest.approx(metrics.r2_score(label, prediction), rel=1e-7)
    assert kept["bob"]["columns_used"] == ["y", "p"]
    shared = workspace.run(
        evaluation(workspace, "regression_eval", "bob", share=True), **parties
    ).results
    figures = {"mse", "rmse", "mae", "mape", "r2", "explained_variance"}
    assert set(shared["alice"]) == set(shared["carol"]) == figures | {"columns_used", "timings"}
    assert {name: shared["alice"][name] for name in figures} == {
        name: kept["bob"][name] for name in figures
    }
    assert len(shared["bob"]["residual_histogram"]) == 10


def test_a_figure_that_is_not_defined_is_null_and_says_why(workspace: Workspace) -> None:
    label, prediction = regressions()["a label of zero"]
    workspace.write("truth.csv", {"alice": {"y": label.tolist()}})
    write_scores(workspace, "alice", prediction)
    result = workspace.run(evaluation(workspace, "regression_eval")).results["alice"]
    assert (result["mape"], result["mape_note"]) == (None, "Not defined: a label is zero.")
    assert result["r2"] == pytest.approx(metrics.r2_score(label, prediction))


def test_a_boolean_label_is_evaluated_also_after_it_became_text(workspace: Workspace) -> None:
    label, score = classified(60)
    ids = [f"{row:03d}" for row in range(60)]
    path = workspace.path("alice", "in.parquet")
    path.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame({"uid": ids, "y": label.astype(bool), "p": score}).to_parquet(path)
    match = {
        "task_type": "psi",
        "keys": {"alice": ["uid"], "bob": ["uid"]},
        "input_paths": {"alice": workspace.text("in.parquet")}
        | workspace.write("b.csv", {"bob": {"uid": ids}}),
        "output_paths": workspace.paths("out.csv"),
        "receiver": "alice",
    }
    at = {"party": "alice", "path": {"step": "match", "output": "output_paths"}}
    judge = {
        "task_type": "biclassification_eval",
        "label": {**at, "column": "y"},
        "prediction": {**at, "column": "p"},
    }
    steps = [{"name": "match", "task_config": match}, {"name": "judge", "task_config": judge}]
    result = workspace.run({"task_type": "workflow", "steps": steps}).results["alice"]["steps"][
        "judge"
    ]
    assert workspace.read("alice", "out.csv")["y"][:2] == [str(bool(label[0])), str(bool(label[1]))]
    assert result["auc"] == pytest.approx(metrics.roc_auc_score(label, score), rel=1e-12)


@pytest.mark.parametrize(
    ("labels", "scores", "code"),
    [
        (["1", "2"], [0.1, 0.9], "BadLabel"),
        (["-1", "1"], [0.1, 0.9], "BadLabel"),
        (["1", "1"], [0.1, 0.9], "BadLabel"),
        (["0", "1"], [0.1, float("nan")], "MissingValues"),
        (["0", "1"], [0.1, float("inf")], "NonFiniteValues"),
    ],
)
def test_labels_and_scores_that_secretflow_would_misread_are_refused(
    workspace: Workspace, labels: list[str], scores: list[float], code: str
) -> None:
    workspace.write("truth.csv", {"alice": {"y": labels}})
    write_scores(workspace, "alice", scores)
    parties = {"sf_init_config": {"parties": ["alice", "bob"]}}
    workspace.fail(evaluation(workspace, "biclassification_eval"), code, "alice", **parties)


@pytest.fixture(scope="module")
def stock() -> dict[str, Any]:
    """How SecretFlow evaluates the samples."""
    script = [sys.executable, "-m", "tests.integration.stock_metrics"]
    done = subprocess.run(script, capture_output=True, text=True, timeout=300, check=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.matrix
class TestWhatSecretFlowSays:
    """A release that repairs one of these may be used in the place of our own figures."""

    def test_its_report_at_low_false_positive_rates_mixes_up_its_columns(
        self, stock: dict[str, Any]
    ) -> None:
        label, score = classifications()["plain"]
        fpr, tpr, _ = metrics.roc_curve(label, score)
        for said, _precision, recall in stock["plain"]["head"]:
            assert recall < 0.01 < np.interp(said, fpr, tpr)

    @pytest.mark.parametrize("name", ["ten score levels", "fewer rows than buckets"])
    def test_its_ks_and_f1_are_lost_in_empty_buckets(
        self, stock: dict[str, Any], name: str
    ) -> None:
        right = biclassification_figures(*classifications()[name], 0.5)
        assert stock[name]["ks"] < 0.5 * right["ks"]
        assert np.isnan(stock[name]["f1"]) or stock[name]["f1"] < 0.5 * right["best_f1"]

    def test_its_f1_of_rare_events_is_that_of_its_buckets(self, stock: dict[str, Any]) -> None:
        right = biclassification_figures(*classifications()["rare"], 0.5)
        assert stock["rare"]["f1"] < 0.7 * right["best_f1"]

    def test_it_cannot_tell_scores_apart_that_differ_by_1e_9(self, stock: dict[str, Any]) -> None:
        assert stock["scores 1e-9 apart"]["auc"] == 0.5

    def test_it_takes_labels_1_and_2_without_a_word(self, stock: dict[str, Any]) -> None:
        label, score = classifications()["plain"]
        assert stock["labels 1 and 2"]["auc"] < 0.5 < metrics.roc_auc_score(label, score)

    def test_its_figures_far_from_zero_are_those_of_float32(self, stock: dict[str, Any]) -> None:
        right = regression_figures(*regressions()["far from zero"])
        assert abs(stock["far from zero"]["r2"] - right["r2"]) > 0.02

    def test_it_has_no_number_for_a_constant_label_or_a_label_of_zero(
        self, stock: dict[str, Any]
    ) -> None:
        assert stock["constant label"]["r2"] < -1e9
        assert stock["a label of zero"]["mape"] == float("inf")
