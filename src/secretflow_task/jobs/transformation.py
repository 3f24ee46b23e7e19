"""What the transformations share: each fits a column, saves and applies what it fitted.

A transformation is two functions of one column. Both run while the input is prepared, so that
whatever does not fit is refused before any party goes on; the execution only writes.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Callable, Collection, Mapping

from secretflow_task.contract.tasks.transformation import TransformConfig
from secretflow_task.data_loader.table import Table
from secretflow_task.engine.model_store import (
    Manifest,
    check_same_model,
    load_manifest,
    save_manifest,
)
from secretflow_task.jobs.columns import agree_on_features, check_rows, own_features

if TYPE_CHECKING:
    from secretflow_task.engine.devices import Devices
    from secretflow_task.engine.run import Run

Fitted = dict[str, Any]
_PARAMETERS = "parameters.json"
_MOST_SHOWN = 1000  # of a column's fitted values, in a result


@dataclass(frozen=True)
class Transformed:
    """The own table after the transformation, not yet written.

    Attributes:
        before: the table as it was read.
        names: ``{party: [columns]}`` that are transformed, parties sorted.
        fitted: ``{column: what was fitted}`` of the own columns, as JSON.
    """

    before: Table
    table: Table
    names: dict[str, list[str]]
    fitted: dict[str, Fitted]

    def of_each(self, describe: Callable[[str], Any]) -> dict[str, Any]:
        """``{column: describe(column)}`` of the own columns, for the result."""
        return {name: describe(name) for name in self.fitted}


def numeric_columns(_config: TransformConfig, table: Table, left_out: Collection[str]) -> list[str]:
    """What most transformations transform where the request names no columns."""
    return table.numeric_columns(left_out)


def prepare_transformation(
    task_type: str,
    fit: Callable[[Table, str, Any], Fitted],
    apply: Callable[[Table, str, Fitted], Mapping[str, Any]],
    of_kind: Callable[[Any, Table, Collection[str]], list[str]] = numeric_columns,
) -> Callable[[Run, TransformConfig], Transformed]:
    """Makes the ``prepare`` of a transformation.

    Args:
        fit: ``(table, column, config) -> fitted``, which must be JSON and all that ``apply`` needs.
        apply: ``(table, column, fitted) -> {column: values}``, which take the column's place.
        of_kind: ``(config, table, columns to leave out) -> columns``, where the request names none.
    """

    def applied(table: Table, fitted: Mapping[str, Fitted]) -> Table:
        table.require(fitted)
        after = table
        for name in fitted:
            after = after.replace_column(name, apply(table, name, fitted[name]))
        return after

    def prepare(run: Run, config: TransformConfig) -> Transformed:
        table = run.read(config.input_data, "input_data")
        if config.model_path:
            manifest, fitted = _load(run, config.model_path, task_type)
            after = applied(table, fitted)
            names = _agree_on_model(run, manifest, table)
            return Transformed(table, after, names, fitted)
        usual = partial(of_kind, config)
        own = own_features(table, config.wanted(), config.ids, config.label, usual)
        fitted = {name: fit(table, name, config) for name in own}
        after = applied(table, fitted)
        names, _ = agree_on_features(run, own, config.wanted(), rows=table.rows)
        return Transformed(table, after, names, fitted)

    return prepare


def _load(
    run: Run, path: str | Mapping[str, str], task_type: str
) -> tuple[Manifest, dict[str, Fitted]]:
    folder = run.source(run.model_path(path), "model_path")
    manifest = load_manifest(folder, run.party)
    manifest.check_use(task_type, run.parties, manifest.protocol, manifest.field, run.party)
    return manifest, json.loads((folder / _PARAMETERS).read_text(encoding="utf-8"))


def _agree_on_model(run: Run, manifest: Manifest, table: Table) -> dict[str, list[str]]:
    facts = run.agree(model=manifest.digest(), rows=table.rows)
    check_rows(facts)
    check_same_model({party: answer["model"] for party, answer in facts.items()})
    return manifest.features


def write_transformed(
    devices: Devices[Transformed], config: TransformConfig, task_type: str, shown: tuple[str, ...]
) -> dict[str, Any]:
    """Write the own transformed table, and what was fitted where that is asked for.

    Args:
        shown: the fitted values that the result shows to their owner, each as ``{column: value}``.
    """
    run = devices.run
    own = devices.inputs
    path = run.write(own.table, config.output_data[run.party], "output_data")
    result: dict[str, Any] = {"output_data": {run.party: path}}
    if config.model_output:
        result["model_output"] = {run.party: _save(run, config, task_type, own)}
    for key in shown:
        values = {name: fitted[key] for name, fitted in own.fitted.items() if key in fitted}
        if values or not own.fitted:
            result[key] = {name: value for name, value in values.items() if not _is_long(value)}
    result["rows"] = own.table.rows
    result["columns_used"] = own.names[run.party]
    return result


def _is_long(value: Any) -> bool:
    return isinstance(value, list) and len(value) > _MOST_SHOWN


def _save(run: Run, config: TransformConfig, task_type: str, own: Transformed) -> str:
    path = run.model_path(config.model_output or "")
    folder = run.stage_folder(path, "model_output")
    (folder / _PARAMETERS).write_text(json.dumps(own.fitted), encoding="utf-8")
    manifest = Manifest(
        run.model_id,
        task_type,
        run.parties,
        own.names,
        run.protocol.name,
        run.protocol.numbers,
        config.options(),
    )
    save_manifest(folder, manifest, run.party)
    return run.shown(path, "model_output")
