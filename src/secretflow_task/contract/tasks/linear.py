"""The declarations of logistic and linear regression."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from secretflow_task.contract.reveals import Fineness, Reveal, Role
from secretflow_task.contract.task_config import Strict
from secretflow_task.contract.task_dispatcher import TaskDispatcher
from secretflow_task.contract.tasks.learning import PredictConfig, TrainingConfig

Positive = Annotated[float, Field(gt=0)]


class SsLrParams(Strict):
    """``params`` of `ss_lr`."""

    epochs: int = Field(10, ge=1, le=10_000, description="Number of passes over the rows.")
    learning_rate: Positive = Field(0.1, description="Step size.")
    batch_size: int = Field(
        128, ge=1, description="Rows per step; at most the number of rows is used."
    )
    penalty: Literal["None", "l2"] = Field("None", description="Regularisation.")
    l2_norm: Positive = Field(
        0.1, description="Weight of the l2 penalty, divided by batch_size in every step."
    )
    sig_type: Literal["real", "t1", "t3", "t5", "df", "sr", "mix"] = Field(
        "real",
        description="Sigmoid on shares: real is exact and slowest, t1 is fastest and clips scores.",
    )
    reg_type: Literal["logistic", "linear"] = Field(
        "logistic", description="Classification or regression."
    )
    tol: float = Field(
        0.0,
        ge=0,
        lt=1,
        description=(
            "Stop when no weight changes by more than this fraction in an epoch; 0 never stops."
        ),
    )
    report_metrics: bool = Field(
        False, description="Report loss and AUC (or R2) to the label party after every epoch."
    )
    allow_unscaled: bool = Field(False, description="Train even if features are not scaled.")


class SsLrConfig(TrainingConfig):
    """``task_config`` of `ss_lr`."""

    params: SsLrParams = Field(
        default_factory=SsLrParams, description="The algorithm's own parameters."
    )

    def reveals(self) -> list[Reveal]:
        """Column names and row count to all; metrics, if asked for, to the label party only."""
        reveals = super().reveals()
        if self.params.tol:
            stopped = "after how many epochs training stopped"
            reveals.append(Reveal(Role.EVERYONE, stopped, Fineness.MODEL))
        if self.params.report_metrics:
            metrics = "loss and AUC or R2 per epoch"
            columns = (self.label,)
            reveals.append(
                Reveal(Role.LABEL_PARTY, metrics, Fineness.MODEL, columns, self.label_party)
            )
        return reveals


TaskDispatcher.declare(
    "ss_lr",
    SsLrConfig,
    needs=("spu",),
    family="training",
    summary=(
        "Train a logistic or linear regression on secret shares; no party ever holds the whole "
        "model."
    ),
    body="secretflow_task.jobs.ml_task.linear",
)
TaskDispatcher.declare(
    "ss_lr_predict",
    PredictConfig,
    needs=("spu",),
    family="prediction",
    summary="Predict with a model of `ss_lr`; only the receiver sees the predictions.",
    body="secretflow_task.jobs.ml_task.linear",
)
