"""What the trainings share: features and label at their owners, saving a model."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Mapping, Sequence

from secretflow_task.contract.errors import BadLabel, FeatureRange, TooFewRows, ValueRange
from secretflow_task.contract.task_config import Strict
from secretflow_task.contract.tasks.learning import TrainingConfig
from secretflow_task.data_loader.table import Table
from secretflow_task.engine.model_store import Manifest, save_manifest
from secretflow_task.jobs.columns import (
    Facts,
    Features,
    agree_on_features,
    check_fits_shares,
    find_label_party,
    matrix,
    own_features,
)

if TYPE_CHECKING:
    from secretflow_task.engine.devices import Devices
    from secretflow_task.engine.run import Run
    from secretflow_task.jobs.columns import Array

_FARTHEST = 1e4  # deviations between a target's mean and 0, of which float32 leaves three digits
# A feature whose mean or deviation is beyond this makes the gradient diverge, silently.
SCALED_LIMIT = 5.0


@dataclass(frozen=True)
class TrainingInput(Features):
    """Features with the own label, where the own party holds it.

    Attributes:
        label: float64 of shape (rows, 1), standardised for a regression; None at the other parties.
        target: mean and standard deviation of a regression's target; None elsewhere.
        told: what every party has told the others about its input.
    """

    label: Array | None = None
    target: tuple[float, float] | None = None
    told: Facts = field(default_factory=dict)


@dataclass(frozen=True)
class OwnPart:
    """The own party's part of a training's input, before the peers have agreed on the whole.

    Attributes:
        label: the own label column as float64 of shape (rows, 1); None where the label is another
            party's.
    """

    table: Table
    features: list[str]
    values: Array
    label: Array | None
    has_label: bool


def read_own_part(run: Run, config: TrainingConfig, leave_out: Sequence[str] = ()) -> OwnPart:
    """Read the own features, and the label where the own party may be the one that holds it.

    Args:
        leave_out: further columns that are no features, though they are numeric.
    """
    table = run.read(config.train_data, "train_data")
    own = own_features(table, config.features, config.ids, config.label)
    own = [name for name in own if name not in leave_out]
    has_label = config.label in table.columns
    label = None
    if has_label and config.label_party in (None, run.party):
        label = table.numbers([config.label])
    return OwnPart(table, own, table.numbers(own), label, has_label)


def agree_on_training(
    run: Run,
    config: TrainingConfig,
    own: OwnPart,
    target: tuple[float, float] | None = None,
    **told: Any,
) -> TrainingInput:
    """Learn who holds which feature and the label; drop the own label if another's is meant.

    Args:
        told: further facts for the other parties.

    Raises:
        TooFewRows: with as many features as rows the labels could be inferred from the model.
    """
    names, facts = agree_on_features(
        run, own.features, config.features, rows=own.table.rows, has_label=own.has_label, **told
    )
    label_party = find_label_party(config.label, config.label_party, facts)
    inputs = TrainingInput(own.table, names, own.values, label_party, own.label, target, facts)
    if own.table.rows <= inputs.count:
        raise TooFewRows(
            f"{own.table.rows} rows are too few for {inputs.count} features: "
            "labels could be inferred."
        )
    return inputs


def label_matrix(devices: Devices, own: TrainingInput, label: str) -> Any:
    """The label, in the process of its owner."""
    names = {own.label_party or "": [label]}
    return matrix(devices, names, own.label)  # type: ignore[arg-type]


def check_scaled(own: OwnPart) -> None:
    """Raise `FeatureRange` for a feature whose mean or standard deviation is beyond 5."""
    table = own.table
    for name, mean, deviation in zip(own.features, own.values.mean(axis=0), own.values.std(axis=0)):
        if abs(mean) > SCALED_LIMIT or deviation > SCALED_LIMIT:
            raise FeatureRange(
                f"{table.party}: feature {name!r} of {table.purpose} is not scaled.",
                party=table.party,
            )


def check_binary(own: OwnPart, label: str) -> None:
    """Raise `BadLabel` unless the own label, where there is one, is 0 and 1."""
    import numpy as np

    party, values = own.table.party, own.label
    if values is None:
        return
    is_constant = (values == values[0]).all()
    is_binary = np.isin(values, (0.0, 1.0)).all()
    if is_constant or not is_binary:
        raise BadLabel(f"{party}: label {label!r} is not 0 and 1.", party=party)


def check_target(own: OwnPart, label: str, field: str) -> None:
    """Raise `ValueRange` for a regression's target that predictions on shares could not hold.

    They come out of the SPU as float32, on the target's own scale: of values that differ little
    from each other, compared with their distance from 0, too few digits would be left.
    """
    values, table = own.label, own.table
    if values is None:
        return
    check_fits_shares(table, [label], values, field)
    varies = (values != values[0]).any()  # a constant target is refused by a code of its own
    if varies and abs(values.mean()) > _FARTHEST * values.std():
        raise ValueRange(
            table.about(label, "varies too little, compared with its distance from 0"),
            party=table.party,
            hint="Subtract a constant from the label, and add it to the predictions.",
        )


def standardised(
    own: OwnPart, label: str, center: float | None = None
) -> tuple[Array | None, tuple[float, float] | None]:
    """A regression's target of mean 0 and deviation 1, and what undoes it; both None elsewhere.

    A large target overflows the fixed-point numbers without an error; a standardised one cannot.

    Args:
        center: what becomes 0 instead of the mean; the deviation is then the one from there.

    Raises:
        BadLabel: it is constant.
    """
    party, values = own.table.party, own.label
    if values is None:
        return None, None
    if (values == values[0]).all():
        problem = f"{party}: label {label!r} is constant."
        raise BadLabel(problem, party=party, hint="There is nothing to learn from it.")
    if center is None:
        center = float(values.mean())
    deviation = float(((values - center) ** 2).mean() ** 0.5)
    return (values - center) / deviation, (center, deviation)


def save_model(
    devices: Devices,
    model_type: str,
    path: str | Mapping[str, str],
    inputs: Features,
    params: Strict,
    *,
    label: str | None = None,
    shares: Mapping[str, Any] | None = None,
    files: Mapping[str, Any] | None = None,
) -> dict[str, str]:
    """Stage the model folder of the own party; returns ``{own party: folder as results name it}``.

    Args:
        path: ``model_output`` of the request.
        shares: SPU objects by name; every party writes its own share of each to ``<name>.share``.
        files: JSON values of the own party by name, each written to ``<name>.json``.
    """
    run, protocol = devices.run, devices.run.protocol
    own_path = run.model_path(path)
    folder = run.stage_folder(own_path, "model_output")
    for name, share in (shares or {}).items():
        share_path = str(folder / f"{name}.share")
        devices["spu"].dump(share, [share_path] * len(run.parties))
    for name, content in (files or {}).items():
        (folder / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
    manifest = Manifest(
        run.model_id,
        model_type,
        run.parties,
        inputs.names,
        protocol.name,
        protocol.numbers,
        params.model_dump(),
        label,
        inputs.label_party,
    )
    save_manifest(folder, manifest, run.party)
    return {run.party: run.shown(own_path, "model_output")}
