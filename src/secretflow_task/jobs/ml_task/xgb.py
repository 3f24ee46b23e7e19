"""Boosted trees on secret shares."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from secretflow_task.contract.errors import ValueRange
from secretflow_task.contract.task_dispatcher import TaskDispatcher
from secretflow_task.contract.tasks.learning import PredictConfig
from secretflow_task.contract.tasks.trees import SsXgbConfig, TreeParams
from secretflow_task.engine import adapter
from secretflow_task.jobs.columns import matrix, reveal_to
from secretflow_task.jobs.ml_task.prediction import (
    PredictionInput,
    prepare_prediction,
    unstandardised,
    write_predictions,
)
from secretflow_task.jobs.ml_task.training import TrainingInput, label_matrix, save_model
from secretflow_task.jobs.ml_task.trees import (
    SPLITS,
    batches,
    keep_own,
    named_splits,
    numbered_splits,
    own_files,
    probabilities,
    read_for_trees,
    report_trees,
)

if TYPE_CHECKING:
    from secretflow_task.engine.devices import Devices
    from secretflow_task.engine.run import Run
    from secretflow_task.jobs.columns import Array

_WEIGHTS = "weights"
_FM64_ROWS = 5_000  # a fourth of what was measured to give the same trees as FM128


def prepare_xgb(run: Run, config: SsXgbConfig) -> TrainingInput:
    """Check features and label at their owners."""
    own = read_for_trees(run, config, config.params, run.protocol.field)
    if run.protocol.field == "FM64" and own.table.rows > _FM64_ROWS:
        raise ValueRange(
            f"{own.table.rows} rows are too many for trees on FM64, "
            "whose sums would lose the gain.",
            hint="Use the field FM128.",
        )
    return own


@TaskDispatcher.register_task("ss_xgb", prepare=prepare_xgb)
def execute_ss_xgboost(devices: Devices[TrainingInput], task_config: SsXgbConfig) -> dict[str, Any]:
    """Train boosted trees on secret shares; each party sees its own splits and no leaf weight."""
    from secretflow.ml.boost.ss_xgb_v import Xgb

    run, config, params = devices.run, task_config, task_config.params
    own = devices.inputs
    adapter.use_exact_sigmoid_in_trees()
    adapter.wait_without_programs()
    after_tree = report_trees(run, params.num_boost_round)
    model = Xgb(devices["spu"]).train(
        params.engine_params() | {"subsample": params.subsample},
        matrix(devices, own.names, own.values),
        label_matrix(devices, own, config.label),
        dump_function=after_tree,
    )
    trees_of_parties = {}
    for pyu in model.trees[0]:
        trees_of_parties[pyu] = [tree[pyu] for tree in model.trees]
    names = own.names[run.party]
    splits = []
    for tree in keep_own(trees_of_parties):
        splits.append(named_splits(names, tree.split_features, tree.split_values))
    saved = save_model(
        devices,
        "ss_xgb",
        config.model_output,
        own,
        params,
        label=config.label,
        shares={_WEIGHTS: devices["spu"](_joined)(model.weights)},
        files=own_files(own, splits),
    )
    return {"model_output": saved, "rows": own.table.rows, "columns_used": names}


def _joined(weights: list[Any]) -> Any:
    """The leaf weights of all trees, one after the other."""
    import jax.numpy as jnp

    return jnp.concatenate([weight.reshape(-1) for weight in weights])


@TaskDispatcher.register_task(
    "ss_xgb_predict", prepare=prepare_prediction("ss_xgb", features_on_shares=False)
)
def execute_ss_xgb_predict(
    devices: Devices[PredictionInput], task_config: PredictConfig
) -> dict[str, Any]:
    """Predict with a model of `ss_xgb`; only the receiver sees the predictions."""
    import numpy as np

    run = devices.run
    own = devices.inputs
    params = TreeParams.model_validate(own.model.params)
    weights = own.shares(devices, _WEIGHTS)
    leaves = params.num_boost_round * 2**params.max_depth
    shown: list[Array] = []
    for values in batches(own, leaves):
        run.progress(0.05 + 0.9 * len(shown) * len(values) / own.table.rows, "prediction")
        scores = devices["spu"](_sums)(_leaf_tests(devices, own, values), weights)
        if not params.is_classifier:
            scores = unstandardised(devices, own, scores)
        part = reveal_to(devices, own.receiver, scores)
        if part is not None:
            shown.append(part)
    if not shown:
        return write_predictions(devices, task_config, own, None)
    predictions = np.concatenate(shown)
    if params.is_classifier:
        predictions = probabilities(params, predictions)
    return write_predictions(devices, task_config, own, predictions)


def _leaf_tests(devices: Devices, own: PredictionInput, values: Array) -> list[Any]:
    """On shares, a matrix per party, shape (rows, leaves): 1 where its splits let a row pass."""
    x = matrix(devices, own.names, values)
    splits = own.own_file(SPLITS)
    names = own.names[devices.run.party]
    tests = []
    for pyu, part in x.partitions.items():
        passed = pyu(lambda part: _pass(part, splits, names))(part)
        tests.append(passed.to(devices["spu"]))
    return tests


def _pass(values: Array, trees: list[Any], names: list[str]) -> Array:
    """A matrix of shape (rows, leaves of all trees): 1 where the own splits let the row pass."""
    import numpy as np
    from heu import numpy as hnp

    tests = [hnp.tree_predict(values, *numbered_splits(names, splits)) for splits in trees]
    return np.asarray(np.concatenate(tests, axis=1), dtype=np.int8)


def _sums(tests: list[Any], weights: Any) -> Any:
    """The weights of the leaves that all parties' splits let a row reach, summed over trees."""
    import jax.numpy as jnp

    reached = tests[0]
    for test in tests[1:]:
        reached = reached * test
    return jnp.matmul(reached, weights)
