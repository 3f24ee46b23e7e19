"""Evaluation of predictions, computed by scikit-learn in the label party's own process.

SecretFlow's evaluation classes are wrong for ties, few distinct scores and labels other than 0 and 1
(SECRETFLOW.md, part C); both columns lie at one party anyway.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import Field, model_validator

from secretflow_task.errors import BadLabel, RowCountMismatch
from secretflow_task.task_config import ColumnAt, TaskConfig, Use
from secretflow_task.task_dispatcher import TaskDispatcher

if TYPE_CHECKING:
    from secretflow_task.device_manager import Devices
    from secretflow_task.jobs.columns import Array
    from secretflow_task.run import Run


class BiclassificationEvalConfig(TaskConfig):
    """``task_config`` of `biclassification_eval`."""

    label: ColumnAt = Field(description="The true label, 0 or 1: {party, path, column}.")
    prediction: ColumnAt = Field(description="The predicted score, at the same party: {party, path, column}.")
    bucket_size: int = Field(10, ge=2, le=1000, description="Rows of the ROC, PR, lift and gain tables.")
    threshold: float = Field(0.5, description="Scores from here on count as predicted 1.")
    share: bool = Field(False, description="Show the figures (not the tables) to all parties.")

    @model_validator(mode="after")
    def _one_party(self) -> BiclassificationEvalConfig:
        if self.label.party != self.prediction.party:
            raise ValueError(
                "prediction must lie at the label's party: make it the receiver of the prediction"
            )
        return self

    def reveals(self) -> list[Use]:
        """Nothing, or the figures to the other parties if they are shared."""
        what = "AUC, KS and the other figures of the evaluation"
        return [Use("every other party", "", (self.label.column,), what)] if self.share else []


@dataclass(frozen=True)
class EvaluationInput:
    """Label and score, float64 of shape (rows,)."""

    label: Array
    score: Array


def prepare_biclassification(run: Run, config: BiclassificationEvalConfig) -> EvaluationInput | None:
    """Read and check both columns at the label's party; the others have nothing to check."""
    inputs = _read_columns(run, config) if run.party == config.label.party else None
    run.agree()
    return inputs


def _read_columns(run: Run, config: BiclassificationEvalConfig) -> EvaluationInput:
    import numpy as np

    label = run.read_path(config.label.path, "label").numbers([config.label.column]).ravel()
    score = run.read_path(config.prediction.path, "prediction").numbers([config.prediction.column]).ravel()
    if len(label) != len(score):
        raise RowCountMismatch(
            f"{run.party}: label and prediction have different numbers of rows.", party=run.party
        )
    if not np.isin(label, (0.0, 1.0)).all() or (label == label[0]).all():
        raise BadLabel(f"{run.party}: label {config.label.column!r} is not 0 and 1.", party=run.party)
    return EvaluationInput(label, score)


@TaskDispatcher.register_task(
    "biclassification_eval", config=BiclassificationEvalConfig, prepare=prepare_biclassification
)
def execute_biclassification_eval(
    devices: Devices, task_config: BiclassificationEvalConfig
) -> dict[str, Any]:
    """Evaluate a binary classification: AUC, KS, F1, confusion matrix, ROC, PR, lift and gain."""
    import secretflow as sf

    run, config = devices.run, task_config
    own: EvaluationInput | None = run.inputs
    figures = biclassification_figures(own.label, own.score, config.threshold) if own else {}
    result: dict[str, Any] = {"columns_used": [], **figures}
    if own:
        tables = biclassification_tables(own.label, own.score, config.bucket_size)
        columns = [config.label.column, config.prediction.column]
        result |= {"rows": len(own.label), "tables": tables, "columns_used": columns}
    if config.share:
        result |= sf.reveal(devices[config.label.party](lambda: figures)())
    return result


def biclassification_figures(label: Array, score: Array, threshold: float) -> dict[str, Any]:
    """The figures of an evaluation with scikit-learn's definitions, exact also for tied scores.

    Args:
        label: 0 or 1, of shape (rows,).
        score: higher means more likely 1, of shape (rows,); the log loss takes it as a probability.
    """
    import numpy as np
    from sklearn import metrics

    predicted = (score >= threshold).astype(int)
    false_rate, true_rate, _ = metrics.roc_curve(label, score, drop_intermediate=False)
    best_f1, best_threshold = _best_f1(label, score)
    auc = float(metrics.roc_auc_score(label, score))
    probability = 0.0 <= score.min() and score.max() <= 1.0
    counts = metrics.confusion_matrix(label, predicted).ravel()
    return {
        "auc": auc,
        "gini": 2 * auc - 1,
        "ks": float(np.max(true_rate - false_rate)),
        "accuracy": float(metrics.accuracy_score(label, predicted)),
        "precision": float(metrics.precision_score(label, predicted, zero_division=0)),
        "recall": float(metrics.recall_score(label, predicted)),
        "f1": float(metrics.f1_score(label, predicted)),
        "log_loss": float(metrics.log_loss(label, score)) if probability else None,
        "threshold": threshold,
        "confusion_matrix": dict(zip(("tn", "fp", "fn", "tp"), map(int, counts))),
        "best_f1": best_f1,
        "best_f1_threshold": best_threshold,
    }


def _best_f1(label: Array, score: Array) -> tuple[float, float]:
    """The highest F1 that any threshold gives, and that threshold."""
    import numpy as np
    from sklearn.metrics import precision_recall_curve

    precision, recall, thresholds = precision_recall_curve(label, score)
    f1 = 2 * precision * recall / np.maximum(precision + recall, np.finfo(float).tiny)
    best = int(np.argmax(f1[:-1]))
    return float(f1[best]), float(thresholds[best])


def biclassification_tables(label: Array, score: Array, size: int) -> list[dict[str, float]]:
    """One row per bucket of the rows in falling order of their scores: ROC, PR, lift and gain at its end.

    A bucket ends where the score changes, so that equal scores are never parted: with ties there are fewer.
    """
    import numpy as np

    order = np.argsort(-score, kind="stable")
    label, score = label[order], score[order]
    last_of_score = np.append(np.flatnonzero(np.diff(score)), len(score) - 1)
    wanted = np.ceil(np.arange(1, size + 1) * len(score) / size).astype(int) - 1
    ends = np.unique(last_of_score[np.searchsorted(last_of_score, wanted)])
    positives, negatives = label.sum(), len(label) - label.sum()
    table = []
    for end in ends:
        count = int(end) + 1
        hits = float(label[:count].sum())
        table.append(
            {
                "threshold": float(score[end]),
                "rows": count,
                "true_positive_rate": hits / positives,
                "false_positive_rate": (count - hits) / negatives,
                "precision": hits / count,
                "recall": hits / positives,
                "lift": (hits / count) / (positives / len(label)),
                "gain": hits / positives,
            }
        )
    return table
