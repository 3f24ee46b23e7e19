"""What the boosted trees share: the label as they need it, and each party's own splits."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Callable, Iterator, Mapping, Sequence

from secretflow_task.contract.errors import InvalidTaskConfig
from secretflow_task.contract.tasks.learning import TrainingConfig
from secretflow_task.contract.tasks.trees import TreeParams
from secretflow_task.jobs.ml_task.prediction import TARGET, PredictionInput
from secretflow_task.jobs.ml_task.training import (
    TrainingInput,
    agree_on_training,
    check_binary,
    check_target,
    read_own_part,
    standardised,
)

if TYPE_CHECKING:
    from secretflow_task.engine.run import Run
    from secretflow_task.jobs.columns import Array

SPLITS = "splits"  # each party's file with its own splits
_CELLS = 2**22  # cells of the largest matrix in a step of a prediction: 64 MB on shares


def read_for_trees(
    run: Run, config: TrainingConfig, params: TreeParams, field: str | None = None
) -> TrainingInput:
    """Read and check features and label at their owners, and agree with the peers.

    Args:
        field: where predictions are computed on shares: in a regression the target must fit its
            numbers.
    """
    own = read_own_part(run, config)
    target = None
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
        done = tree + 1
        run.progress(0.05 + 0.9 * done / trees, "training", tree=done, trees=trees)

    return after_tree


def own_files(own: TrainingInput, splits: Sequence[Any], **more: Any) -> dict[str, Any]:
    """The own files of a model: the splits, and what undoes the standardisation of the target."""
    files = {SPLITS: splits, **more}
    if own.target:
        files[TARGET] = own.target
    return files


def keep_own(parts: Mapping[Any, Sequence[Any]]) -> list[Any]:
    """The values of the own party among ``{PYU: [its objects]}``; nothing travels."""
    import secretflow as sf

    kept: list[Any] = []
    sf.wait([pyu(kept.extend)(list(values)) for pyu, values in parts.items()])
    return kept


def named_splits(
    names: Sequence[str], features: Sequence[int], values: Sequence[float]
) -> list[list[Any] | None]:
    """A tree's splits as strict JSON: ``[column, threshold]``, None for another party's split.

    Rows below the threshold go left; a threshold None sends all rows left.
    """
    splits: list[list[Any] | None] = []
    for feature, value in zip(features, values):
        if feature < 0:
            splits.append(None)
        elif math.isinf(value):
            splits.append([names[feature], None])
        else:
            splits.append([names[feature], float(value)])
    return splits


def numbered_splits(
    names: Sequence[str], splits: Sequence[Sequence[Any] | None]
) -> tuple[list[int], list[float]]:
    """Undoes `named_splits`."""
    features, values = [], []
    for split in splits:
        name, threshold = split or (None, None)
        features.append(-1 if name is None else names.index(name))
        values.append(math.inf if threshold is None else float(threshold))
    return features, values


def batches(own: PredictionInput, leaves: int) -> Iterator[Array]:
    """The own features in parts of so many rows that rows times ``leaves`` stays small."""
    step = max(1, _CELLS // leaves)
    for start in range(0, own.table.rows, step):
        yield own.values[start : start + step]


def probabilities(params: TreeParams, scores: Array) -> Array:
    """Of the label 1, from the sums of leaf weights."""
    import numpy as np

    scores = np.asarray(scores, dtype=np.float64)
    return np.asarray(1.0 / (1.0 + np.exp(-scores - params.start)))


def check_some_tree(trees: Sequence[Any]) -> None:
    """Raise `InvalidTaskConfig` when no split was worth its gamma."""
    if not trees:
        raise InvalidTaskConfig(
            "No split gains more than params.gamma.", hint="Choose a smaller gamma."
        )
