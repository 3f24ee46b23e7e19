"""The figures of an evaluation are scikit-learn's, also for ties and few distinct scores."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sklearn import metrics

from secretflow_task.contract.errors import (
    BadColumnType,
    BadLabel,
    InvalidTaskConfig,
    MissingValues,
    NonFiniteValues,
    RowCountMismatch,
    TooFewRows,
    ValueRange,
)
from secretflow_task.contract.reveals import Fineness, Reveal, Role
from secretflow_task.contract.task_config import Use, parse
from secretflow_task.contract.tasks.evaluation import (
    BiclassificationEvalConfig,
    RegressionEvalConfig,
)
from secretflow_task.jobs.evaluation_task import (
    biclassification_figures,
    biclassification_tables,
    prepare_biclassification,
    prepare_regression,
    regression_figures,
    residual_histogram,
)
from tests.data.scores import classifications, measured, regressions
from tests.unit.conftest import RunOf

REQUEST = {
    "label": {"party": "alice", "path": "test.csv", "column": "y"},
    "prediction": {"party": "alice", "path": "prediction.csv", "column": "prediction"},
}
ROWS = 60
Sample = tuple[np.ndarray, np.ndarray]


def sample_of(name: str) -> Sample:
    """Labels and scores of a kind that is often got wrong."""
    rng = np.random.default_rng(7)
    label = (rng.random(ROWS) < 0.3).astype(float)
    score = np.clip(0.5 * label + rng.normal(0.3, 0.3, ROWS), 0, 1)
    return {
        "continuous": (label, score),
        "ties": (label, score.round(1)),
        "two scores": (label, (score > 0.6).astype(float)),
        "one score": (label, np.full(ROWS, 0.4)),
        "perfect": (label, label),
        "inverted": (label, 1 - label),
        "beyond 0 and 1": (label, 10 * score - 3),
        "two rows": (np.array([1.0, 0.0]), np.array([0.2, 0.7])),
        "rare": (np.eye(1, ROWS).ravel(), score),
        "at the threshold": (label, np.where(score > 0.4, 0.5, 0.1)),
    }[name]


SAMPLES = [
    "continuous",
    "ties",
    "two scores",
    "one score",
    "perfect",
    "inverted",
    "beyond 0 and 1",
    "two rows",
    "rare",
    "at the threshold",
]
samples = st.lists(
    st.tuples(st.sampled_from([0.0, 1.0]), st.sampled_from([0.0, 0.1, 0.5, 0.50001, 1.0])),
    min_size=2,
    max_size=30,
)


def evaluation(**values: Any) -> BiclassificationEvalConfig:
    """The request with other values."""
    config = parse(BiclassificationEvalConfig, {**REQUEST, **values}, "biclassification_eval")
    assert isinstance(config, BiclassificationEvalConfig)
    return config


@pytest.mark.parametrize("name", SAMPLES)
def test_figures_are_those_of_scikit_learn(name: str) -> None:
    label, score = sample_of(name)
    threshold = 0.5 if name == "at the threshold" else 0.3
    predicted = score >= threshold
    auc = metrics.roc_auc_score(label, score)
    (tn, fp), (fn, tp) = metrics.confusion_matrix(label, predicted, labels=[0, 1])
    f1_at = {cut: metrics.f1_score(label, score >= cut) for cut in np.unique(score)}
    expected = {
        "auc": auc,
        "gini": 2 * auc - 1,
        "ks": max(
            (score[label == 1] >= cut).mean() - (score[label == 0] >= cut).mean()
            for cut in [*f1_at, np.inf]
        ),
        "accuracy": metrics.accuracy_score(label, predicted),
        "precision": metrics.precision_score(label, predicted, zero_division=0),
        "recall": metrics.recall_score(label, predicted),
        "f1": metrics.f1_score(label, predicted),
        "log_loss": None if name == "beyond 0 and 1" else metrics.log_loss(label, score),
        "threshold": threshold,
        "best_f1": max(f1_at.values()),
    }
    figures = biclassification_figures(label, score, threshold)
    assert figures.pop("confusion_matrix") == {"tn": tn, "fp": fp, "fn": fn, "tp": tp}
    assert f1_at[figures.pop("best_f1_threshold")] == pytest.approx(expected["best_f1"], abs=1e-12)
    assert figures == pytest.approx(expected, abs=1e-12)


def test_ks_is_that_of_the_two_samples() -> None:
    stats = pytest.importorskip("scipy.stats")
    label, score = sample_of("ties")
    expected = stats.ks_2samp(
        score[label == 0], score[label == 1], alternative="greater", method="asymp"
    ).statistic
    assert biclassification_figures(label, score, 0.5)["ks"] == pytest.approx(expected, abs=1e-12)


@settings(max_examples=20)
@given(samples)
def test_auc_is_the_share_of_pairs_in_the_right_order(rows: list[tuple[float, float]]) -> None:
    label, score = (np.array(column) for column in zip(*rows))
    assume(0 < label.sum() < len(label))
    pairs = score[label == 1][:, None] - score[label == 0][None, :]
    expected = ((pairs > 0) + 0.5 * (pairs == 0)).mean()
    assert biclassification_figures(label, score, 0.5)["auc"] == pytest.approx(expected)


@settings(max_examples=15)
@given(samples, st.randoms())
def test_the_order_of_the_rows_does_not_matter(
    rows: list[tuple[float, float]], random: Any
) -> None:
    label, score = (np.array(column) for column in zip(*rows))
    assume(0 < label.sum() < len(label))
    order = np.array(random.sample(range(len(label)), len(label)))
    before, after = (
        biclassification_figures(*columns, 0.5)
        for columns in ((label, score), (label[order], score[order]))
    )
    assert after.pop("confusion_matrix") == before.pop("confusion_matrix")
    assert after == pytest.approx(before)
    assert biclassification_tables(label[order], score[order], 4) == biclassification_tables(
        label, score, 4
    )


def test_figures_and_tables_come_back_from_json_as_they_are() -> None:
    label, score = sample_of("ties")
    for value in (
        biclassification_figures(label, score, 0.5),
        biclassification_tables(label, score, 5),
    ):
        assert json.loads(json.dumps(value)) == value


@pytest.mark.parametrize("size", [2, 7, 10, ROWS, 1000])
@pytest.mark.parametrize("name", SAMPLES)
def test_a_row_of_the_table_tells_of_all_rows_down_to_its_threshold(name: str, size: int) -> None:
    label, score = sample_of(name)
    table = biclassification_tables(label, score, size)
    assert 1 <= len(table) <= min(size, len(np.unique(score)))
    for row in table:
        above = score >= row["threshold"]
        assert row["rows"] == above.sum()
        assert (
            row["true_positive_rate"]
            == row["recall"]
            == row["gain"]
            == pytest.approx(above[label == 1].mean())
        )
        assert row["false_positive_rate"] == pytest.approx(above[label == 0].mean())
        assert row["precision"] == pytest.approx(label[above].mean())
        assert row["lift"] == pytest.approx(label[above].mean() / label.mean())
    assert (table[-1]["rows"], table[-1]["recall"], table[-1]["lift"]) == (len(label), 1, 1)


def test_buckets_of_distinct_scores_have_equal_sizes() -> None:
    label, score = sample_of("continuous")
    score = score + np.arange(ROWS) * 1e-9
    assert [row["rows"] for row in biclassification_tables(label, score, 10)] == list(
        range(6, ROWS + 1, 6)
    )


def write_inputs(folder: Path, label: str, prediction: str) -> None:
    """Alice's two files."""
    (folder / "data/alice").mkdir(parents=True, exist_ok=True)
    (folder / "data/alice/test.csv").write_text("y\n" + label)
    (folder / "data/alice/prediction.csv").write_text("prediction\n" + prediction)


@pytest.mark.parametrize(
    ("label", "prediction", "error"),
    [
        ("1\n0\n", "0.5\ninf\n", NonFiniteValues),
        ("True\n1\n", "0.5\n0.5\n", BadColumnType),
        ("1\n0\n", "0.5\n", RowCountMismatch),
        ("1\n1\n", "0.5\n0.5\n", BadLabel),
        ("0\n0\n", "0.5\n0.5\n", BadLabel),
        ("1\n2\n", "0.5\n0.5\n", BadLabel),
        ("-1\n1\n", "0.5\n0.5\n", BadLabel),
        ("1\nNA\n", "0.5\n0.5\n", MissingValues),
        ("1\n0\n", "0.5\nNaN\n", MissingValues),
        ("1\n0\n", "0.5\nhigh\n", BadColumnType),
    ],
)
def test_bad_columns_are_refused_before_any_agreement(
    label: str, prediction: str, error: type[Exception], make_run: RunOf, tmp_path: Path
) -> None:
    write_inputs(tmp_path, label, prediction)
    run = make_run("alice")
    with pytest.raises(error) as caught:
        prepare_biclassification(run, evaluation())
    assert getattr(caught.value, "party") == "alice"
    assert run.channel.offered == []  # type: ignore[attr-defined]


def test_only_the_label_party_reads_and_no_one_is_told(make_run: RunOf, tmp_path: Path) -> None:
    write_inputs(tmp_path, "1\n0\n1\n", "0.9\n0.2\n0.4\n")
    runs = {party: make_run(party) for party in ("alice", "bob")}
    own, others = (prepare_biclassification(run, evaluation()) for run in runs.values())
    assert own is not None and others is None
    assert (own.label.tolist(), own.prediction.tolist()) == ([1, 0, 1], [0.9, 0.2, 0.4])
    offered = [run.channel.offered for run in runs.values()]  # type: ignore[attr-defined]
    assert offered == [[{}], [{}]]


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        (
            {"prediction": {"party": "bob", "path": "p.csv", "column": "p"}},
            "prediction must lie at the label's party: make it the receiver of the prediction",
        ),
        ({"bucket_size": 1}, "bucket_size: input should be greater than or equal to 2"),
        ({"threshold": "0.5"}, "threshold: input should be a valid number"),
        ({"treshold": 0.5}, "unknown key 'treshold', did you mean 'threshold'?"),
    ],
)
def test_a_wrong_request_is_refused(values: dict[str, Any], problem: str) -> None:
    with pytest.raises(InvalidTaskConfig) as caught:
        evaluation(**values)
    assert caught.value.message == f"biclassification_eval: {problem}.".replace("?.", "?")


def test_figures_are_revealed_only_when_they_are_shared() -> None:
    assert evaluation().reveals() == []
    shared = evaluation(share=True).reveals()
    what = "AUC, KS and the other figures of the evaluation"
    assert shared == [Reveal(Role.OTHERS, what, Fineness.COLUMN, ("y",), "alice")]
    assert shared[0].learners(["alice", "bob", "carol"]) == ["bob", "carol"]
    assert evaluation().parties() == ["alice"]
    assert evaluation().inputs() == [
        Use("alice", "test.csv", ("y",), "label"),
        Use("alice", "prediction.csv", ("prediction",), "prediction"),
    ]


class TestWhereSecretFlowIsWrong:
    """`tests/integration/test_evaluation.py` shows that SecretFlow still is."""

    def test_rates_and_precision_are_those_at_their_threshold(self) -> None:
        label, score = classifications()["plain"]
        points = {
            (fpr, tpr)
            for fpr, tpr, _ in zip(*metrics.roc_curve(label, score, drop_intermediate=False))
        }
        precisions, _, thresholds = metrics.precision_recall_curve(label, score)
        for row in biclassification_tables(label, score, 1000):
            assert (row["false_positive_rate"], row["true_positive_rate"]) in points
            # No score lies between the row's threshold and the next of the curve: both choose the
            # same rows.
            precision = precisions[np.searchsorted(thresholds, row["threshold"])]
            assert row["precision"] == pytest.approx(precision, rel=1e-12)

    @pytest.mark.parametrize("name", ["ten score levels", "fewer rows than buckets", "rare"])
    def test_ks_and_f1_do_not_depend_on_buckets(self, name: str) -> None:
        label, score = classifications()[name]
        figures = biclassification_figures(label, score, 0.5)
        fpr, tpr, _ = metrics.roc_curve(label, score)
        assert figures["ks"] == pytest.approx((tpr - fpr).max(), rel=1e-12)
        precision, recall, _ = metrics.precision_recall_curve(label, score)
        best = np.nanmax(
            2 * precision * recall / np.where(precision + recall, precision + recall, np.nan)
        )
        assert figures["best_f1"] == pytest.approx(best, rel=1e-12)

    def test_scores_that_differ_by_less_than_float32_can_tell_are_ranked(self) -> None:
        label, score = classifications()["scores 1e-9 apart"]
        pairs = score[label == 1][:, None] - score[label == 0][None, :]
        expected = ((pairs > 0) + 0.5 * (pairs == 0)).mean()
        assert expected > 0.98
        assert biclassification_figures(label, score, 0.5)["auc"] == pytest.approx(
            expected, rel=1e-12
        )

    def test_figures_of_numbers_far_from_zero_are_exact(self) -> None:
        label, prediction = regressions()["far from zero"]
        assert regression_figures(label, prediction) == pytest.approx(
            exact(label, prediction), rel=1e-12
        )

    def test_a_constant_label_has_an_r2_of_zero(self) -> None:
        figures = regression_figures(*regressions()["constant label"])
        assert (figures["r2"], figures["explained_variance"]) == (0.0, 0.0)
        perfect = regression_figures(np.full(7, 0.1), np.full(7, 0.1))
        assert (perfect["r2"], perfect["explained_variance"], perfect["mse"]) == (1.0, 1.0, 0.0)

    def test_mape_is_left_out_where_a_label_is_zero(self) -> None:
        figures = regression_figures(*regressions()["a label of zero"])
        assert figures["mape"] is None and figures["mape_note"] == "Not defined: a label is zero."
        assert figures["mae"] == pytest.approx(0.025)


def exact(label: np.ndarray, prediction: np.ndarray) -> dict[str, float]:
    """The figures of a regression in fractions, by their definitions."""
    y, errors = [Fraction(v) for v in label], [
        Fraction(a) - Fraction(b) for a, b in zip(label, prediction)
    ]
    rows = len(y)
    mean, bias = sum(y) / rows, sum(errors) / rows
    squares, spread = sum(e * e for e in errors), sum((v - mean) ** 2 for v in y)
    found = {
        "mse": squares / rows,
        "mae": sum(map(abs, errors)) / rows,
        "mape": sum(abs(e / v) for e, v in zip(errors, y)) / rows,
        "r2": 1 - squares / spread,
        "explained_variance": 1 - sum((e - bias) ** 2 for e in errors) / spread,
    }
    return {name: float(value) for name, value in found.items()} | {
        "rmse": float(found["mse"]) ** 0.5
    }


@pytest.mark.parametrize("origin", [0.0, 5.0, -300.0, 1e12])
def test_figures_of_a_regression_are_those_of_scikit_learn(origin: float) -> None:
    label, prediction = measured(origin)
    expected = {
        "mse": metrics.mean_squared_error(label, prediction),
        "rmse": metrics.mean_squared_error(label, prediction) ** 0.5,
        "mae": metrics.mean_absolute_error(label, prediction),
        "mape": metrics.mean_absolute_percentage_error(label, prediction),
        "r2": metrics.r2_score(label, prediction),
        "explained_variance": metrics.explained_variance_score(label, prediction),
    }
    assert regression_figures(label, prediction) == pytest.approx(expected, rel=1e-7)
    assert regression_figures(label, prediction) == pytest.approx(
        exact(label, prediction), rel=1e-10
    )


@pytest.mark.parametrize("bins", [2, 7, 1000])
def test_every_residual_is_in_one_bin_of_the_histogram(bins: int) -> None:
    label, prediction = measured(0.0)
    residuals = np.sort(label - prediction)
    histogram = residual_histogram(label, prediction, bins)
    assert sum(row["rows"] for row in histogram) == len(residuals) and len(histogram) == bins
    assert (histogram[0]["from"], histogram[-1]["to"]) == (residuals[0], residuals[-1])
    for row in histogram[:-1]:
        assert row["rows"] == ((residuals >= row["from"]) & (residuals < row["to"])).sum()


def test_residuals_that_are_all_equal_have_a_histogram() -> None:
    histogram = residual_histogram(np.full(4, 1e9), np.full(4, 1e9 - 1), 3)
    assert [row["rows"] for row in histogram] == [0, 4, 0]


@pytest.mark.parametrize(
    ("label", "prediction", "error"),
    [
        ("1.5\n", "1.5\n", TooFewRows),
        ("1\n2\n", "1\n", RowCountMismatch),
        ("1\nNA\n", "1\n2\n", MissingValues),
        ("1\n2\n", "1\n-inf\n", NonFiniteValues),
        ("1\n2\n", "1\nmany\n", BadColumnType),
        ("1\n-1e151\n", "1\n1\n", ValueRange),
        ("1\n2\n", "1\n1e300\n", ValueRange),
    ],
)
def test_columns_that_have_no_figures_are_refused(
    label: str, prediction: str, error: type[Exception], make_run: RunOf, tmp_path: Path
) -> None:
    write_inputs(tmp_path, label, prediction)
    run = make_run("alice")
    with pytest.raises(error) as caught:
        prepare_regression(run, parse(RegressionEvalConfig, REQUEST, "regression_eval"))
    assert getattr(caught.value, "party") == "alice"
    assert run.channel.offered == []  # type: ignore[attr-defined]


def test_the_largest_values_have_figures() -> None:
    figures = regression_figures(np.array([1e150, -1e150, 0.0]), np.array([-1e150, 1e150, 0.0]))
    assert figures["mse"] == pytest.approx(8e300 / 3) and figures["r2"] == pytest.approx(-3)
