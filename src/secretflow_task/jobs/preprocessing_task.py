"""Splitting and transforming tables; each party handles its own columns in its own process."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import Field, model_validator

from secretflow_task.data_loader import Table
from secretflow_task.errors import TooFewRows
from secretflow_task.jobs.columns import ColumnNames, Features, agree_on_features, check_rows, own_features
from secretflow_task.model_store import Manifest, check_same_model, load_manifest, save_manifest
from secretflow_task.task_config import (
    LoadsModel,
    PartyColumns,
    Reads,
    SavesModel,
    Share,
    Strict,
    TaskConfig,
    Use,
    Writes,
)
from secretflow_task.task_dispatcher import TaskDispatcher

if TYPE_CHECKING:
    from secretflow_task.device_manager import Devices
    from secretflow_task.jobs.columns import Array
    from secretflow_task.run import Run

_PARAMETERS = "parameters.json"


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


class StandardScalerConfig(TaskConfig):
    """``task_config`` of `standard_scaler`."""

    input_data: Reads = Field(description="The table of each party.")
    output_data: Writes = Field(description="Where each party writes its scaled table.")
    columns: ColumnNames | None = Field(
        None, description="What to scale; every numeric column but the ids if absent."
    )
    ids: PartyColumns | None = Field(None, description="Columns that are never scaled: {party: [columns]}.")
    label: str | None = Field(None, description="A label column, which is not scaled.")
    with_mean: bool = Field(True, description="Subtract the mean.")
    with_std: bool = Field(True, description="Divide by the standard deviation.")
    model_output: SavesModel | None = Field(None, description="Where to save what was fitted.")
    model_path: LoadsModel | None = Field(
        None, description="Apply what was fitted before instead of fitting."
    )

    @model_validator(mode="after")
    def _same_parties(self) -> StandardScalerConfig:
        if set(self.input_data) != set(self.output_data):
            raise ValueError("input_data and output_data must name the same parties")
        if self.model_path and (self.model_output or self.columns):
            raise ValueError("model_path goes without model_output and columns, which the model has")
        if not (self.columns or self.ids or self.label or self.model_path):
            raise ValueError("give columns, or ids or label so that they are not scaled")
        return self

    def reveals(self) -> list[Use]:
        """Column names and row count; the parameters stay with the owner of the column."""
        return [Use(party, "", (), "names of the scaled columns, number of rows") for party in self.parties()]


@dataclass(frozen=True)
class ScalerInput(Features):
    """Features with the parameters of a fitted scaler, where the request names one."""

    parameters: dict[str, Any] | None = None


def prepare_scaler(run: Run, config: StandardScalerConfig) -> ScalerInput:
    """Check that the own columns are numeric; empty cells are left as they are."""
    table = run.read(config.input_data, "input_data")
    if config.model_path:
        folder = run.source(run.model_path(config.model_path), "model_path")
        manifest = load_manifest(folder, run.party)
        manifest.check_use("standard_scaler", run.parties, manifest.protocol, manifest.field, run.party)
        own = manifest.features[run.party]
        values = table.numbers(own, missing=True)
        answers = run.agree(model=manifest.digest(), rows=table.rows)
        check_rows(answers)
        check_same_model({party: answer["model"] for party, answer in answers.items()})
        parameters = json.loads((folder / _PARAMETERS).read_text(encoding="utf-8"))
        return ScalerInput(table, manifest.features, values, None, parameters)
    own = own_features(table, config.columns, config.ids, config.label)
    values = table.numbers(own, missing=True)
    names, _ = agree_on_features(run, own, config.columns, rows=table.rows)
    return ScalerInput(table, names, values)


@TaskDispatcher.register_task("standard_scaler", config=StandardScalerConfig, prepare=prepare_scaler)
def execute_standard_scaler(devices: Devices, task_config: StandardScalerConfig) -> dict[str, Any]:
    """Scale columns to mean 0 and standard deviation 1, as scikit-learn does, each at its owner."""
    from sklearn.preprocessing import StandardScaler

    run, config = devices.run, task_config
    own: ScalerInput = run.inputs
    names = own.names[run.party]
    scaler = StandardScaler(with_mean=config.with_mean, with_std=config.with_std)
    parameters = own.parameters or (_fit(scaler, own.values) if names else {"mean": [], "std": []})
    scaled = own.values
    if parameters["mean"] is not None:
        scaled = scaled - parameters["mean"]
    if parameters["std"] is not None:
        scaled = scaled / parameters["std"]
    table = own.table.with_columns(dict(zip(names, scaled.T)))
    result = {"output_data": {run.party: run.write(table, config.output_data[run.party], "output_data")}}
    if config.model_output:
        result["model_output"] = {run.party: _save(devices, config, own, parameters)}
    shown = {key: dict(zip(names, values)) for key, values in parameters.items() if values is not None}
    return {**result, **shown, "rows": table.rows, "columns_used": names}


def _fit(scaler: Any, values: Array) -> dict[str, Any]:
    """Mean and standard deviation per column; None for what is not asked for."""
    scaler.fit(values)
    mean = scaler.mean_.tolist() if scaler.with_mean else None
    return {"mean": mean, "std": scaler.scale_.tolist() if scaler.with_std else None}


def _save(
    devices: Devices, config: StandardScalerConfig, own: ScalerInput, parameters: dict[str, Any]
) -> str:
    run = devices.run
    path = run.model_path(config.model_output or "")
    folder = run.stage_folder(path, "model_output")
    (folder / _PARAMETERS).write_text(json.dumps(parameters), encoding="utf-8")
    params = {"with_mean": config.with_mean, "with_std": config.with_std}
    protocol = run.protocol
    save_manifest(
        folder,
        Manifest(
            run.model_id, "standard_scaler", run.parties, own.names, protocol.name, protocol.numbers, params
        ),
    )
    return run.shown(path, "model_output")
