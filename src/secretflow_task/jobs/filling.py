"""Filling empty cells: what a column's get and how they get it, at the owner."""

from __future__ import annotations

from typing import Any, Collection

from secretflow_task.contract.errors import BadColumnType
from secretflow_task.contract.tasks.transformation import Fill, FillnaConfig
from secretflow_task.data_loader.arrow_types import is_text
from secretflow_task.data_loader.table import Table
from secretflow_task.jobs.cells import (
    INTEGER,
    Cell,
    cells,
    empty_column,
    exact_numbers,
    present_numbers,
    raw_cells,
)
from secretflow_task.jobs.transformation import Fitted


def fillable_columns(config: FillnaConfig, table: Table, left_out: Collection[str]) -> list[str]:
    """What can be filled as the request says, where it names no columns."""
    if config.strategy == "most_frequent":
        return [name for name in table.columns if name not in left_out]
    if isinstance(config.fill_value, str):
        return table.text_columns(left_out)
    return table.numeric_columns(left_out)


def fit_fill(table: Table, name: str, config: FillnaConfig) -> Fitted:
    """What empty cells get; of the most frequent values the least."""
    import numpy as np

    if config.strategy == "constant":
        value = config.fill_of(name)
        _check_kind(table, name, value)
        return {"fill_value": value}
    if config.strategy == "most_frequent":
        return {"fill_value": _most_frequent(table, name)}
    present = present_numbers(table, name)
    if config.strategy == "mean":
        return {"fill_value": float(np.mean(present))}
    return {"fill_value": float(np.median(present))}


def fill(table: Table, name: str, fitted: Fitted) -> dict[str, Any]:
    """The column with its empty cells filled; the other cells of a text column stay as they are.

    Raises:
        BadColumnType: the column cannot hold the value.
    """
    value: Fill = fitted["fill_value"]
    if isinstance(value, str):
        return {name: _fill_text(table, name, value)}
    return {name: _fill_number(table, name, value)}


def missing_count(table: Table, name: str) -> int:
    """How many cells of a column are empty."""
    import pyarrow as pa
    import pyarrow.compute as pc

    column = table.data.column(name)
    if pa.types.is_floating(column.type):
        return int(pc.sum(pc.is_null(column, nan_is_null=True)).as_py())
    if pa.types.is_integer(column.type):
        return int(column.null_count)
    return int(raw_cells(table, name).missing().sum())


def _check_kind(table: Table, name: str, value: Fill) -> None:
    known = cells(table, name).counts()
    holds_numbers = known and not any(isinstance(cell, str) for cell in known)
    if isinstance(value, str) and holds_numbers:
        raise BadColumnType(
            table.about(name, "holds numbers, and a text cannot fill them"),
            party=table.party,
            hint="Fill it with a number.",
        )


def _most_frequent(table: Table, name: str) -> Cell:
    found = cells(table, name)
    counts = found.counts()
    if not counts:
        raise empty_column(table, name)
    value = max(counts, key=lambda cell: counts[cell])  # the first, which is the least
    if isinstance(value, float) and _holds_integers(table, name):
        return int(value)
    return value


def _holds_integers(table: Table, name: str) -> bool:
    """Whether all cells that are there are written as integers."""
    for cell in raw_cells(table, name).values:
        if cell is None or isinstance(cell, int):
            continue
        if isinstance(cell, float) or not INTEGER.fullmatch(cell):
            return False
    return True


def _fill_text(table: Table, name: str, value: str) -> Any:
    import pyarrow as pa
    import pyarrow.compute as pc

    column = table.data.column(name)
    missing = pa.array(raw_cells(table, name).missing())
    filling = pa.scalar(value)
    try:
        if column.type in (pa.string(), pa.large_string(), pa.null()):
            column = column.cast(pa.string())
        else:
            filling = filling.cast(column.type)
        return pc.if_else(missing, filling, column).combine_chunks()
    except pa.ArrowException as error:
        problem = table.about(name, "has a type that cannot hold the fill value")
        raise BadColumnType(problem, party=table.party, detail=str(error)) from None


def _fill_number(table: Table, name: str, value: int | float) -> Any:
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    column = table.data.column(name)
    numbers = table.numbers([name], missing=True).ravel()
    missing = np.isnan(numbers)
    if is_text(column.type):
        text = column.cast(pa.string())
        return pc.if_else(pa.array(missing), pa.scalar(repr(value)), text).combine_chunks()
    if not missing.any() and not pa.types.is_null(column.type):
        return column.combine_chunks()
    if pa.types.is_integer(column.type) and value == int(value):
        if not pa.types.is_uint64(column.type):
            column = column.cast(pa.int64())
        try:
            filling = pa.scalar(int(value), type=column.type)
            return column.combine_chunks().fill_null(filling)
        except (pa.ArrowException, OverflowError):
            pass  # it takes a float64 to hold both
    return np.where(missing, float(value), exact_numbers(table, name))
