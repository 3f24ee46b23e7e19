"""K-means clustering on secret shares.

SecretFlow's `KMeans` is not used: it unrolls all iterations into one program, always draws the same
start, divides by zero where a cluster is empty, and overflows without an error
(docs/developer_guide/silent_errors.md).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from secretflow_task.contract.errors import FeatureRange, TooFewRows, ValueRange
from secretflow_task.contract.task_dispatcher import TaskDispatcher
from secretflow_task.contract.tasks.kmeans import (
    KmeansPredictConfig,
    SsKmeansConfig,
    SsKmeansParams,
)
from secretflow_task.jobs.columns import (
    Features,
    agree_on_features,
    own_features,
    own_ids,
    reveal_to,
)
from secretflow_task.jobs.ml_task.prediction import (
    PredictionInput,
    prepare_prediction,
    write_column,
    write_predictions,
)
from secretflow_task.jobs.ml_task.training import save_model

if TYPE_CHECKING:
    import numpy as np

    from secretflow_task.data_loader.table import Table
    from secretflow_task.engine.devices import Devices
    from secretflow_task.engine.run import Run
    from secretflow_task.jobs.columns import Array

_CENTERS, _MEANS = "centers", "means"
# Powers of two: what products of two numbers of a field must stay below, the least deviation whose
# square is resolved, and the rows whose inverse is.
_LIMITS = {"FM64": (27, -8, 18), "FM128": (75, -12, 26)}


@dataclass(frozen=True, kw_only=True)
class KmeansInput(Features):
    """Features with mean 0.

    Attributes:
        means: what was subtracted from the own features, of shape (own features,).
    """

    means: Array


def prepare_kmeans(run: Run, config: SsKmeansConfig) -> KmeansInput:
    """Read, check and centre the own features."""
    table = run.read(config.train_data, "train_data")
    own = own_features(table, config.features, config.ids)
    values = table.numbers(own)
    table.require(own_ids(run.party, config.ids))
    means = values.mean(axis=0)
    centred_values = values - means
    check_distances(table, centred_values, run.protocol.field, len(run.parties))
    check_spread(table, own, values, run.protocol.field)
    names, _ = agree_on_features(run, own, config.features, rows=table.rows)
    if table.rows <= config.params.n_clusters:
        raise TooFewRows(f"{table.rows} rows are too few for {config.params.n_clusters} clusters.")
    return KmeansInput(table, names, centred_values, means=means)


def check_distances(table: Table, values: Array, field: str, parties: int) -> None:
    """Raise `ValueRange` where squared distances or a cluster's sum would overflow silently.

    Args:
        values: the own features, centred.
    """
    import numpy as np

    largest, _, rows = _LIMITS[field]
    distance = (values**2).sum(axis=1).max(initial=0.0) * 4 * parties
    total = np.abs(values).sum(axis=0).max(initial=0.0)
    if max(distance, total) <= 2.0**largest and table.rows <= 2**rows:
        return
    hint = "Scale the features with `standard_scaler` first."
    if field == "FM64":
        hint = "Scale the features with `standard_scaler` first, or use the field FM128."
    problem = f"{table.party}: the numbers of {table.purpose} are too large for {field}."
    raise ValueRange(problem, party=table.party, hint=hint)


def check_spread(table: Table, names: list[str], values: Array, field: str) -> None:
    """Raise `FeatureRange` for a feature whose squares vary by less than the field resolves."""
    _, smallest, _ = _LIMITS[field]
    for name, spread in zip(names, values.std(axis=0)):
        if 0 < spread < 2.0**smallest:
            raise FeatureRange(
                f"{table.party}: feature {name!r} of {table.purpose} "
                f"varies too little for {field}.",
                party=table.party,
                hint="Scale the features with `standard_scaler` first.",
            )


@TaskDispatcher.register_task("ss_kmeans", prepare=prepare_kmeans)
def execute_ss_kmeans(devices: Devices[KmeansInput], task_config: SsKmeansConfig) -> dict[str, Any]:
    """Cluster the rows on secret shares; only the receiver sees which row is in which cluster."""
    run, config = devices.run, task_config
    own = devices.inputs
    x = _shared_features(devices, own, own.values)
    centers, iterations = fit(devices, config.params, x)
    result: dict[str, Any] = {
        "model_output": save_model(
            devices,
            "ss_kmeans",
            config.model_output,
            own,
            config.params,
            shares={_CENTERS: centers},
            files={_MEANS: own.means.tolist()},
        ),
        "iterations": iterations,
        "rows": own.table.rows,
        "columns_used": own.names[run.party],
        "receiver": config.receiver,
    }
    clusters = reveal_to(devices, config.receiver, devices["spu"](assign)(x, centers))
    if clusters is None:
        return result
    ids = own_ids(run.party, config.ids)
    result["output_path"] = write_column(
        run, own.table, ids, values=clusters, name="cluster", path=config.output_path
    )
    result["sizes"] = sizes_of(clusters, config.params.n_clusters)
    return result


def centred(own: PredictionInput) -> Array:
    """The own features as the training saw them."""
    import numpy as np

    values: Array = own.values - np.array(own.own_file(_MEANS))
    return values


def check_new_rows(own: PredictionInput, field: str) -> None:
    """Raise `ValueRange` for numbers that overflow, though the training's did not."""
    check_distances(own.table, centred(own), field, len(own.names))


@TaskDispatcher.register_task(
    "ss_kmeans_predict",
    prepare=prepare_prediction("ss_kmeans", features_on_shares=False, check=check_new_rows),
)
def execute_ss_kmeans_predict(
    devices: Devices[PredictionInput], task_config: KmeansPredictConfig
) -> dict[str, Any]:
    """Assign rows to the clusters of `ss_kmeans`; only the receiver sees which."""
    run, config = devices.run, task_config
    own = devices.inputs
    params = SsKmeansParams.model_validate(own.model.params)
    centers = own.shares(devices, _CENTERS)
    run.progress(0.2, "prediction")
    x = _shared_features(devices, own, centred(own))
    clusters = reveal_to(devices, own.receiver, devices["spu"](assign)(x, centers))
    result = write_predictions(devices, config, own, clusters, "cluster")
    if clusters is not None:
        result["sizes"] = sizes_of(clusters, params.n_clusters)
    return result


def sizes_of(clusters: Array, count: int) -> list[int]:
    """The number of rows of each cluster."""
    import numpy as np

    sizes: list[int] = np.bincount(clusters, minlength=count).tolist()
    return sizes


def _shared_features(devices: Devices, own: Features, values: Array) -> Any:
    """All parties' features as shares of shape (rows, features)."""
    spu = devices["spu"]
    parts = []
    for party, names in own.names.items():
        if names:
            part = devices[party](lambda: values)()
            parts.append(part.to(spu))
    return spu(_side_by_side)(parts)


def _side_by_side(parts: list[Any]) -> Any:
    import jax.numpy as jnp

    return jnp.concatenate(parts, axis=1)


def fit(devices: Devices, params: SsKmeansParams, x: Any) -> tuple[Any, list[int]]:
    """The best start's centres as shares, and how many iterations each start took."""
    import numpy as np

    random = np.random.default_rng(params.seed)
    best = None
    iterations = []
    for start in range(params.n_init):
        first_centers = _first_centers(devices, params, x, random)
        centers, count = _iterate(devices, params, x, first_centers, start)
        iterations.append(count)
        if best is None:
            best = centers
        else:
            best = devices["spu"](better)(x, best, centers)
    return best, iterations


def _first_centers(
    devices: Devices, params: SsKmeansParams, x: Any, random: np.random.Generator
) -> Any:
    rows = random.choice(devices.inputs.table.rows, params.n_clusters, replace=False)
    candidates = 2 + int(math.log(params.n_clusters))  # for each centre, as in scikit-learn
    draws = random.random((params.n_clusters - 1, candidates))  # drawn even if `init` is random
    if params.init == "random":
        return devices["spu"](lambda x: x[rows])(x)
    return devices["spu"](lambda x: plus_plus(x, int(rows[0]), draws))(x)


def _iterate(
    devices: Devices, params: SsKmeansParams, x: Any, centers: Any, start: int
) -> tuple[Any, int]:
    """Centres after the iterations of one start, and how many they were."""
    import secretflow as sf

    iterate = devices["spu"](
        lambda x, centers: move(x, centers, params.tol),
        num_returns_policy=sf.device.SPUCompilerNumReturnsPolicy.FROM_USER,
        user_specified_num_returns=2,
    )
    for index in range(params.max_iter):
        starts_done = start + index / params.max_iter
        progress = 0.05 + 0.9 * starts_done / params.n_init
        devices.run.progress(progress, "training", start=start, iteration=index)
        centers, settled = iterate(x, centers)
        if sf.reveal(settled):
            return centers, index + 1
    return centers, params.max_iter


def _distances(x: Any, centers: Any) -> Any:
    """Squared distances of shape (rows, centres), less the rows' own squares."""
    import jax.numpy as jnp

    return jnp.sum(centers * centers, axis=1)[None, :] - 2 * (x @ centers.T)


def assign(x: Any, centers: Any) -> Any:
    """The nearest centre of every row, of shape (rows,)."""
    import jax.numpy as jnp

    return jnp.argmin(_distances(x, centers), axis=1)


def move(x: Any, centers: Any, tol: float) -> tuple[Any, Any]:
    """One iteration of Lloyd's algorithm, and whether it has settled; an empty cluster stays."""
    import jax.numpy as jnp

    member = _one_hot(assign(x, centers), centers.shape[0])
    counts = jnp.sum(member, axis=0)[:, None]
    means = member.T @ x / jnp.maximum(counts, 1.0)
    moved = jnp.where(counts > 0.5, means, centers)
    variance = jnp.sum(x * x) / x.size
    return moved, jnp.sum((moved - centers) ** 2) <= tol * variance


def better(x: Any, one: Any, two: Any) -> Any:
    """Those of two centres that lie nearer to the rows."""
    import jax.numpy as jnp

    inertia = [jnp.sum(jnp.min(_distances(x, centers), axis=1)) for centers in (one, two)]
    return jnp.where(inertia[1] < inertia[0], two, one)


def plus_plus(x: Any, first: int, draws: Array) -> Any:
    """First centres by greedy k-means++ (Arthur and Vassilvitskii 2007), as in scikit-learn.

    Args:
        first: the row of the first centre.
        draws: uniform numbers of shape (centres - 1, candidates for each).
    """
    import jax.numpy as jnp

    rows, squares = x.shape[0], jnp.sum(x * x, axis=1)
    shrink = 2.0 ** -rows.bit_length()  # keeps the sum of all squared distances small; exact
    centers = x[first][None, :]
    nearest = jnp.maximum(_distances(x, centers)[:, 0] + squares, 0.0)
    for numbers in draws:
        total = jnp.cumsum(nearest) * shrink
        drawn = jnp.sum(total[:, None] < total[-1] * numbers[None, :], axis=0)
        candidates = _one_hot(jnp.minimum(drawn, rows - 1), rows) @ x
        distances = jnp.maximum(_distances(x, candidates).T + squares, 0.0)
        distances = jnp.minimum(distances, nearest[None, :])
        choice = _one_hot(jnp.argmin(jnp.sum(distances * shrink, axis=1))[None], len(numbers))
        centers = jnp.concatenate([centers, choice @ candidates], axis=0)
        nearest = (choice @ distances)[0]
    return centers


def _one_hot(index: Any, count: int) -> Any:
    import jax.numpy as jnp

    return (index[:, None] == jnp.arange(count)[None, :]).astype(float)
