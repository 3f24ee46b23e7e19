"""The declarations of generalised linear models."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from secretflow_task.contract.reveals import Fineness, Reveal, Role
from secretflow_task.contract.task_config import Strict
from secretflow_task.contract.task_dispatcher import TaskDispatcher
from secretflow_task.contract.tasks.learning import PredictConfig, TrainingConfig

Dist = Literal["Bernoulli", "Poisson", "Gamma", "Tweedie", "Normal"]
Link = Literal["Logit", "Log", "Identity", "Reciprocal"]
# The first link of a distribution is its default.
LINKS: dict[str, tuple[Link, ...]] = {
    "Bernoulli": ("Logit",),
    "Poisson": ("Log", "Identity"),
    "Gamma": ("Log", "Reciprocal", "Identity"),
    "Tweedie": ("Log",),
    "Normal": ("Identity", "Log", "Reciprocal"),
}
_POWERS = {"Bernoulli": 1.0, "Poisson": 1.0, "Gamma": 2.0, "Normal": 0.0}


def is_positive(link: str, power: float) -> bool:
    """Whether a link's linear predictor must be over 0.

    Args:
        power: that of the variance function.
    """
    return link == "Reciprocal" or (link == "Identity" and power > 0)


class SsGlmParams(Strict):
    """``params`` of `ss_glm`."""

    dist: Dist = Field(description="Distribution of the label.")
    link: Link | None = Field(
        None, description="Link function; the usual one of the distribution if absent."
    )
    tweedie_power: float = Field(
        1.5, ge=1, le=2, description="Power of Tweedie's variance: 1 is Poisson, 2 is Gamma."
    )
    optimizer: Literal["irls", "sgd"] = Field(
        "irls", description="Fisher scoring, or gradient descent."
    )
    epochs: int = Field(20, ge=1, le=10_000, description="Most passes over the rows.")
    tol: float = Field(
        1e-4,
        ge=0,
        lt=1,
        description=(
            "Stop when no coefficient of a standardised feature moves by more; 0 never stops."
        ),
    )
    l2_lambda: float = Field(
        0.0,
        ge=0,
        description=(
            "Ridge penalty: l2_lambda/2 times the squared coefficients, without the intercept, "
            "is added to half the deviance."
        ),
    )
    learning_rate: Annotated[float, Field(gt=0)] = Field(0.1, description="Step size of sgd.")
    batch_size: int = Field(
        128, ge=1, description="Rows per step of sgd; at most the number of rows is used."
    )
    offset: str | None = Field(None, description="Column that is added to the linear predictor.")
    weight: str | None = Field(
        None, description="Column with the weight of each row; weights are positive."
    )

    @model_validator(mode="after")
    def _link_of_dist(self) -> SsGlmParams:
        if self.link and self.link not in LINKS[self.dist]:
            raise ValueError(f"the links of {self.dist} are {', '.join(LINKS[self.dist])}")
        if self.offset is not None and self.offset == self.weight:
            raise ValueError("offset and weight must be two columns")
        return self

    @property
    def link_name(self) -> Link:
        """The link that is used."""
        return self.link or LINKS[self.dist][0]

    @property
    def power(self) -> float:
        """The power of the variance function; unused for `Logit`."""
        return _POWERS.get(self.dist, self.tweedie_power)

    @property
    def positive(self) -> bool:
        """Whether the linear predictor must be over 0 because the mean is."""
        return is_positive(self.link_name, self.power)


class SsGlmConfig(TrainingConfig):
    """``task_config`` of `ss_glm`."""

    params: SsGlmParams = Field(description="The algorithm's own parameters.")

    @property
    def extra(self) -> list[str]:
        """The columns for offset and weight, which are not features."""
        return [name for name in (self.params.offset, self.params.weight) if name is not None]

    @model_validator(mode="after")
    def _extra_is_not_a_feature(self) -> SsGlmConfig:
        if {self.label, *(self.features or ())}.intersection(self.extra):
            raise ValueError(
                "params.offset and params.weight must be neither features nor the label"
            )
        return self

    def reveals(self) -> list[Reveal]:
        """Names, row count and how training went to all; X'WX stays on shares."""
        went = "whether the features are linearly dependent, after how many epochs training stopped"
        reveals = [*super().reveals(), Reveal(Role.EVERYONE, went, Fineness.MODEL)]
        if self.extra:
            holders = "who holds the columns of params.offset and params.weight"
            reveals.append(Reveal(Role.EVERYONE, holders, Fineness.NAMES))
        if self.params.positive:
            leaves = "whether a row's mean leaves the range of the link"
            reveals.append(Reveal(Role.EVERYONE, leaves, Fineness.MODEL))
        return reveals


TaskDispatcher.declare(
    "ss_glm",
    SsGlmConfig,
    needs=("spu",),
    family="training",
    summary=(
        "Train a generalised linear model on secret shares; no party ever holds the whole model."
    ),
    body="secretflow_task.jobs.ml_task.glm",
)
TaskDispatcher.declare(
    "ss_glm_predict",
    PredictConfig,
    needs=("spu",),
    family="prediction",
    summary="Predict with a model of `ss_glm`; only the receiver sees the predictions.",
    body="secretflow_task.jobs.ml_task.glm",
)
