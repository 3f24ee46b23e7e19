"""Evaluation of predictions, computed by scikit-learn in the label party's own process.

SecretFlow's evaluation classes compute in float32 and are wrong for ties, few distinct scores,
labels other than 0 and 1, and values far from zero (docs/developer_guide/silent_errors.md). Both
columns lie at one party anyway.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Callable, Mapping

from secretflow_task.contract.errors import BadLabel, RowCountMismatch, TooFewRows
from secretflow_task.contract.task_dispatcher import TaskDispatcher
from secretflow_task.contract.tasks.evaluation import (
    BiclassificationEvalConfig,
    EvaluationConfig,
    RegressionEvalConfig,
)

if TYPE_CHECKING:
    from secretflow_task.engine.devices import Devices
    from secretflow_task.engine.run import Run
    from secretflow_task.jobs.columns import Array


@dataclass(frozen=True)
class EvaluationInput:
    """Label and prediction, float64 of shape (rows,)."""

    label: Array
    prediction: Array


Check = Callable[["Run", Any, EvaluationInput], None]


def prepare_biclassification(
    run: Run, config: BiclassificationEvalConfig
) -> EvaluationInput | None:
    """Read and check both columns at the label's party; the others have nothing to check."""
    return _prepare(run, config, _check_classes)


def prepare_regression(run: Run, config: RegressionEvalConfig) -> EvaluationInput | None:
    """Read and check both columns at the label's party; the others have nothing to check."""
    return _prepare(run, config, _check_values)


def _prepare(run: Run, config: EvaluationConfig, check: Check) -> EvaluationInput | None:
    own = None
    if run.party == config.label.party:
        own = _read_columns(run, config)
        check(run, config, own)
    run.agree()
    return own


def _read_columns(run: Run, config: EvaluationConfig) -> EvaluationInput:
    label_table = run.read_path(config.label.path, "label")
    label = label_table.numbers([config.label.column]).ravel()
    prediction_table = run.read_path(config.prediction.path, "prediction")
    prediction = prediction_table.numbers([config.prediction.column]).ravel()
    if len(label) != len(prediction):
        raise RowCountMismatch(
            f"{run.party}: label and prediction have different numbers of rows.", party=run.party
        )
    return EvaluationInput(label, prediction)


def _check_classes(run: Run, config: BiclassificationEvalConfig, own: EvaluationInput) -> None:
    import numpy as np

    is_binary = np.isin(own.label, (0.0, 1.0)).all()
    is_constant = (own.label == own.label[0]).all()
    if not is_binary or is_constant:
        problem = f"{run.party}: label {config.label.column!r} is not 0 and 1."
        raise BadLabel(problem, party=run.party)


def _check_values(run: Run, _config: RegressionEvalConfig, own: EvaluationInput) -> None:
    if len(own.label) < 2:
        raise TooFewRows(f"{run.party}: an evaluation needs two rows or more.", party=run.party)


@TaskDispatcher.register_task("biclassification_eval", prepare=prepare_biclassification)
def execute_biclassification_eval(
    devices: Devices[EvaluationInput | None], task_config: BiclassificationEvalConfig
) -> dict[str, Any]:
    """Evaluate a binary classification: AUC, KS, F1, confusion matrix, ROC, PR, lift and gain."""
    own = devices.inputs
    if own is None:
        return _result(devices, task_config)
    figures = biclassification_figures(own.label, own.prediction, task_config.threshold)
    tables = biclassification_tables(own.label, own.prediction, task_config.bucket_size)
    return _result(devices, task_config, figures, rows=len(own.label), tables=tables)


@TaskDispatcher.register_task("regression_eval", prepare=prepare_regression)
def execute_regression_eval(
    devices: Devices[EvaluationInput | None], task_config: RegressionEvalConfig
) -> dict[str, Any]:
    """Evaluate a regression: MSE, RMSE, MAE, MAPE, R2, explained variance, residual histogram."""
    own = devices.inputs
    if own is None:
        return _result(devices, task_config)
    figures = regression_figures(own.label, own.prediction)
    histogram = residual_histogram(own.label, own.prediction, task_config.bucket_size)
    return _result(devices, task_config, figures, rows=len(own.label), residual_histogram=histogram)


def _result(
    devices: Devices,
    config: EvaluationConfig,
    figures: Mapping[str, Any] | None = None,
    **details: Any,
) -> dict[str, Any]:
    """The own party's result: all at the label's party, at the others the figures if shared."""
    import secretflow as sf

    result: dict[str, Any] = {"columns_used": []}
    if figures is not None:
        result["columns_used"] = [config.label.column, config.prediction.column]
        result.update(figures)
    result.update(details)
    if config.share:
        result.update(sf.reveal(devices[config.label.party](lambda: figures)()))
    return result


def biclassification_figures(label: Array, score: Array, threshold: float) -> dict[str, Any]:
    """The figures of an evaluation with scikit-learn's definitions, exact also for tied scores.

    Args:
        label: 0 or 1, of shape (rows,).
        score: higher means more likely 1, of shape (rows,); the log loss takes it as a probability.
    """
    import numpy as np
    from sklearn import metrics

    false_rate, true_rate, _ = metrics.roc_curve(label, score, drop_intermediate=False)
    best_f1, best_threshold = _best_f1(label, score)
    auc = float(metrics.auc(false_rate, true_rate))
    # Counted here: scikit-learn takes two seconds for each of these figures of a million rows.
    cells = (2 * label + (score >= threshold)).astype(np.intp)
    tn, fp, fn, tp = np.bincount(cells, minlength=4).tolist()
    precision = 0.0
    if tp + fp:
        precision = tp / (tp + fp)
    return {
        "auc": auc,
        "gini": 2 * auc - 1,
        "ks": float(np.max(true_rate - false_rate)),
        "accuracy": (tp + tn) / len(label),
        "precision": precision,
        "recall": tp / (tp + fn),
        "f1": 2 * tp / (2 * tp + fp + fn),
        "log_loss": _log_loss(label, score),
        "threshold": threshold,
        "confusion_matrix": {"tn": tn, "fp": fp, "fn": fn, "tp": tp},
        "best_f1": best_f1,
        "best_f1_threshold": best_threshold,
    }


def _log_loss(label: Array, score: Array) -> float | None:
    """The mean log loss; None if a score is not a probability."""
    from sklearn import metrics

    if score.min() < 0.0 or score.max() > 1.0:
        return None
    return float(metrics.log_loss(label, score))


def _best_f1(label: Array, score: Array) -> tuple[float, float]:
    """The highest F1 that any threshold gives, and that threshold."""
    import numpy as np
    from sklearn.metrics import precision_recall_curve

    precision, recall, thresholds = precision_recall_curve(label, score)
    f1 = 2 * precision * recall / np.maximum(precision + recall, np.finfo(float).tiny)
    best = int(np.argmax(f1[:-1]))
    return float(f1[best]), float(thresholds[best])


def biclassification_tables(label: Array, score: Array, size: int) -> list[dict[str, float]]:
    """ROC, PR, lift and gain at the end of each bucket of the rows in falling order of score.

    A bucket ends where the score changes, so that equal scores are never parted: with ties there
    are fewer.
    """
    import numpy as np

    order = np.argsort(-score, kind="stable")
    label, score = label[order], score[order]
    last_of_score = np.append(np.flatnonzero(np.diff(score)), len(score) - 1)
    wanted = np.ceil(np.arange(1, size + 1) * len(score) / size).astype(int) - 1
    ends = np.unique(last_of_score[np.searchsorted(last_of_score, wanted)])
    positives = label.sum()
    negatives = len(label) - positives
    table = []
    for end in ends:
        rows = int(end) + 1
        hits = float(label[:rows].sum())
        precision = hits / rows
        recall = hits / positives
        bucket = {
            "threshold": float(score[end]),
            "rows": rows,
            "true_positive_rate": recall,
            "false_positive_rate": (rows - hits) / negatives,
            "precision": precision,
            "recall": recall,
            "lift": precision / (positives / len(label)),
            "gain": recall,
        }
        table.append(bucket)
    return table


def regression_figures(label: Array, prediction: Array) -> dict[str, Any]:
    """The figures of an evaluation with scikit-learn's definitions, also far from zero.

    MAPE is a fraction; it is None, with a note, where a label is zero: scikit-learn divides by
    2e-16 there, and gives a number that means nothing.

    Args:
        label: of shape (rows,), two rows or more.
        prediction: of shape (rows,).
    """
    import numpy as np
    from sklearn import metrics

    # What does not change with the origin is computed near zero: the mean of equal values may not
    # be their value, so that a constant label would have a variance.
    origin = np.median(label)
    near_label, near_prediction = label - origin, prediction - origin
    mse = float(metrics.mean_squared_error(label, prediction))
    figures: dict[str, Any] = {
        "mse": mse,
        "rmse": float(np.sqrt(mse)),
        "mae": float(metrics.mean_absolute_error(label, prediction)),
        "mape": None,
        "r2": float(metrics.r2_score(near_label, near_prediction)),
        "explained_variance": float(metrics.explained_variance_score(near_label, near_prediction)),
    }
    if abs(label).min() > np.finfo(float).eps:
        figures["mape"] = float(metrics.mean_absolute_percentage_error(label, prediction))
    else:
        figures["mape_note"] = "Not defined: a label is zero."
    return figures


def residual_histogram(label: Array, prediction: Array, bins: int) -> list[dict[str, float]]:
    """How many rows have a residual (label - prediction) in each of ``bins`` equal ranges."""
    import numpy as np

    counts, edges = np.histogram(label - prediction, bins=bins)
    histogram = []
    for first, last, rows in zip(edges[:-1], edges[1:], counts):
        histogram.append({"from": float(first), "to": float(last), "rows": int(rows)})
    return histogram
