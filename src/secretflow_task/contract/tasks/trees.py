"""The declarations of boosted trees."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from secretflow_task.contract.reveals import Fineness, Reveal, Role
from secretflow_task.contract.task_config import Strict
from secretflow_task.contract.task_dispatcher import TaskDispatcher
from secretflow_task.contract.tasks.learning import PredictConfig, TrainingConfig

Rate = Annotated[float, Field(gt=0, le=1)]
_NEAREST = 1e-4  # a base probability nearer to 0 or 1 leaves no gradient to learn from


class TreeParams(Strict):
    """``params`` of the boosted trees, with XGBoost's names and meanings."""

    num_boost_round: int = Field(10, ge=1, le=1000, description="Number of trees.")
    max_depth: int = Field(5, ge=1, le=10, description="Levels of splits; each doubles the cost.")
    learning_rate: Rate = Field(0.3, description="Fraction of each tree's weights that is added.")
    objective: Literal["binary:logistic", "reg:squarederror", "logistic", "linear"] = Field(
        "binary:logistic",
        description=(
            "Classification or regression; the last two are SecretFlow's names for the first two."
        ),
    )
    reg_lambda: float = Field(1.0, ge=0.001, le=10_000, description="L2 penalty on leaf weights.")
    subsample: Rate = Field(1.0, description="Fraction of the rows that each tree is grown on.")
    colsample_by_tree: Rate = Field(
        1.0, description="Fraction of every party's features that each tree may split, rounded up."
    )
    sketch_eps: float = Field(
        0.03, ge=0.01, le=0.5, description="1/sketch_eps is the number of bins per feature."
    )
    base_score: float | None = Field(
        None,
        description=(
            "Prediction before the first tree: a probability, or for a regression in the target's "
            "unit. If absent 0.5, or the target's mean, which stays at the label party."
        ),
    )
    seed: int = Field(42, ge=0, le=2**31 - 1, description="Seed for sampling rows and features.")

    @property
    def is_classifier(self) -> bool:
        """Whether the label is 0 and 1."""
        return self.objective in ("binary:logistic", "logistic")

    @model_validator(mode="after")
    def _base_is_a_probability(self) -> TreeParams:
        base = self.base_score
        if base is None or not self.is_classifier:
            return self
        if not _NEAREST <= base <= 1 - _NEAREST:
            raise ValueError(
                "base_score of a classification is a probability between 0.0001 and 0.9999"
            )
        return self

    @property
    def start(self) -> float:
        """The score of every row before the first tree, as the trees count it."""
        base = self.base_score
        if base is None or not self.is_classifier:
            return 0.0
        return math.log(base / (1 - base))

    def engine_params(self) -> dict[str, Any]:
        """The parameters that SecretFlow's two kinds of trees name alike."""
        return {
            "num_boost_round": self.num_boost_round,
            "max_depth": self.max_depth,
            "learning_rate": self.learning_rate,
            "reg_lambda": self.reg_lambda,
            "colsample_by_tree": self.colsample_by_tree,
            "sketch_eps": self.sketch_eps,
            "seed": self.seed,
            "objective": "logistic" if self.is_classifier else "linear",
            "base_score": self.start,
        }


class SsXgbConfig(TrainingConfig):
    """``task_config`` of `ss_xgb`."""

    params: TreeParams = Field(
        default_factory=TreeParams, description="The algorithm's own parameters."
    )

    def reveals(self) -> list[Reveal]:
        """Column names and row count to all, and whose bin splits each node."""
        shape = "for every node of the trees: which party splits it, and the number of the bin"
        return [*super().reveals(), Reveal(Role.EVERYONE, shape, Fineness.MODEL)]


class SgbParams(TreeParams):
    """``params`` of `sgb`."""

    gamma: float = Field(0.0, ge=0, le=10_000, description="A split must gain more than this.")


class SgbConfig(TrainingConfig):
    """``task_config`` of `sgb`."""

    params: SgbParams = Field(
        default_factory=SgbParams, description="The algorithm's own parameters."
    )

    def reveals(self) -> list[Reveal]:
        """What the parties learn of one another while they grow trees that one of them decides."""
        rows = "which rows lie in which node of every tree, and whose feature splits it"
        sums = "sums of its own gradients over the others' bins, in shuffled order"
        return [
            *super().reveals(),
            Reveal(Role.EVERYONE, rows, Fineness.ROW),
            Reveal(Role.LABEL_PARTY, sums, Fineness.BIN, party=self.label_party),
        ]


class SgbPredictConfig(PredictConfig):
    """``task_config`` of `sgb_predict`."""

    def reveals(self) -> list[Reveal]:
        """The label party computes the predictions, from the tests of all parties' splits."""
        learned = "the prediction for every row, and which leaves each party's splits let it reach"
        return [*super().reveals(), Reveal(Role.LABEL_PARTY, learned, Fineness.ROW)]


TaskDispatcher.declare(
    "ss_xgb",
    SsXgbConfig,
    needs=("spu",),
    family="training",
    summary=(
        "Train boosted trees on secret shares; each party sees its own splits and no leaf weight."
    ),
    body="secretflow_task.jobs.ml_task.xgb",
)
TaskDispatcher.declare(
    "ss_xgb_predict",
    PredictConfig,
    needs=("spu",),
    family="prediction",
    summary="Predict with a model of `ss_xgb`; only the receiver sees the predictions.",
    body="secretflow_task.jobs.ml_task.xgb",
)
TaskDispatcher.declare(
    "sgb",
    SgbConfig,
    needs=("heu",),
    family="training",
    summary=(
        "Train boosted trees on encrypted gradients; each party keeps its splits, the label party "
        "the leaves."
    ),
    body="secretflow_task.jobs.ml_task.sgb",
)
TaskDispatcher.declare(
    "sgb_predict",
    SgbPredictConfig,
    family="prediction",
    summary=(
        "Predict with a model of `sgb`; the label party computes the predictions, the receiver "
        "gets them."
    ),
    body="secretflow_task.jobs.ml_task.sgb",
)
