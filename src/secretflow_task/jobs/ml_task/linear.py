"""Logistic and linear regression on secret shares."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from secretflow_task.contract.errors import ValueRange
from secretflow_task.contract.task_dispatcher import TaskDispatcher
from secretflow_task.contract.tasks.learning import PredictConfig
from secretflow_task.contract.tasks.linear import SsLrConfig, SsLrParams
from secretflow_task.engine import adapter
from secretflow_task.jobs.columns import check_fits_shares, matrix, reveal_to
from secretflow_task.jobs.ml_task.prediction import (
    PREDICT_ROWS,
    TARGET,
    PredictionInput,
    prepare_prediction,
    unstandardised,
    write_predictions,
)
from secretflow_task.jobs.ml_task.training import (
    SCALED_LIMIT,
    OwnPart,
    TrainingInput,
    agree_on_training,
    check_binary,
    check_scaled,
    check_target,
    label_matrix,
    read_own_part,
    save_model,
    standardised,
)

if TYPE_CHECKING:
    from secretflow_task.engine.devices import Devices
    from secretflow_task.engine.run import Run

_WEIGHTS = "weights"
# Rows of a step times the largest feature and error; FM64 was measured to hold it.
_FM64_LIMIT = 3e7


def prepare_regression(run: Run, config: SsLrConfig) -> TrainingInput:
    """Check features and label at their owners."""
    own = read_own_part(run, config)
    target = None
    if not config.params.allow_unscaled:
        check_scaled(own)
    check_fits_shares(own.table, own.features, own.values, run.protocol.field)
    if config.params.reg_type == "logistic":
        check_binary(own, config.label)
    else:
        check_target(own, config.label, run.protocol.field)
        label, target = standardised(own, config.label)
        own = replace(own, label=label)
    if run.protocol.field == "FM64":
        check_fm64(own, config.params)
    return agree_on_training(run, config, own, target)


def check_fm64(own: OwnPart, params: SsLrParams) -> None:
    """Raise `ValueRange` where a step could overflow FM64: wrong weights without an error."""
    import numpy as np

    table = own.table
    if params.sig_type == "t5":
        raise ValueRange(
            f"{table.party}: params.sig_type t5 overflows on FM64.",
            party=table.party,
            hint="Use another sig_type, or the field FM128.",
        )
    rows = min(params.batch_size, table.rows)
    error = 1.0 if params.reg_type == "logistic" else SCALED_LIMIT
    largest = np.abs(own.values).max(initial=1.0) * error
    if own.label is not None:
        largest = max(largest, np.abs(own.label).max() * SCALED_LIMIT)
    if rows * largest > _FM64_LIMIT:
        raise ValueRange(
            f"{table.party}: the numbers of {table.purpose} are too large for FM64 "
            "with this batch_size.",
            party=table.party,
            hint="Use the field FM128, a smaller params.batch_size, or scale the features.",
        )


@TaskDispatcher.register_task("ss_lr", prepare=prepare_regression)
def execute_ss_logistic_regression(
    devices: Devices[TrainingInput], task_config: SsLrConfig
) -> dict[str, Any]:
    """Train a logistic or linear regression on secret shares; no party holds the whole model."""
    from secretflow.ml.linear import SSRegression

    run, config, params = devices.run, task_config, task_config.params
    own = devices.inputs
    x = matrix(devices, own.names, own.values)
    y = label_matrix(devices, own, config.label)
    adapter.train_on_every_row()
    model = adapter.without_beaver_cache(SSRegression(devices["spu"]))
    metrics: list[dict[str, float]] = []

    def after_epoch(epoch: int, _state: Any) -> None:
        done = epoch + 1
        if params.report_metrics:
            metrics.append(_metrics(devices, config, model, x))
        progress = 0.05 + 0.9 * done / params.epochs
        run.progress(progress, "training", epoch=done, epochs=params.epochs)

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
    saved = save_model(
        devices,
        "ss_lr",
        config.model_output,
        own,
        params,
        label=config.label,
        shares={_WEIGHTS: model.spu_w},
        files={TARGET: own.target} if own.target else None,
    )
    result: dict[str, Any] = {"model_output": saved}
    if params.report_metrics and run.party == own.label_party:
        result["metrics"] = metrics
    result["rows"] = own.table.rows
    result["columns_used"] = own.names[run.party]
    return result


def _metrics(
    devices: Devices[TrainingInput], config: SsLrConfig, model: Any, x: Any
) -> dict[str, float]:
    """Loss and AUC, or R2, of the current weights on the training rows, at the label party."""
    from secretflow.ml.linear import SSRegression
    from sklearn.metrics import log_loss, mean_squared_error, r2_score, roc_auc_score

    own = devices.inputs
    # A second object: predicting changes the batch size of the one that trains.
    current = SSRegression(devices["spu"])
    current.load_model(model.save_model())
    batch = min(own.table.rows, PREDICT_ROWS)
    scores = reveal_to(devices, own.label_party or "", current.predict(x, batch_size=batch))
    if scores is None or own.label is None:
        return {}
    truth, scores = own.label.ravel(), scores.ravel().astype(float)
    if config.params.reg_type == "linear":
        loss = mean_squared_error(truth, scores)
        return {"loss": float(loss), "r2": float(r2_score(truth, scores))}
    loss = log_loss(truth, scores.clip(1e-7, 1 - 1e-7))
    return {"loss": float(loss), "auc": float(roc_auc_score(truth, scores))}


@TaskDispatcher.register_task("ss_lr_predict", prepare=prepare_prediction("ss_lr"))
def execute_ss_lr_predict(
    devices: Devices[PredictionInput], task_config: PredictConfig
) -> dict[str, Any]:
    """Predict with a model of `ss_lr`; only the receiver sees the predictions."""
    from secretflow.ml.linear import SSRegression
    from secretflow.ml.linear.linear_model import LinearModel, RegType
    from secretflow.utils.sigmoid import SigType

    run, config = devices.run, task_config
    own = devices.inputs
    params = SsLrParams.model_validate(own.model.params)
    weights = own.shares(devices, _WEIGHTS)
    model = SSRegression(devices["spu"])
    model.load_model(LinearModel(weights, RegType(params.reg_type), SigType(params.sig_type)))
    run.progress(0.2, "prediction")
    x = matrix(devices, own.names, own.values)
    scores = model.predict(x, batch_size=min(own.table.rows, PREDICT_ROWS))
    if params.reg_type == "linear":
        scores = unstandardised(devices, own, scores)
    shown = reveal_to(devices, own.receiver, scores)
    if shown is not None and params.reg_type == "logistic":
        shown = shown.clip(0.0, 1.0)  # the other sigmoids leave this range a little
    return write_predictions(devices, config, own, shown)
