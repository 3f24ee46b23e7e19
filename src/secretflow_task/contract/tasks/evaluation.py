"""The declarations of the evaluations."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field, model_validator

from secretflow_task.contract.reveals import Fineness, Reveal, Role
from secretflow_task.contract.task_config import ColumnAt, TaskConfig
from secretflow_task.contract.task_dispatcher import TaskDispatcher


class EvaluationConfig(TaskConfig):
    """What the requests of all evaluations have in common."""

    figures: ClassVar[str]

    label: ColumnAt = Field(description="The true values: {party, path, column}.")
    prediction: ColumnAt = Field(
        description="The predictions, at the same party: {party, path, column}."
    )
    bucket_size: int = Field(
        10, ge=2, le=1000, description="Rows of the tables, or bins of the histogram."
    )
    share: bool = Field(False, description="Show the figures (no table) to all parties.")

    @model_validator(mode="after")
    def _one_party(self) -> EvaluationConfig:
        if self.label.party != self.prediction.party:
            raise ValueError(
                "prediction must lie at the label's party: make it the receiver of the prediction"
            )
        return self

    def reveals(self) -> list[Reveal]:
        """Nothing, or the figures to the other parties if they are shared."""
        what = f"{self.figures} and the other figures of the evaluation"
        if not self.share:
            return []
        columns = (self.label.column,)
        return [Reveal(Role.OTHERS, what, Fineness.COLUMN, columns, party=self.label.party)]


class BiclassificationEvalConfig(EvaluationConfig):
    """``task_config`` of `biclassification_eval`."""

    figures = "AUC, KS"

    label: ColumnAt = Field(description="The true label, 0 or 1: {party, path, column}.")
    prediction: ColumnAt = Field(
        description="The predicted score, at the same party: {party, path, column}."
    )
    bucket_size: int = Field(
        10, ge=2, le=1000, description="Rows of the ROC, PR, lift and gain tables."
    )
    threshold: float = Field(0.5, description="Scores of at least this count as predicted 1.")


class RegressionEvalConfig(EvaluationConfig):
    """``task_config`` of `regression_eval`."""

    figures = "MSE, R2"

    bucket_size: int = Field(10, ge=2, le=1000, description="Bins of the residuals' histogram.")


TaskDispatcher.declare(
    "biclassification_eval",
    BiclassificationEvalConfig,
    family="evaluation",
    summary=(
        "Evaluate a binary classification: AUC, KS, F1, confusion matrix, ROC, PR, lift and gain."
    ),
    body="secretflow_task.jobs.evaluation_task",
)
TaskDispatcher.declare(
    "regression_eval",
    RegressionEvalConfig,
    family="evaluation",
    summary=(
        "Evaluate a regression: MSE, RMSE, MAE, MAPE, R2, explained variance, histogram of the "
        "residuals."
    ),
    body="secretflow_task.jobs.evaluation_task",
)
