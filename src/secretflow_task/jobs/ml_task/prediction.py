"""What the predictions share: the model that must fit the request, the receiver's output."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, Sequence

from secretflow_task.contract.tasks.learning import PredictConfig
from secretflow_task.engine.model_store import Manifest, check_same_model, load_manifest
from secretflow_task.jobs.columns import Features, check_fits_shares, check_rows, own_ids

if TYPE_CHECKING:
    from secretflow_task.data_loader.table import Table
    from secretflow_task.engine.devices import Devices
    from secretflow_task.engine.run import Run
    from secretflow_task.jobs.columns import Array

PREDICT_ROWS = 65_536  # rows per step of a prediction
TARGET = "target"  # the label party's file with mean and deviation of a standardised target


@dataclass(frozen=True)
class PredictionInput(Features):
    """Features in the model's order, with the model.

    Attributes:
        further: the own ones of the model's columns that are no features, float64 of shape (rows,
            columns).
    """

    manifest: Manifest | None = None
    folder: Path = Path()
    receiver: str = ""
    further: Array | None = None

    @property
    def model(self) -> Manifest:
        """The manifest of the loaded model."""
        assert self.manifest is not None
        return self.manifest

    def shares(self, devices: Devices, name: str) -> Any:
        """An SPU object from every party's own share file."""
        path = str(self.folder / f"{name}.share")
        return devices["spu"].load([path] * len(devices.run.parties))

    def own_file(self, name: str) -> Any:
        """The content of one of the own party's JSON files."""
        return json.loads((self.folder / f"{name}.json").read_text(encoding="utf-8"))


def prepare_prediction(
    model_type: str,
    on_shares: bool = True,
    features_on_shares: bool = True,
    further: Callable[[Manifest, str], Sequence[str]] = lambda manifest, party: (),
    check: Callable[[PredictionInput, str], None] = lambda own, field: None,
) -> Callable[[Run, PredictConfig], PredictionInput]:
    """Makes the ``prepare`` of a prediction.

    It loads the own part of the model, checks that it fits, and reads the features that it names.

    Args:
        on_shares: the model holds shares, which only the protocol and field of its training can
            read.
        features_on_shares: the features become shares too.
        further: ``(manifest, own party) -> columns`` that the model needs besides the features.
        check: ``(own input, field)`` raises where the numbers do not suit.
    """

    def prepare(run: Run, config: PredictConfig) -> PredictionInput:
        folder = run.source(run.model_path(config.model_path), "model_path")
        manifest = load_manifest(folder, run.party)
        protocol, field = run.protocol.name, run.protocol.numbers
        if not on_shares:
            protocol, field = manifest.protocol, manifest.field
        manifest.check_use(model_type, run.parties, protocol, field, run.party)
        table = run.read(config.predict_data, "predict_data")
        own_names = manifest.features[run.party]
        values = table.numbers(own_names)
        if features_on_shares:
            check_fits_shares(table, own_names, values, run.protocol.field)
        further_values = table.numbers(further(manifest, run.party))
        table.require(own_ids(run.party, config.ids))
        receiver = config.receiver or manifest.label_party or run.parties[0]
        own = PredictionInput(
            table,
            manifest.features,
            values,
            manifest.label_party,
            manifest=manifest,
            folder=folder,
            receiver=receiver,
            further=further_values,
        )
        check(own, run.protocol.field)
        if run.party == receiver:
            run.check_table_output(config.output_path, "output_path")
        facts = run.agree(rows=table.rows, model=manifest.digest())
        check_same_model({party: answer["model"] for party, answer in facts.items()})
        check_rows(facts)
        return own

    return prepare


def unstandardised(devices: Devices, own: PredictionInput, scores: Any) -> Any:
    """Undo, on shares, the standardisation of the target, which only the label party knows."""
    import numpy as np

    spu = devices["spu"]
    target = devices[own.label_party or ""](lambda: np.array(own.own_file(TARGET)))()
    return spu(lambda score, target: score * target[1] + target[0])(scores, target.to(spu))


def write_predictions(
    devices: Devices,
    config: PredictConfig,
    own: PredictionInput,
    predictions: Array | None,
    column: str = "prediction",
) -> dict[str, Any]:
    """At the receiver, write ids and predictions; returns the own party's result.

    Args:
        predictions: one float or integer per row, at the receiver; None at the others.
        column: the name of the output's new column.
    """
    run = devices.run
    result: dict[str, Any] = {
        "rows": own.table.rows,
        "columns_used": own.names[run.party],
        "receiver": own.receiver,
    }
    if predictions is None:
        return result
    ids = own_ids(run.party, config.ids)
    result["output_path"] = write_column(
        run, own.table, ids, values=predictions, name=column, path=config.output_path
    )
    return result


def write_column(
    run: Run, own: Table, ids: Sequence[str], *, values: Array, name: str, path: str
) -> str:
    """Stage the own ids and one more column as ``output_path``; returns the path it will have.

    Args:
        values: one float or integer per row.
    """
    import pyarrow as pa

    kind = "int64"
    if values.dtype.kind == "f":
        kind = "float64"
    column = pa.array(values.ravel().astype(kind))
    table = own.select(ids)
    table = replace(table, data=table.data.append_column(name, column))
    return run.write(table, path, "output_path")
