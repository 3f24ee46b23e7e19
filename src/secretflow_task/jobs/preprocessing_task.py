"""Splitting and transforming tables; each party handles its own columns in its own process."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import Field, model_validator

from secretflow_task.data_loader import Table
from secretflow_task.errors import TooFewRows
from secretflow_task.jobs.columns import check_rows
from secretflow_task.jobs.transformation import (
    Fitted,
    TransformConfig,
    prepare_transformation,
    write_transformed,
)
from secretflow_task.task_config import Reads, Share, Strict, TaskConfig, Use, Writes
from secretflow_task.task_dispatcher import TaskDispatcher

if TYPE_CHECKING:
    from secretflow_task.device_manager import Devices
    from secretflow_task.jobs.columns import Array
    from secretflow_task.run import Run


class StratifyBy(Strict):
    """The label whose shares both parts keep."""

    party: str
    column: str


class TrainTestSplitConfig(TaskConfig):
    """``task_config`` of `train_test_split`."""

    input_data: Reads = Field(description="The aligned table of each party.")
    train_data: Writes = Field(description="Where each party writes its training rows.")
    test_data: Writes = Field(description="Where each party writes its test rows.")
    train_size: Share = Field(0.8, description="Share of the rows that train_data gets.")
    seed: int = Field(0, ge=0, lt=2**32, description="The same seed gives the same split.")
    stratify: StratifyBy | None = Field(None, description="Keep the shares of this label in both parts.")

    @model_validator(mode="after")
    def _same_parties(self) -> TrainTestSplitConfig:
        if not set(self.input_data) == set(self.train_data) == set(self.test_data):
            raise ValueError("input_data, train_data and test_data must name the same parties")
        if self.stratify and self.stratify.party not in self.input_data:
            raise ValueError("stratify.party must be one of the parties of input_data")
        return self

    def reveals(self) -> list[Use]:
        """With ``stratify``, a choice of rows that depends on the label."""
        if self.stratify is None:
            return []
        what = "which rows are for training, drawn within the groups of the label"
        others = [party for party in self.parties() if party != self.stratify.party]
        return [Use(party, "", (self.stratify.column,), what) for party in others]


def prepare_split(run: Run, config: TrainTestSplitConfig) -> Table:
    """Read the own table; all must have the same number of rows."""
    table = run.read(config.input_data, "input_data")
    if config.stratify and config.stratify.party == run.party:
        table.require([config.stratify.column])
    if table.rows < 2:
        raise TooFewRows(f"{run.party}: a split needs two rows or more.", party=run.party)
    check_rows(run.agree(rows=table.rows))
    return table


@TaskDispatcher.register_task("train_test_split", config=TrainTestSplitConfig, prepare=prepare_split)
def execute_train_test_split(devices: Devices, task_config: TrainTestSplitConfig) -> dict[str, Any]:
    """Split aligned tables into the same training and test rows at every party."""
    run, config = devices.run, task_config
    table: Table = run.inputs
    train, test = _split_indices(devices, config, table)
    outputs = {}
    for name, rows in (("train_data", train), ("test_data", test)):
        path = run.write(table.take(rows), getattr(config, name)[run.party], name)
        outputs[name] = {run.party: path}
    return {
        **outputs,
        "rows": table.rows,
        "train_rows": len(train),
        "test_rows": len(test),
        "columns_used": [],
    }


def _split_indices(devices: Devices, config: TrainTestSplitConfig, table: Table) -> tuple[Array, Array]:
    """As scikit-learn's `train_test_split`, which every party calls with the same seed."""
    import numpy as np
    import secretflow as sf
    from sklearn.model_selection import train_test_split

    def split(labels: list[str] | None) -> list[Array]:
        try:
            return list(
                train_test_split(
                    np.arange(table.rows),
                    train_size=config.train_size,
                    random_state=config.seed,
                    stratify=labels,
                )
            )
        except ValueError as error:
            message = "There are too few rows, or too few of a label value, to split."
            raise TooFewRows(message, detail=str(error)) from None

    plain = split(None)
    if config.stratify is None:
        return plain[0], plain[1]
    column = config.stratify.column
    owner = devices[config.stratify.party]
    order = sf.reveal(owner(lambda: np.concatenate(split([cell or "" for cell in table.text(column)])))())
    return order[: len(plain[0])], order[len(plain[0]) :]


class StandardScalerConfig(TransformConfig):
    """``task_config`` of `standard_scaler`."""

    with_mean: bool = Field(True, description="Subtract the mean.")
    with_std: bool = Field(True, description="Divide by the standard deviation.")


def fit_standard(table: Table, name: str, config: StandardScalerConfig) -> Fitted:
    """Mean and population standard deviation (1 for a constant column) of the cells that are not empty."""
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler(with_mean=config.with_mean, with_std=config.with_std)
    scaler.fit(table.numbers([name], missing=True))
    fitted = {"mean": float(scaler.mean_[0])} if config.with_mean else {}
    return fitted | ({"std": float(scaler.scale_[0])} if config.with_std else {})


def scale(table: Table, name: str, fitted: Fitted) -> dict[str, Array]:
    """``(x - mean) / std``; empty cells stay empty."""
    values = table.numbers([name], missing=True).ravel()
    return {name: (values - fitted.get("mean", 0.0)) / fitted.get("std", 1.0)}


@TaskDispatcher.register_task(
    "standard_scaler",
    config=StandardScalerConfig,
    prepare=prepare_transformation("standard_scaler", fit_standard, scale),
)
def execute_standard_scaler(devices: Devices, task_config: StandardScalerConfig) -> dict[str, Any]:
    """Scale columns to mean 0 and standard deviation 1, as scikit-learn does, each at its owner."""
    return write_transformed(devices, task_config, "standard_scaler", ("mean", "std"))
