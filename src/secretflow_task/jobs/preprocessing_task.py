"""Splitting and transforming tables; each party handles its own columns in its own process."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from secretflow_task.contract.errors import TooFewRows
from secretflow_task.contract.task_dispatcher import TaskDispatcher
from secretflow_task.contract.tasks.splitting import TrainTestSplitConfig
from secretflow_task.contract.tasks.transformation import (
    BinningConfig,
    FillnaConfig,
    LabelEncoderConfig,
    MinMaxScalerConfig,
    OnehotEncoderConfig,
    StandardScalerConfig,
)
from secretflow_task.data_loader.table import Table
from secretflow_task.jobs.cells import cells
from secretflow_task.jobs.columns import check_rows
from secretflow_task.jobs.encoders import (
    encode_labels,
    encode_onehot,
    fit_labels,
    fit_onehot,
    text_columns,
)
from secretflow_task.jobs.filling import fill, fillable_columns, fit_fill, missing_count
from secretflow_task.jobs.transformation import (
    Transformed,
    prepare_transformation,
    write_transformed,
)
from secretflow_task.jobs.transformers import (
    bin_counts,
    bin_index,
    fit_bins,
    fit_min_max,
    fit_standard,
    scale_to_range,
    standardize,
)

if TYPE_CHECKING:
    from secretflow_task.engine.devices import Devices
    from secretflow_task.engine.run import Run
    from secretflow_task.jobs.columns import Array


@dataclass(frozen=True)
class SplitInput:
    """The own table and, at the party whose label is kept in shares, which rows are for training.

    Attributes:
        chosen: bool of shape (rows,); None at the other parties and without ``stratify``.
    """

    table: Table
    chosen: Array | None = None


def prepare_split(run: Run, config: TrainTestSplitConfig) -> SplitInput:
    """Read the own table; all must have the same number of rows."""
    table = run.read(config.input_data, "input_data")
    chosen = None
    if table.rows < 2:
        raise TooFewRows(f"{run.party}: a split needs two rows or more.", party=run.party)
    if config.stratify and config.stratify.party == run.party:
        table.require([config.stratify.column])
        chosen = choose_in_groups(table, config, _groups(table, config.stratify.column))
    check_rows(run.agree(rows=table.rows))
    return SplitInput(table, chosen)


@TaskDispatcher.register_task("train_test_split", prepare=prepare_split)
def execute_train_test_split(
    devices: Devices[SplitInput], task_config: TrainTestSplitConfig
) -> dict[str, Any]:
    """Split aligned tables into the same training and test rows at every party."""
    run, config = devices.run, task_config
    own = devices.inputs
    train, test = _rows_of_parts(devices, config, own)
    outputs = {}
    for name, rows in (("train_data", train), ("test_data", test)):
        path = run.write(own.table.take(rows), getattr(config, name)[run.party], name)
        outputs[name] = {run.party: path}
    return {
        **outputs,
        "rows": own.table.rows,
        "train_rows": len(train),
        "test_rows": len(test),
        "columns_used": [],
    }


def _rows_of_parts(devices: Devices, config: TrainTestSplitConfig, own: SplitInput) -> list[Array]:
    """The rows for training and for test, in the same order at every party."""
    import numpy as np
    import secretflow as sf

    if config.stratify is None:
        return _split(own.table, config.train_size, config.seed)
    chosen = sf.reveal(devices[config.stratify.party](lambda: own.chosen)())
    order = np.random.default_rng(config.seed)
    return [order.permutation(np.flatnonzero(chosen == part)) for part in (True, False)]


def choose_in_groups(table: Table, config: TrainTestSplitConfig, groups: Array) -> Array:
    """Which rows are for training, with the share of each group; bool of shape (rows,).

    The draw follows from the seed and the whole own table: whoever knew how it was drawn could tell
    the label of every row from the rows that were chosen, and with scikit-learn's order without
    even trying.

    Raises:
        TooFewRows: a group has too few.
    """
    import numpy as np

    secret = hashlib.sha256(f"{config.seed}".encode())
    for name in table.columns:
        secret.update(repr(table.data.column(name).to_pylist()).encode())
    bits = np.random.MT19937(np.random.SeedSequence(int.from_bytes(secret.digest(), "big")))
    train, _ = _split(table, config.train_size, np.random.RandomState(bits), groups)
    chosen = np.zeros(table.rows, dtype=bool)
    chosen[train] = True
    return chosen


def _split(table: Table, train_size: float, draw: Any, groups: Array | None = None) -> list[Array]:
    """Scikit-learn's `train_test_split` of the row numbers."""
    import numpy as np
    from sklearn.model_selection import train_test_split

    rows = np.arange(table.rows)
    try:
        return list(
            train_test_split(rows, train_size=train_size, random_state=draw, stratify=groups)
        )
    except ValueError as error:
        message = "There are too few rows, or too few of a label value, to split."
        party = None if groups is None else table.party
        raise TooFewRows(message, party=party, detail=str(error)) from None


def _groups(table: Table, column: str) -> Array:
    """The place of each row's label in sorted order; a missing one is last."""
    found = cells(table, column)
    return found.positions([*found.counts(), None])


@TaskDispatcher.register_task(
    "standard_scaler", prepare=prepare_transformation("standard_scaler", fit_standard, standardize)
)
def execute_standard_scaler(devices: Devices, task_config: StandardScalerConfig) -> dict[str, Any]:
    """Scale columns to mean 0 and standard deviation 1, as scikit-learn does, each at its owner."""
    return write_transformed(devices, task_config, "standard_scaler", ("mean", "std"))


@TaskDispatcher.register_task(
    "min_max_scaler", prepare=prepare_transformation("min_max_scaler", fit_min_max, scale_to_range)
)
def execute_min_max_scaler(devices: Devices, task_config: MinMaxScalerConfig) -> dict[str, Any]:
    """Scale columns to a range, as scikit-learn does, each at its owner."""
    return write_transformed(devices, task_config, "min_max_scaler", ("min", "max"))


@TaskDispatcher.register_task(
    "label_encoder",
    prepare=prepare_transformation("label_encoder", fit_labels, encode_labels, text_columns),
)
def execute_label_encoder(devices: Devices, task_config: LabelEncoderConfig) -> dict[str, Any]:
    """Replace categories by their index in sorted order, as scikit-learn does, at the owner."""
    return write_transformed(
        devices, task_config, "label_encoder", ("category_count", "categories")
    )


@TaskDispatcher.register_task(
    "onehot_encoder",
    prepare=prepare_transformation("onehot_encoder", fit_onehot, encode_onehot, text_columns),
)
def execute_onehot_encoder(devices: Devices, task_config: OnehotEncoderConfig) -> dict[str, Any]:
    """Replace a column by a column of 0 and 1 per category, as scikit-learn does, at its owner."""
    return write_transformed(
        devices, task_config, "onehot_encoder", ("categories", "output_columns")
    )


@TaskDispatcher.register_task(
    "binning", prepare=prepare_transformation("binning", fit_bins, bin_index)
)
def execute_binning(devices: Devices[Transformed], task_config: BinningConfig) -> dict[str, Any]:
    """Replace numbers by the index of their bin, with the bins of pandas, at the owner."""
    own = devices.inputs
    bins = own.of_each(lambda name: bin_counts(own.table, name, own.fitted[name]["split_points"]))
    result = write_transformed(devices, task_config, "binning", ())
    result["bins"] = bins
    return result


@TaskDispatcher.register_task(
    "fillna", prepare=prepare_transformation("fillna", fit_fill, fill, fillable_columns)
)
def execute_fillna(devices: Devices[Transformed], task_config: FillnaConfig) -> dict[str, Any]:
    """Fill the empty cells of columns, as scikit-learn's `SimpleImputer` does, at the owner."""
    own = devices.inputs
    filled = own.of_each(lambda name: missing_count(own.before, name))
    result = write_transformed(devices, task_config, "fillna", ("fill_value",))
    result["filled_cells"] = filled
    return result
