"""Generalised linear models on secret shares."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Iterator

from secretflow_task.contract.errors import (
    BadLabel,
    CollinearFeatures,
    ConstantColumn,
    InvalidTaskConfig,
    LinkMismatch,
    ValueRange,
)
from secretflow_task.contract.task_config import PartyName
from secretflow_task.contract.task_dispatcher import TaskDispatcher
from secretflow_task.contract.tasks.glm import SsGlmConfig, SsGlmParams
from secretflow_task.contract.tasks.learning import PredictConfig
from secretflow_task.data_loader.table import owners
from secretflow_task.engine.model_store import Manifest
from secretflow_task.jobs.columns import check_fits_shares, reveal_to
from secretflow_task.jobs.ml_task import irls
from secretflow_task.jobs.ml_task.prediction import (
    TARGET,
    PredictionInput,
    prepare_prediction,
    unstandardised,
    write_predictions,
)
from secretflow_task.jobs.ml_task.training import (
    OwnPart,
    TrainingInput,
    agree_on_training,
    check_binary,
    check_target,
    read_own_part,
    save_model,
    standardised,
)

if TYPE_CHECKING:
    from secretflow_task.engine.devices import Devices
    from secretflow_task.engine.run import Run
    from secretflow_task.jobs.columns import Array, Features


_WEIGHTS, _SCALES = "weights", "scales"
_CELLS = 4_000_000  # of the feature matrix, in one program on shares
_BOUNDS = {"FM64": (8.0, 2.0**-8), "FM128": (16.0, 2.0**-12)}  # Family.bound and Family.floor
_LARGEST = {"FM64": 1e3, "FM128": 1e6}  # a scaled label; below exp(bound), where means are cut off
_FM64_ROWS, _FM64_LABEL = 2**18, 3e4  # 1/rows must be exact, and predictions must not overflow


def family_of(params: SsGlmParams, field: str) -> irls.Family:
    """Distribution and link, with the bounds that the field's numbers need."""
    return irls.Family(params.power, params.link_name, *_BOUNDS[field])


class GlmModel(SsGlmParams):
    """``params`` as a model records them.

    Attributes:
        offset_party: who holds the offset column.
    """

    offset_party: PartyName | None = None


@dataclass(frozen=True, kw_only=True)
class GlmInput(TrainingInput):
    """Standardised features, the scaled label, offset and weight.

    Attributes:
        values: the own features with mean 0 and deviation 1.
        target: what undoes the scaling of the label, as ``(0, mean)`` or ``(mean, deviation)``.
        scales: mean and deviation of the own features, of shape (2, own features).
        extra: ``{column: values of shape (rows, 1)}`` of offset and weight where they are the own
            party's.
        holders: ``{column: party}`` of offset and weight.
    """

    scales: Array
    extra: dict[str, Array]
    holders: dict[str, str]


def prepare_glm(run: Run, config: SsGlmConfig) -> GlmInput:
    """Check and scale the own columns; find who holds offset and weight."""
    import numpy as np

    own = read_own_part(run, config, leave_out=config.extra)
    scales = np.stack([own.values.mean(axis=0), own.values.std(axis=0)])
    check_varied(own)
    label, target = scaled_label(own, config, run.protocol.field)
    extra = {name: own.table.numbers([name]) for name in config.extra if name in own.table.columns}
    check_weight(own, config.params.weight, extra)
    for name, values in extra.items():
        if name == config.params.weight:
            values = values / values.mean()
        check_fits_shares(own.table, [name], values, run.protocol.field)
    check_numbers(own, label, target, run)
    own = replace(own, values=(own.values - scales[0]) / scales[1], label=label)
    inputs = agree_on_training(run, config, own, target, extra=list(extra))
    holders = find_holders(config, inputs)
    return GlmInput(**vars(inputs), scales=scales, extra=extra, holders=holders)


def find_holders(config: SsGlmConfig, inputs: TrainingInput) -> dict[str, str]:
    """``{column: party}`` of offset and weight.

    Raises:
        MissingColumn, AmbiguousColumn: it cannot be told.
        InvalidTaskConfig: the offset must be scaled with the label, but lies at another party.
    """
    held = {party: facts["extra"] for party, facts in inputs.told.items()}
    holders = {}
    for party, names in owners(config.extra, held).items():
        for name in names:
            holders[name] = party
    offset, link = config.params.offset, config.params.link_name
    if offset and link not in ("Log", "Logit") and holders[offset] != inputs.label_party:
        raise InvalidTaskConfig(f"With the link {link} the offset must lie at the label's party.")
    return holders


def check_varied(own: OwnPart) -> None:
    """Raise `ConstantColumn` for a feature that is constant, but for rounding."""
    import numpy as np

    table = own.table
    for name, values in zip(own.features, own.values.T):
        if values.std() <= 1e-12 * np.abs(values).max():
            raise ConstantColumn(
                f"{table.party}: feature {name!r} of {table.purpose} is constant.",
                party=table.party,
                hint="Leave it out of the features; the model has an intercept of its own.",
            )


def scaled_label(
    own: OwnPart, config: SsGlmConfig, field: str
) -> tuple[Array | None, tuple[float, float] | None]:
    """The own label near 1, and what undoes it; the bare label of a classification; None elsewhere.

    Raises:
        BadLabel: it is constant, or outside the distribution's range.
    """
    params, values, party = config.params, own.label, own.table.party
    if params.dist == "Bernoulli":
        check_binary(own, config.label)
        return values, None
    if values is None or (params.dist, params.link_name) == ("Normal", "Identity"):
        check_target(own, config.label, field)
        return standardised(own, config.label)
    if params.dist in ("Gamma", "Normal") or params.power == 2:
        outside, wanted = values <= 0, "over 0"
    else:
        outside, wanted = values < 0, "0 or more"
    if outside.any() or (values == values[0]).all():
        raise BadLabel(
            f"{party}: label {config.label!r} must be {wanted} in every row, and vary.",
            party=party,
            hint=f"That is the range of params.dist {params.dist} "
            f"with the link {params.link_name}.",
        )
    return values / values.mean(), (0.0, float(values.mean()))


def check_weight(own: OwnPart, weight: str | None, extra: dict[str, Array]) -> None:
    """Raise `ValueRange` unless every weight is over 0."""
    if weight in extra and (extra[weight] <= 0).any():
        party = own.table.party
        raise ValueRange(
            f"{party}: column {weight!r} of params.weight must be over 0 in every row.",
            party=party,
            hint="Drop the rows that should not count before the intersection.",
        )


def check_numbers(
    own: OwnPart, label: Array | None, target: tuple[float, float] | None, run: Run
) -> None:
    """Raise `ValueRange` where the field has too few digits, or overflows without an error.

    Args:
        label: the scaled label, where it is the own party's.
    """
    table, field = own.table, run.protocol.field
    hint = "Look for a wrong value, or cut it off."
    problem = None
    if field == "FM64":
        hint = "Use the field FM128."
        if table.rows > _FM64_ROWS:
            problem = f"{table.rows} rows are too many"
        if target and target[1] > _FM64_LABEL:
            problem = "the label is too large"
    if label is not None and label.max() > _LARGEST[field]:
        problem = "the largest label is too many times the mean"
    if problem is not None:
        raise ValueRange(f"{table.party}: {problem} for {field}.", party=table.party, hint=hint)


@TaskDispatcher.register_task("ss_glm", prepare=prepare_glm)
def execute_ss_glm(devices: Devices[GlmInput], task_config: SsGlmConfig) -> dict[str, Any]:
    """Train a generalised linear model on secret shares; no party ever holds the whole model."""
    run, config, params = devices.run, task_config, task_config.params
    own = devices.inputs
    data = list(training_rows(devices, params))
    penalty = penalty_of(devices, params)
    b, epochs, converged = fit(devices, params, data, penalty)
    files: dict[str, Any] = {_SCALES: own.scales.tolist()}
    if own.target:
        files[TARGET] = own.target
    recorded = params.model_dump()
    recorded["link"] = params.link_name
    recorded["offset_party"] = own.holders.get(params.offset or "")
    saved = save_model(
        devices,
        "ss_glm",
        config.model_output,
        own,
        GlmModel.model_validate(recorded),
        label=config.label,
        shares={_WEIGHTS: b},
        files=files,
    )
    return {
        "model_output": saved,
        "link": params.link_name,
        "epochs": epochs,
        "converged": converged,
        "rows": own.table.rows,
        "columns_used": own.names[run.party],
    }


def share(devices: Devices, party: str, values: Any) -> Any:
    """An array of one party as shares; what the other parties pass is not looked at."""
    return devices[party](lambda: values)().to(devices["spu"])


def share_rows(devices: Devices, party: str, values: Array | None, rows: slice) -> Any:
    """Some rows of an array of one party as shares; the other parties may pass None."""
    own_rows = None
    if values is not None:
        own_rows = values[rows]
    return share(devices, party, own_rows)


def design(devices: Devices, own: Features, values: Array, rows: slice) -> Any:
    """Some rows of all parties' features as shares, with a column of ones."""
    parts = [share(devices, party, values[rows]) for party in own.names if own.names[party]]
    return devices["spu"](irls.design)(parts)


def row_slices(rows: int, columns: int) -> Iterator[slice]:
    """Parts of a table that are small enough for one program."""
    size = max(1, _CELLS // (columns + 1))
    for first in range(0, rows, size):
        yield slice(first, min(first + size, rows))


def training_rows(
    devices: Devices[GlmInput], params: SsGlmParams
) -> Iterator[tuple[irls.Rows, tuple[Any, Any]]]:
    """The training's input as shares, in parts, each with what the label party starts from."""
    own = devices.inputs
    label_party = own.label_party or ""
    weight0 = z0 = None
    if own.label is not None:
        family = family_of(params, devices.run.protocol.field)
        weight0, z0 = irls.start(family, own.label)
    own_offset = scaled_offset(params, own.extra.get(params.offset or ""), own.target)
    own_weight = own.extra.get(params.weight or "")
    if own_weight is not None:
        own_weight = own_weight / own_weight.mean()
    for rows in row_slices(own.table.rows, own.count):
        features = design(devices, own, own.values, rows)
        label = share_rows(devices, label_party, own.label, rows)
        offset = weight = None
        if params.offset:
            offset = share_rows(devices, own.holders[params.offset], own_offset, rows)
        if params.weight:
            weight = share_rows(devices, own.holders[params.weight], own_weight, rows)
        start = (
            share_rows(devices, label_party, weight0, rows),
            share_rows(devices, label_party, z0, rows),
        )
        yield (features, label, offset, weight), start


def scaled_offset(
    params: SsGlmParams, offset: Array | None, target: tuple[float, float] | list[float] | None
) -> Array | None:
    """The offset for the scaled label; a logarithm needs no scaling."""
    if offset is None or target is None or params.link_name in ("Log", "Logit"):
        return offset
    if params.link_name == "Identity":
        return offset / target[1]
    return offset * target[1]


def penalty_of(devices: Devices[GlmInput], params: SsGlmParams) -> Any:
    """The penalty of each coefficient as shares of shape (features + 1, 1), or None.

    It stays what was asked for though features, label and weights are scaled, each by its owner.
    """
    import numpy as np

    if not params.l2_lambda:
        return None
    own = devices.inputs
    variance = own.scales[1] ** 2
    own_penalty = np.minimum(params.l2_lambda / variance, 2.0**20).reshape(-1, 1)
    parts = [share(devices, party, own_penalty) for party in own.names if own.names[party]]
    label_factor = 1.0
    if own.target:
        family = family_of(params, devices.run.protocol.field)
        label_factor = own.target[1] ** family.label_scale
    factors = [share(devices, own.label_party or "", np.array(label_factor))]
    if params.weight:
        weight_factor = None
        if params.weight in own.extra:
            weight_factor = np.array(1 / own.extra[params.weight].mean())
        factors.append(share(devices, own.holders[params.weight], weight_factor))

    def combine(parts: list[Any], factors: list[Any]) -> Any:
        import jax.numpy as jnp

        penalty = jnp.concatenate([*parts, jnp.zeros((1, 1))], axis=0)
        for factor in factors:
            penalty = penalty * factor
        # More than this makes a coefficient 0 all the same, and its inverse would have no digits
        # left.
        return jnp.minimum(penalty, 1024.0 * own.table.rows)

    return devices["spu"](combine)(parts, factors)


def fit(
    devices: Devices,
    params: SsGlmParams,
    data: list[tuple[irls.Rows, tuple[Any, Any]]],
    penalty: Any,
) -> tuple[Any, int, bool]:
    """Coefficients on shares, how many epochs it took, and whether they stand still.

    Raises:
        CollinearFeatures: the features are linearly dependent.
        LinkMismatch: some rows' means leave the range of the link.
    """
    import secretflow as sf

    take_epoch = sgd_epoch
    if params.optimizer == "irls":
        take_epoch = irls_epoch
    b = None
    for epoch in range(params.epochs):
        progress = 0.05 + 0.9 * epoch / params.epochs
        devices.run.progress(progress, "training", epoch=epoch, epochs=params.epochs)
        before = b
        b, state = take_epoch(devices, params, data, penalty, before)
        settled, sound = sf.reveal(state)
        if not sound:
            check_link(devices, params, data, before)
            raise CollinearFeatures()
        if settled:
            check_link(devices, params, data, b)
            return b, epoch + 1, True
    check_link(devices, params, data, b)
    return b, params.epochs, False


def check_link(devices: Devices, params: SsGlmParams, data: list[Any], b: Any) -> None:
    """Raise `LinkMismatch` if a linear predictor is not over 0 though its link needs that.

    Such a row is held at the floor, where it outweighs all others: whatever the steps come to is no
    model.
    """
    import secretflow as sf

    family = family_of(params, devices.run.protocol.field)
    if not family.positive or b is None:
        return
    spu = devices["spu"]
    inside = [spu(lambda rows, b: irls.inside(family, rows, b))(rows, b) for rows, _ in data]
    if not all(map(bool, sf.reveal(inside))):
        raise LinkMismatch()


def irls_epoch(devices: Devices, params: SsGlmParams, data: list[Any], penalty: Any, b: Any) -> Any:
    """The next coefficients by Fisher scoring, and ``[settled, sound]``, all as shares."""
    field = devices.run.protocol.field
    family = family_of(params, field)
    shift = devices.inputs.table.rows.bit_length() - 1
    smallest = 1e-3 if field == "FM64" else 1e-5

    def add(totals: Any, part: irls.Rows, start: Any, b: Any) -> tuple[Any, Any]:
        if b is None:
            more = irls.start_sums(part, *start)
        else:
            more = irls.sums(family, part, b)
        if totals is None:
            return more
        return totals[0] + more[0], totals[1] + more[1]

    def finish(totals: Any, part: irls.Rows, start: Any, b: Any, penalty: Any) -> tuple[Any, Any]:
        sums = add(totals, part, start, b)
        return irls.step(*sums, b, penalty, shift=shift, smallest=smallest, tol=params.tol)

    if b is not None:  # only the first step starts from what the label party computed
        data = [(part, None) for part, _ in data]
    totals = None
    for part, start in data[:-1]:
        totals = _two(devices, add, totals, part, start, b)
    part, start = data[-1]
    return _two(devices, finish, totals, part, start, b, penalty)


def sgd_epoch(devices: Devices, params: SsGlmParams, data: list[Any], penalty: Any, b: Any) -> Any:
    """The next coefficients by gradient descent, and ``[settled, sound]``, all as shares."""
    family = family_of(params, devices.run.protocol.field)
    rows = devices.inputs.table.rows
    size = min(params.batch_size, rows)

    def descend(part: irls.Rows, b: Any, penalty: Any) -> Any:
        return irls.descend(
            family, part, b, penalty, rate=params.learning_rate, size=size, total=rows
        )

    spu = devices["spu"]
    if b is None:
        first_rows, _ = data[0]
        b = spu(irls.zeros)(first_rows)
    before = b
    for part, _ in data:
        b = spu(descend)(part, b, penalty)
    return b, spu(lambda before, b: irls.moved(before, b, params.tol))(before, b)


def _two(devices: Devices, program: Any, *args: Any) -> Any:
    """Run a program on shares that returns two arrays."""
    import secretflow as sf

    policy = sf.device.SPUCompilerNumReturnsPolicy.FROM_USER
    return devices["spu"](program, num_returns_policy=policy, user_specified_num_returns=2)(*args)


def _offset_column(manifest: Manifest, party: str) -> list[str]:
    model = GlmModel.model_validate(manifest.params)
    if model.offset is None or model.offset_party != party:
        return []
    return [model.offset]


def standardised_features(own: PredictionInput) -> Array:
    """The own features as the training saw them."""
    import numpy as np

    mean, deviation = np.array(own.own_file(_SCALES))
    scaled: Array = (own.values - mean) / deviation
    return scaled


def check_new_rows(own: PredictionInput, field: str) -> None:
    """Raise `ValueRange` for numbers that overflow, though the training's did not."""
    party = own.table.party
    check_fits_shares(own.table, own.names[party], standardised_features(own), field)
    if own.further is not None:
        check_fits_shares(own.table, _offset_column(own.model, party), own.further, field)


@TaskDispatcher.register_task(
    "ss_glm_predict",
    prepare=prepare_prediction(
        "ss_glm", features_on_shares=False, further=_offset_column, check=check_new_rows
    ),
)
def execute_ss_glm_predict(
    devices: Devices[PredictionInput], task_config: PredictConfig
) -> dict[str, Any]:
    """Predict with a model of `ss_glm`; only the receiver sees the predictions."""
    run, config = devices.run, task_config
    own = devices.inputs
    model = GlmModel.model_validate(own.model.params)
    b = own.shares(devices, _WEIGHTS)
    run.progress(0.2, "prediction")
    parts = [
        _predicted(devices, own, model, b, rows) for rows in row_slices(own.table.rows, own.count)
    ]
    scores = devices["spu"](_joined)(parts)
    if model.dist != "Bernoulli":
        scores = unstandardised(devices, own, scores)
    return write_predictions(devices, config, own, reveal_to(devices, own.receiver, scores))


def _predicted(devices: Devices, own: PredictionInput, model: GlmModel, b: Any, rows: slice) -> Any:
    """The means of some rows, on the scale of the scaled label, as shares."""
    family = family_of(model, devices.run.protocol.field)
    x = design(devices, own, standardised_features(own), rows)
    offset = None
    if model.offset_party:
        target = None
        if own.label_party == devices.run.party and model.dist != "Bernoulli":
            target = own.own_file(TARGET)
        own_offset = None
        if model.offset_party == devices.run.party:
            own_offset = scaled_offset(model, own.further, target)
        offset = share_rows(devices, model.offset_party, own_offset, rows)

    def program(x: Any, b: Any, offset: Any) -> Any:
        return irls.response(family, irls.linear_predictor(x, b, offset))

    return devices["spu"](program)(x, b, offset)


def _joined(parts: list[Any]) -> Any:
    import jax.numpy as jnp

    return jnp.concatenate(parts, axis=0)
