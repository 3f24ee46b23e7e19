"""What the boosted trees share: parameters, the label as they need it, and each party's own splits."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, Callable, Iterator, Literal, Mapping, Sequence

from pydantic import Field, model_validator

from secretflow_task.contract.errors import InvalidTaskConfig
from secretflow_task.contract.task_config import Strict
from secretflow_task.jobs.columns import matrix
from secretflow_task.jobs.ml_task.prediction import TARGET, PredictionInput
from secretflow_task.jobs.ml_task.training import (
    TrainingConfig,
    TrainingInput,
    agree_on_training,
    check_binary,
    check_target,
    read_own_part,
    standardised,
)

if TYPE_CHECKING:
    from secretflow_task.engine.devices import Devices
    from secretflow_task.engine.run import Run
    from secretflow_task.jobs.columns import Array

Rate = Annotated[float, Field(gt=0, le=1)]
SPLITS = "splits"  # each party's file with its own splits
_CELLS = 2**22  # cells of the largest matrix in a step of a prediction: 64 MB on shares
_LARGEST_BASE = 1e-4  # a base probability nearer to 0 or 1 leaves no gradient to learn from


class TreeParams(Strict):
    """``params`` of the boosted trees, with XGBoost's names and meanings."""

    num_boost_round: int = Field(10, ge=1, le=1000, description="Number of trees.")
    max_depth: int = Field(5, ge=1, le=10, description="Levels of splits; cost doubles with each.")
    learning_rate: Rate = Field(0.3, description="Share of each tree's weights that is added.")
    objective: Literal["binary:logistic", "reg:squarederror", "logistic", "linear"] = Field(
        "binary:logistic",
        description="Classification or regression; the last two are SecretFlow's names for the first two.",
    )
    reg_lambda: float = Field(1.0, ge=0.001, le=10_000, description="L2 penalty on leaf weights.")
    subsample: Rate = Field(1.0, description="Share of the rows that each tree is grown on.")
    colsample_by_tree: Rate = Field(
        1.0, description="Share of every party's features that each tree may split, rounded up."
    )
    sketch_eps: float = Field(
        0.03, ge=0.01, le=0.5, description="1/sketch_eps is the number of bins per feature."
    )
    base_score: float | None = Field(
        None,
        description="Prediction before the first tree: a probability, or for a regression in the target's "
        "unit. If absent 0.5, or the target's mean, which stays at the label party.",
    )
    seed: int = Field(42, ge=0, le=2**31 - 1, description="For the samples of rows and features.")

    @property
    def is_classifier(self) -> bool:
        """Whether the label is 0 and 1."""
        return self.objective in ("binary:logistic", "logistic")

    @model_validator(mode="after")
    def _base_is_a_probability(self) -> TreeParams:
        base = self.base_score
        if (
            self.is_classifier
            and base is not None
            and not _LARGEST_BASE <= base <= 1 - _LARGEST_BASE
        ):
            raise ValueError(
                "base_score of a classification is a probability between 0.0001 and 0.9999"
            )
        return self

    @property
    def start(self) -> float:
        """The score of every row before the first tree, as the trees count it."""
        base = self.base_score
        return math.log(base / (1 - base)) if self.is_classifier and base is not None else 0.0

    def engine_params(self) -> dict[str, Any]:
        """The parameters that SecretFlow's two kinds of trees name alike."""
        names = ("num_boost_round", "max_depth", "learning_rate", "reg_lambda", "colsample_by_tree")
        same = {name: getattr(self, name) for name in (*names, "sketch_eps", "seed")}
        return same | {
            "objective": "logistic" if self.is_classifier else "linear",
            "base_score": self.start,
        }


def read_for_trees(
    run: Run, config: TrainingConfig, params: TreeParams, field: str | None = None
) -> TrainingInput:
    """Read and check features and label at their owners, and agree with the peers.

    Args:
        field: where predictions are computed on shares: in a regression the target must fit its numbers.
    """
    own, target = read_own_part(run, config), None
    if params.is_classifier:
        check_binary(own, config.label)
    else:
        if field is not None:
            check_target(own, config.label, field)
        label, target = standardised(own, config.label, params.base_score)
        own = replace(own, label=label)
    return agree_on_training(run, config, own, target)


def report_trees(run: Run, trees: int) -> Callable[[Any, int, Any], None]:
    """Report the start of a training of so many trees; returns what SecretFlow calls after each."""
    run.progress(0.05, "training", tree=0, trees=trees)

    def after_tree(_model: Any, tree: int, _log: Any) -> None:
        run.progress(0.05 + 0.9 * (tree + 1) / trees, "training", tree=tree + 1, trees=trees)

    return after_tree


def label_matrix(devices: Devices, own: TrainingInput, label: str) -> Any:
    """The label, in the process of its owner."""
    return matrix(devices, {own.label_party or "": [label]}, own.label)  # type: ignore[arg-type]


def own_files(own: TrainingInput, splits: Sequence[Any], **more: Any) -> dict[str, Any]:
    """The own party's files of a model: its splits, and what undoes the standardisation of its target."""
    return {SPLITS: splits, **more, **({TARGET: own.target} if own.target else {})}


def keep_own(parts: Mapping[Any, Sequence[Any]]) -> list[Any]:
    """The values of the own party among ``{PYU: [its objects]}``; nothing travels."""
    import secretflow as sf

    kept: list[Any] = []
    sf.wait([pyu(kept.extend)(list(values)) for pyu, values in parts.items()])
    return kept


def named_splits(
    names: Sequence[str], features: Sequence[int], values: Sequence[float]
) -> list[list[Any] | None]:
    """The own splits of a tree as strict JSON: ``[column, threshold]``, or None for another party's split.

    Rows below the threshold go left; a threshold None sends all rows left.
    """
    return [
        None if feature < 0 else [names[feature], None if math.isinf(value) else float(value)]
        for feature, value in zip(features, values)
    ]


def numbered_splits(
    names: Sequence[str], splits: Sequence[Sequence[Any] | None]
) -> tuple[list[int], list[float]]:
    """Undoes `named_splits`."""
    features = [-1 if split is None else names.index(split[0]) for split in splits]
    values = [
        math.inf if split is None or split[1] is None else float(split[1]) for split in splits
    ]
    return features, values


def batches(own: PredictionInput, leaves: int) -> Iterator[Array]:
    """The own features in parts of so many rows that rows times ``leaves`` stays small."""
    step = max(1, _CELLS // leaves)
    for start in range(0, own.table.rows, step):
        yield own.values[start : start + step]


def probabilities(params: TreeParams, scores: Array) -> Array:
    """Of the label 1, from the sums of leaf weights."""
    import numpy as np

    return np.asarray(1.0 / (1.0 + np.exp(-np.asarray(scores, dtype=np.float64) - params.start)))


def check_some_tree(trees: Sequence[Any]) -> None:
    """Raise `InvalidTaskConfig` when no split was worth its gamma."""
    if not trees:
        raise InvalidTaskConfig(
            "No split gains more than params.gamma.", hint="Choose a smaller gamma."
        )
