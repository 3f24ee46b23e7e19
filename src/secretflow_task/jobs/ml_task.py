"""Training on shares and prediction with the trained models."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, model_validator

from secretflow_task import engine_adapter
from secretflow_task.data_loader import Table
from secretflow_task.errors import BadLabel, FeatureRange, TooFewRows, ValueRange
from secretflow_task.jobs.columns import (
    ColumnNames,
    Features,
    agree_on_features,
    check_rows,
    find_label_party,
    matrix,
    own_features,
    reveal_to,
)
from secretflow_task.model_store import Manifest, check_same_model, load_manifest, save_manifest
from secretflow_task.task_config import (
    LoadsModel,
    PartyColumns,
    PartyName,
    PathRole,
    Reads,
    SavesModel,
    Strict,
    TaskConfig,
    Use,
)
from secretflow_task.task_dispatcher import TaskDispatcher

if TYPE_CHECKING:
    from secretflow_task.device_manager import Devices
    from secretflow_task.jobs.columns import Array
    from secretflow_task.run import Run

Positive = Annotated[float, Field(gt=0)]
_WEIGHTS = "weights.share"
_TARGET = "target.json"
_PREDICT_ROWS = 65_536  # rows per step of a prediction
_FM64_LIMIT = 3e7  # rows of a step times the largest feature and error; FM64 was measured to hold it
_SCALED_LIMIT = 5.0  # a feature whose mean or deviation is beyond this makes the gradient diverge, silently


class SsLrParams(Strict):
    """``params`` of `ss_lr`."""

    epochs: int = Field(10, ge=1, le=10_000, description="How often every row is used.")
    learning_rate: Positive = Field(0.1, description="Step size.")
    batch_size: int = Field(128, ge=1, description="Rows per step; at most the number of rows is used.")
    penalty: Literal["None", "l2"] = Field("None", description="Regularisation.")
    l2_norm: Positive = Field(
        0.1, description="Weight of the l2 penalty, divided by batch_size in every step."
    )
    sig_type: Literal["real", "t1", "t3", "t5", "df", "sr", "mix"] = Field(
        "real",
        description="Sigmoid on shares: real is exact and slowest, t1 is fastest and clips scores.",
    )
    reg_type: Literal["logistic", "linear"] = Field("logistic", description="Classification or regression.")
    tol: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Stop when no weight changes by more than this share in an epoch; 0 never stops.",
    )
    report_metrics: bool = Field(
        False, description="Tell the label party loss and AUC (or R2) after every epoch."
    )
    allow_unscaled: bool = Field(False, description="Train although features are not scaled.")


class SsLrConfig(TaskConfig):
    """``task_config`` of `ss_lr`."""

    feature_key = "features"

    train_data: Reads = Field(description="The aligned table of each party.")
    features: ColumnNames | None = Field(
        None, description="The features; every numeric column but ids and label if absent."
    )
    label: str = Field(description="The label column.")
    label_party: PartyName | None = Field(
        None, description="Who holds the label; needed if several parties have it."
    )
    ids: PartyColumns | None = Field(None, description="Columns that are never features: {party: [columns]}.")
    model_output: SavesModel = Field(description="Folder for the model, at every party.")
    params: SsLrParams = Field(default_factory=SsLrParams, description="The algorithm's own parameters.")

    @model_validator(mode="after")
    def _label_is_no_feature(self) -> SsLrConfig:
        if self.label in (self.features or ()):
            raise ValueError("features must not name the label")
        return self

    def reveals(self) -> list[Use]:
        """Column names and row count to all; metrics to the label party only where they are asked for."""
        uses = [Use(party, "", (), "names of the features, number of rows") for party in self.parties()]
        if self.params.tol:
            uses += [Use(party, "", (), "after how many epochs training stopped") for party in self.parties()]
        if self.params.report_metrics:
            uses.append(
                Use(self.label_party or "label party", "", (self.label,), "loss and AUC or R2 per epoch")
            )
        return uses


@dataclass(frozen=True)
class TrainingInput(Features):
    """Features with the own label, where the own party holds it.

    Attributes:
        label: float64 of shape (rows, 1), standardised for a regression; None at the other parties.
        target: mean and standard deviation of a regression's target; None elsewhere.
    """

    label: Array | None = None
    target: tuple[float, float] | None = None


def prepare_training(run: Run, config: SsLrConfig) -> TrainingInput:
    """Check features and label at their owners."""
    table = run.read(config.train_data, "train_data")
    own = own_features(table, config.features, config.ids, config.label)
    values = table.numbers(own)
    if not config.params.allow_unscaled:
        check_scaled(table, own, values)
    has_label = config.label in table.columns
    label, target = None, None
    if has_label and config.label_party in (None, run.party):
        label, target = read_label(table, config)
    if run.protocol.field == "FM64":
        check_fm64(table, values, label, config.params)
    names, facts = agree_on_features(run, own, config.features, rows=table.rows, has_label=has_label)
    label_party = find_label_party(config.label, config.label_party, facts)
    inputs = TrainingInput(table, names, values, label_party, label, target)
    if table.rows <= inputs.count:
        raise TooFewRows(
            f"{table.rows} rows are too few for {inputs.count} features: labels could be inferred."
        )
    return inputs


def check_fm64(table: Table, values: Array, label: Array | None, params: SsLrParams) -> None:
    """Raise `ValueRange` where a step could overflow FM64, which gives wrong weights without an error."""
    import numpy as np

    rows = min(params.batch_size, table.rows)
    error = 1.0 if params.reg_type == "logistic" else _SCALED_LIMIT
    largest = [np.abs(values).max(initial=1.0) * error]
    if label is not None:
        largest.append(np.abs(label).max() * _SCALED_LIMIT)
    if rows * max(largest) > _FM64_LIMIT:
        raise ValueRange(
            f"{table.party}: the numbers of {table.purpose} are too large for FM64 with this batch_size.",
            party=table.party,
            hint="Use the field FM128, a smaller params.batch_size, or scale the features.",
        )


def check_scaled(table: Table, names: list[str], values: Array) -> None:
    """Raise `FeatureRange` for a feature whose mean or standard deviation is beyond 5."""
    for name, mean, deviation in zip(names, values.mean(axis=0), values.std(axis=0)):
        if abs(mean) > _SCALED_LIMIT or deviation > _SCALED_LIMIT:
            raise FeatureRange(
                f"{table.party}: feature {name!r} of {table.purpose} is not scaled.", party=table.party
            )


def read_label(table: Table, config: SsLrConfig) -> tuple[Array, tuple[float, float] | None]:
    """The label as float64 of shape (rows, 1), and the mean and deviation that standardised a regression's.

    A large target overflows the fixed-point numbers without an error; a standardised one cannot.

    Raises:
        BadLabel: not 0 and 1 for a classification, or constant.
    """
    import numpy as np

    label = table.numbers([config.label])
    constant = bool((label == label[0]).all())
    if config.params.reg_type == "logistic":
        if constant or not np.isin(label, (0.0, 1.0)).all():
            raise BadLabel(f"{table.party}: label {config.label!r} is not 0 and 1.", party=table.party)
        return label, None
    if constant:
        raise BadLabel(
            f"{table.party}: label {config.label!r} is constant.",
            party=table.party,
            hint="There is nothing to learn.",
        )
    target = (float(label.mean()), float(label.std()))
    return (label - target[0]) / target[1], target


@TaskDispatcher.register_task("ss_lr", config=SsLrConfig, needs=("spu",), prepare=prepare_training)
def execute_ss_logistic_regression(devices: Devices, task_config: SsLrConfig) -> dict[str, Any]:
    """Train a logistic or linear regression on secret shares; no party ever holds the whole model."""
    from secretflow.ml.linear import SSRegression

    run, config, params = devices.run, task_config, task_config.params
    own: TrainingInput = run.inputs
    x = matrix(devices, own.names, own.values)
    y = matrix(devices, {own.label_party or "": [config.label]}, own.label)  # type: ignore[arg-type]
    engine_adapter.train_on_every_row()
    model = engine_adapter.without_beaver_cache(SSRegression(devices["spu"]))
    metrics: list[dict[str, float]] = []

    def after_epoch(epoch: int, _state: Any) -> None:
        if params.report_metrics:
            metrics.append(_metrics(devices, config, model, x))
        run.progress(
            0.05 + 0.9 * (epoch + 1) / params.epochs, "training", epoch=epoch + 1, epochs=params.epochs
        )

    run.progress(0.05, "training", epoch=0, epochs=params.epochs)
    model.fit(
        x,
        y,
        epochs=params.epochs,
        learning_rate=params.learning_rate,
        batch_size=min(params.batch_size, own.table.rows),
        sig_type=params.sig_type,
        reg_type=params.reg_type,
        penalty=params.penalty,
        l2_norm=params.l2_norm,
        eps=params.tol,
        epoch_callback=after_epoch,
    )
    result: dict[str, Any] = {"model_output": {run.party: _save_regression(devices, config, model)}}
    if params.report_metrics and run.party == own.label_party:
        result["metrics"] = metrics
    return {**result, "rows": own.table.rows, "columns_used": own.names[run.party]}


def _metrics(devices: Devices, config: SsLrConfig, model: Any, x: Any) -> dict[str, float]:
    """Loss and AUC, or R2, of the current weights on the training rows; empty but at the label party."""
    from secretflow.ml.linear import SSRegression
    from sklearn.metrics import log_loss, mean_squared_error, r2_score, roc_auc_score

    own: TrainingInput = devices.run.inputs
    # A second object: predicting changes the batch size of the one that trains.
    current = SSRegression(devices["spu"])
    current.load_model(model.save_model())
    batch = min(own.table.rows, _PREDICT_ROWS)
    scores = reveal_to(devices, own.label_party or "", current.predict(x, batch_size=batch))
    if scores is None or own.label is None:
        return {}
    truth, scores = own.label.ravel(), scores.ravel().astype(float)
    if config.params.reg_type == "linear":
        return {"loss": float(mean_squared_error(truth, scores)), "r2": float(r2_score(truth, scores))}
    return {
        "loss": float(log_loss(truth, scores.clip(1e-7, 1 - 1e-7))),
        "auc": float(roc_auc_score(truth, scores)),
    }


def _save_regression(devices: Devices, config: SsLrConfig, model: Any) -> str:
    """Write the own share of the weights and the manifest; returns the folder as results name it."""
    run, protocol = devices.run, devices.run.protocol
    own: TrainingInput = run.inputs
    path = run.model_path(config.model_output)
    folder = run.stage_folder(path, "model_output")
    devices["spu"].dump(model.spu_w, [str(folder / _WEIGHTS)] * len(run.parties))
    if own.target is not None:
        (folder / _TARGET).write_text(json.dumps(own.target), encoding="utf-8")
    save_manifest(
        folder,
        Manifest(
            run.model_id,
            "ss_lr",
            run.parties,
            own.names,
            protocol.name,
            protocol.numbers,
            config.params.model_dump(),
            config.label,
            own.label_party,
        ),
    )
    return run.shown(path, "model_output")


class PredictConfig(TaskConfig):
    """``task_config`` of the predictions."""

    model_path: LoadsModel = Field(description="Folder of the model, as it was named for training.")
    predict_data: Reads = Field(description="The aligned table of each party.")
    receiver: PartyName | None = Field(
        None, description="Who gets the predictions; the label party if absent."
    )
    output_path: Annotated[str, PathRole("write", at="receiver")] = Field(
        description="Where the receiver writes its ids and the column `prediction`."
    )
    ids: PartyColumns | None = Field(None, description="Columns that the output repeats: {party: [columns]}.")

    @model_validator(mode="after")
    def _distinct_columns(self) -> PredictConfig:
        for columns in (self.ids or {}).values():
            if len({*columns, "prediction"}) <= len(columns):
                raise ValueError("ids must not name a column twice, nor 'prediction', which the output adds")
        return self

    def reveals(self) -> list[Use]:
        """The predictions, to the receiver only."""
        everyone = [Use(party, "", (), "number of rows") for party in self.parties()]
        return [*everyone, Use(self.receiver or "label party", "", (), "the prediction for every row")]


@dataclass(frozen=True)
class PredictionInput(Features):
    """Features in the model's order, with the model."""

    manifest: Manifest | None = None
    folder: Path = Path()
    receiver: str = ""

    @property
    def model(self) -> Manifest:
        """The manifest of the loaded model."""
        assert self.manifest is not None
        return self.manifest


def prepare_prediction(run: Run, config: PredictConfig) -> PredictionInput:
    """Load the own part of the model, check that it fits, and read the features that it names."""
    folder = run.source(run.model_path(config.model_path), "model_path")
    manifest = load_manifest(folder, run.party)
    manifest.check_use("ss_lr", run.parties, run.protocol.name, run.protocol.numbers, run.party)
    table = run.read(config.predict_data, "predict_data")
    values = table.numbers(manifest.features[run.party])
    table.require((config.ids or {}).get(run.party, ()))
    receiver = config.receiver or manifest.label_party or run.parties[0]
    if run.party == receiver:
        run.check_table_output(config.output_path, "output_path")
    facts = run.agree(rows=table.rows, model=manifest.digest())
    check_same_model({party: answer["model"] for party, answer in facts.items()})
    check_rows(facts)
    return PredictionInput(table, manifest.features, values, manifest.label_party, manifest, folder, receiver)


@TaskDispatcher.register_task(
    "ss_lr_predict", config=PredictConfig, needs=("spu",), prepare=prepare_prediction
)
def execute_ss_lr_predict(devices: Devices, task_config: PredictConfig) -> dict[str, Any]:
    """Predict with a model of `ss_lr`; only the receiver sees the predictions."""
    from secretflow.ml.linear import SSRegression
    from secretflow.ml.linear.linear_model import LinearModel, RegType
    from secretflow.utils.sigmoid import SigType

    run, config = devices.run, task_config
    own: PredictionInput = run.inputs
    params = SsLrParams.model_validate(own.model.params)
    weights = devices["spu"].load([str(own.folder / _WEIGHTS)] * len(run.parties))
    model = SSRegression(devices["spu"])
    model.load_model(LinearModel(weights, RegType(params.reg_type), SigType(params.sig_type)))
    run.progress(0.2, "prediction")
    x = matrix(devices, own.names, own.values)
    scores = model.predict(x, batch_size=min(own.table.rows, _PREDICT_ROWS))
    if params.reg_type == "linear":
        scores = _unstandardised(devices, own, scores)
    return write_predictions(devices, config, own, reveal_to(devices, own.receiver, scores))


def _unstandardised(devices: Devices, own: PredictionInput, scores: Any) -> Any:
    """Undo, on shares, the standardisation of the target, which only the label party knows."""
    import numpy as np

    def read_target() -> Array:
        return np.array(json.loads((own.folder / _TARGET).read_text(encoding="utf-8")))

    spu = devices["spu"]
    target = devices[own.label_party or ""](read_target)()
    return spu(lambda score, target: score * target[1] + target[0])(scores, target.to(spu))


def write_predictions(
    devices: Devices, config: PredictConfig, own: PredictionInput, predictions: Array | None
) -> dict[str, Any]:
    """At the receiver, write ids and predictions; returns the own party's result."""
    run = devices.run
    result = {"rows": own.table.rows, "columns_used": own.names[run.party], "receiver": own.receiver}
    if predictions is None:
        return result
    ids = own.table.select((config.ids or {}).get(run.party, []))
    table = replace(ids, data=ids.data.append_column("prediction", _as_arrow(predictions)))
    return {**result, "output_path": run.write(table, config.output_path, "output_path")}


def _as_arrow(values: Array) -> Any:
    import pyarrow as pa

    return pa.array(values.ravel().astype(float))
