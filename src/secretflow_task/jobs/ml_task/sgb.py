"""Boosted trees with homomorphic encryption."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from secretflow_task.contract.task_dispatcher import TaskDispatcher
from secretflow_task.contract.tasks.trees import SgbConfig, SgbParams, SgbPredictConfig
from secretflow_task.engine import adapter
from secretflow_task.jobs.columns import matrix
from secretflow_task.jobs.ml_task.prediction import (
    TARGET,
    PredictionInput,
    prepare_prediction,
    write_predictions,
)
from secretflow_task.jobs.ml_task.training import TrainingInput, label_matrix, save_model
from secretflow_task.jobs.ml_task.trees import (
    SPLITS,
    batches,
    check_some_tree,
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

_LEAVES = "leaves"


def prepare_sgb(run: Run, config: SgbConfig) -> TrainingInput:
    """Check features and label at their owners, and that the key may lie at the label party."""
    own = read_for_trees(run, config, config.params)
    run.heu.check_key_holder(own.label_party or "", run.parties)
    return own


@TaskDispatcher.register_task("sgb", prepare=prepare_sgb)
def execute_sgb(devices: Devices[TrainingInput], task_config: SgbConfig) -> dict[str, Any]:
    """Train boosted trees on encrypted gradients; every party keeps its own splits."""
    from secretflow.ml.boost.sgb_v import Sgb

    run, config, params = devices.run, task_config, task_config.params
    own = devices.inputs
    adapter.hide_gains_of_splits()
    after_tree = report_trees(run, params.num_boost_round)
    engine_params = params.engine_params()
    engine_params["rowsample_by_tree"] = params.subsample
    engine_params["gamma"] = params.gamma
    engine_params["first_tree_with_label_holder_feature"] = False
    model = Sgb(devices["heu"](own.label_party)).train(
        engine_params,
        matrix(devices, own.names, own.values),
        label_matrix(devices, own, config.label),
        dump_function=after_tree,
    )
    check_some_tree(model.trees)
    saved = save_model(
        devices,
        "sgb",
        config.model_output,
        own,
        params,
        label=config.label,
        files=_own_trees(devices, own, model),
    )
    heu = {"schema": run.heu.scheme, "key_size": run.heu.key_size, "sk_keeper": own.label_party}
    return {
        "model_output": saved,
        "rows": own.table.rows,
        "columns_used": own.names[run.party],
        "trees": len(model.trees),
        "heu": heu,
    }


def _own_trees(devices: Devices, own: TrainingInput, model: Any) -> dict[str, Any]:
    """The own party's files: its splits, and at the label party the leaf weights."""
    parts = model.to_dict()
    trees = keep_own(parts["split_trees"])
    weights = keep_own({parts["label_holder"]: parts["leaf_weights"]})
    names = own.names[devices.run.party]
    own_trees = []
    for tree in trees:
        own_tree = {
            "splits": named_splits(names, tree["split_features"], tree["split_values"]),
            "nodes": [int(node) for node in tree["split_indices"]],
            "leaves": [int(leaf) for leaf in tree["leaf_indices"]],
        }
        own_trees.append(own_tree)
    if not weights:
        return own_files(own, own_trees)
    leaves = []
    for tree_weights in weights:
        leaves.append([float(weight) for [weight] in tree_weights])
    return own_files(own, own_trees, **{_LEAVES: leaves})


@TaskDispatcher.register_task(
    "sgb_predict", prepare=prepare_prediction("sgb", on_shares=False, features_on_shares=False)
)
def execute_sgb_predict(
    devices: Devices[PredictionInput], task_config: SgbPredictConfig
) -> dict[str, Any]:
    """Predict with a model of `sgb`; the label party computes for the receiver."""
    import numpy as np

    run = devices.run
    own = devices.inputs
    params = SgbParams.model_validate(own.model.params)
    shown: list[Array] = []
    for values in batches(own, params.num_boost_round * 2**params.max_depth):
        run.progress(0.05 + 0.9 * len(shown) * len(values) / own.table.rows, "prediction")
        predicted = _predicted(devices, own, values, params)
        shown += keep_own({devices[own.receiver]: [predicted]})
    if not shown:
        return write_predictions(devices, task_config, own, None)
    return write_predictions(devices, task_config, own, np.concatenate(shown))


def _predicted(devices: Devices, own: PredictionInput, values: Array, params: SgbParams) -> Any:
    """The predictions at the receiver: the leaves that all splits allow, at the label party."""
    x = matrix(devices, own.names, values)
    label_party = devices[own.label_party or ""]
    names = own.names[devices.run.party]
    trees = own.own_file(SPLITS)
    tests = []
    for pyu, part in x.partitions.items():
        passed = pyu(lambda part: _pass(part, trees, names))(part)
        tests.append(passed.to(label_party))
    rows = len(values)
    scores = label_party(lambda tests: _scores(tests, own, params, rows))(tests)
    return scores.to(devices[own.receiver])


def _pass(values: Array, trees: list[Any], names: list[str]) -> list[Array]:
    """For every tree a packed matrix of shape (rows, leaves): 1 where own splits let a row pass."""
    import numpy as np
    from heu import numpy as hnp

    tests = []
    for tree in trees:
        features, thresholds = numbered_splits(names, tree["splits"])
        passed = hnp.tree_predict_with_indices(
            values, features, thresholds, tree["nodes"], tree["leaves"]
        )
        tests.append(np.packbits(passed.astype(bool), axis=0))
    return tests


def _scores(tests: list[list[Array]], own: PredictionInput, params: SgbParams, rows: int) -> Array:
    """At the label party: from the weights of the leaves that all parties let a row reach."""
    import numpy as np

    scores = np.zeros(rows)
    for parts, weights in zip(zip(*tests), own.own_file(_LEAVES)):
        reached = np.bitwise_and.reduce(parts)
        scores += np.unpackbits(reached, axis=0, count=rows) @ np.array(weights)
    if params.is_classifier:
        return probabilities(params, scores)
    center, scale = own.own_file(TARGET)
    return np.asarray(scores * scale + center)
