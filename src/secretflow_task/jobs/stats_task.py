"""Statistics: of own columns in the owner's process, across parties on secret shares."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any, Collection, Iterator

from secretflow_task.contract.errors import ConstantColumn, TooFewRows, UnsupportedProtocol
from secretflow_task.contract.protocols import Protocol
from secretflow_task.contract.task_dispatcher import TaskDispatcher
from secretflow_task.contract.tasks.statistics import (
    CorrelationConfig,
    StatisticsConfig,
    TableStatisticsConfig,
    VifConfig,
)
from secretflow_task.data_loader.arrow_types import is_text
from secretflow_task.data_loader.table import Table
from secretflow_task.jobs.columns import Features, agree_on_features, own_features

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

    from secretflow_task.engine.devices import Devices
    from secretflow_task.engine.run import Run
    from secretflow_task.jobs.columns import Array

_POWERS = (2, 3, 4)  # of a column's moments and sums
_CELLS = 2**22  # of a matrix that is shared at once; bounds the memory
_COLLINEAR = 1e-5  # eigenvalues below cannot be told from 0 in fixed-point numbers
_INVOLVED = 1e-4  # a column's share in a collinear combination


def reported(run: Run, config: StatisticsConfig, content: dict[str, Any]) -> dict[str, Any]:
    """The content with, where it is asked for, the path of the report that it is written to."""
    if config.output_report is None or run.party not in config.input_data:
        return content
    path = run.write_report(content, config.output_report)
    return {**content, "output_report": {run.party: path}}


@dataclass(frozen=True)
class OwnColumns:
    """The own table, and the names of the columns to describe; without an input None and none."""

    table: Table | None = None
    numbers: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()

    def described(self) -> dict[str, Any]:
        """``{"statistics": {column: figures}, "categories": {column: counts}}``."""
        if self.table is None:
            return {"statistics": {}, "categories": {}}
        return {
            "statistics": {name: number_statistics(self.table, name) for name in self.numbers},
            "categories": {name: text_statistics(self.table, name) for name in self.texts},
        }


def _all_columns(table: Table, left_out: Collection[str]) -> list[str]:
    return [name for name in table.columns if name not in left_out]


def prepare_statistics(run: Run, config: TableStatisticsConfig) -> OwnColumns:
    """Read the own table, if there is one; the tables need not be aligned."""
    own = OwnColumns()
    names = []
    if run.party in config.input_data:
        table = run.read(config.input_data, "input_data")
        names = own_features(table, config.columns, config.ids, of_kind=_all_columns)
        numbers = table.select(names).numeric_columns()
        table.numbers(numbers, missing=True)  # refuses infinite values
        texts = [name for name in names if name not in numbers]
        own = OwnColumns(table, tuple(numbers), tuple(texts))
    agree_on_features(run, names, config.columns)
    return own


@TaskDispatcher.register_task("table_statistics", prepare=prepare_statistics)
def execute_table_statistics(
    devices: Devices[OwnColumns], task_config: TableStatisticsConfig
) -> dict[str, Any]:
    """Describe columns at their owners: 26 statistics of number columns, counts of text columns."""
    import secretflow as sf

    run, config = devices.run, task_config
    own = devices.inputs
    described = own.described()
    content: dict[str, Any] = {"statistics": {}, "categories": {}}
    parts = [described]
    if config.share:
        shared = [devices[party](lambda: described)() for party in sorted(config.input_data)]
        parts = sf.reveal(shared)
    for part in parts:
        content["statistics"].update(part["statistics"])
        content["categories"].update(part["categories"])
    if own.table is not None:
        content["rows"] = own.table.rows
    result = reported(run, config, content)
    return {**result, "columns_used": [*own.numbers, *own.texts]}


def number_statistics(table: Table, name: str) -> dict[str, Any]:
    """The 26 figures of ``secretflow.stats.table_statistics``, as pandas computes them in float64.

    pandas' own powers of whole numbers overflow without an error; these do not. None stands for
    what is undefined, such as the variance of one cell, or too large for a float.
    """
    import pandas as pd

    column = pd.Series(table.numbers([name], missing=True).ravel())
    mean = column.mean()
    powers = _powers(column)
    central_powers = _powers(column - mean)
    q1, q2, q3 = column.quantile([0.25, 0.5, 0.75])
    figures = {
        "min": column.min(),
        "max": column.max(),
        "mean": mean,
        "var": column.var(),
        "std": column.std(),
        "sem": column.sem(),
        "skew": column.skew(),
        "kurtosis": column.kurtosis(),
        "q1": q1,
        "q2": q2,
        "q3": q3,
    }
    for power in _POWERS:
        figures[f"moment_{power}"] = powers[power].mean()
    for power in _POWERS:
        figures[f"central_moment_{power}"] = central_powers[power].mean()
    figures["sum"] = column.sum()
    for power in _POWERS:
        figures[f"sum_{power}"] = powers[power].sum()
    described = {"datatype": _datatype(table, name), **_counts(len(column), int(column.count()))}
    for key, value in figures.items():
        described[key] = _finite(value)
    return described


def _powers(column: pd.Series[float]) -> dict[int, pd.Series[float]]:
    """By products, which take a tenth of the time of ``**``."""
    square = column * column
    return {2: square, 3: square * column, 4: square * square}


def _finite(value: float) -> float | None:
    if abs(value) < float("inf"):
        return float(value)
    return None


def text_statistics(table: Table, name: str) -> dict[str, Any]:
    """Type, counts of cells and of different texts, as SecretFlow's ``categorical_statistics``."""
    present = [cell for cell in table.categories(name) if cell is not None]
    counts = _counts(table.rows, len(present))
    return {"datatype": _datatype(table, name), **counts, "nunique": len(set(present))}


def _counts(total: int, present: int) -> dict[str, float]:
    missing = total - present
    return {
        "total_count": total,
        "count": present,
        "count_na": missing,
        "na_ratio": missing / total,
    }


def _datatype(table: Table, name: str) -> str:
    """What pandas would call the type of a column."""
    import pandas as pd

    kind = table.data.schema.field(name).type
    if not is_text(kind):
        return str(pd.Series([], dtype=kind.to_pandas_dtype()).dtype)
    number_type = _datatype_of_numbers(table.category_column(name))
    if number_type is not None:
        return number_type
    cells = pd.Series(table.categories(name), dtype=object)
    numbers = pd.to_numeric(cells, errors="coerce")
    if numbers.count() == cells.count():
        return str(numbers.dtype)
    if table.select([name]).numeric_columns():
        return "bool"
    return "object"


def _datatype_of_numbers(cells: pa.ChunkedArray) -> str | None:
    """`_datatype` of texts that Arrow reads as numbers, without Python objects; else None."""
    import pyarrow as pa
    import pyarrow.compute as pc

    cells = pc.utf8_trim_whitespace(cells)
    if not _can_be_cast(cells, pa.float64()):
        return None
    if cells.null_count:
        return "float64"
    unsigned = pc.utf8_ltrim(cells, "+")  # which Arrow takes before a float only
    for kind in (pa.int64(), pa.uint64()):
        if _can_be_cast(unsigned, kind):
            return str(kind)
    return "float64"


def _can_be_cast(cells: pa.ChunkedArray, kind: pa.DataType) -> bool:
    import pyarrow as pa

    try:
        cells[:100].cast(kind)  # a cast that fails still goes through all cells, slowly
        cells.cast(kind)
    except pa.ArrowInvalid:
        return False
    return True


def prepare_correlation(run: Run, config: CorrelationConfig) -> Features:
    """Read the own columns and bring them to unit length.

    Raises:
        TooFewRows: with as many columns as rows another party's cells could be solved for.
    """
    table = run.read(config.input_data, "input_data")
    own = own_features(table, config.columns, config.ids)
    values = unit_columns(table, own)
    fixed_point_length(run.protocol)
    names, _ = agree_on_features(run, own, config.columns, rows=table.rows)
    inputs = Features(table, names, values)
    if table.rows <= inputs.count:
        raise TooFewRows(
            f"{table.rows} rows are too few for {inputs.count} columns: "
            "cells of others could be inferred."
        )
    return inputs


def unit_columns(table: Table, names: list[str]) -> Array:
    """Columns of mean 0 and length 1, shape (rows, len(names)): their products are correlations.

    Raises:
        MissingValues, NonFiniteValues: `Table.numbers` found some.
        ConstantColumn: a column has no correlation.
    """
    import numpy as np

    values = table.numbers(names)
    for name, column in zip(names, values.T):
        if (column == column[0]).all():
            problem = table.about(name, "has the same value in every row")
            raise ConstantColumn(problem, party=table.party)
    values = values / np.abs(values).max(axis=0)  # so that no square overflows or vanishes
    values -= values.mean(axis=0)
    return np.asarray(values / np.linalg.norm(values, axis=0))


def fixed_point_length(protocol: Protocol) -> float:
    """The length that columns of length 1 get before they are shared, for precision.

    A product of two columns of length L is at most L * L (Cauchy and Schwarz), and so is every part
    of the sum, whatever the number of rows. SPU holds it with twice the fraction bits before it
    truncates, so it cannot overflow while ``L * L * 2**(2 * fraction) < 2**(bits - 4)``.
    """
    bits, fraction = {"FM64": (64, 18), "FM128": (128, 26)}[protocol.field]
    room = bits - 4 - 2 * int(protocol.runtime.get("fxp_fraction_bits") or fraction)
    if room < 0:
        raise UnsupportedProtocol(
            f"{protocol.numbers} leave no room for products.", hint="Leave fxp_fraction_bits out."
        )
    return float(2 ** (min(room, 20) // 2))


def correlations(devices: Devices[Features]) -> Array:
    """The Pearson matrix of all columns, parties sorted, which every party learns.

    Columns of one party meet in its own process, columns of two on the SPU, which takes and gives
    float32: the error of a correlation is about 1e-7.
    """
    import numpy as np
    import secretflow as sf

    own = devices.inputs
    parties = [party for party, names in own.names.items() if names]
    blocks = {}
    within = {party: devices[party](lambda: own.values.T @ own.values)() for party in parties}
    for party, block in sf.reveal(within).items():
        blocks[party, party] = block
    length = fixed_point_length(devices.run.protocol)
    across = _cross_products(devices, parties, length)
    for (first, second), block in sf.reveal(across).items():
        block = np.asarray(block, dtype=np.float64) / length**2
        blocks[first, second] = block
        blocks[second, first] = block.T
    rows = []
    for party in parties:
        rows.append([blocks[party, other] for other in parties])
    matrix = np.block(rows).clip(-1.0, 1.0)
    np.fill_diagonal(matrix, 1.0)
    return matrix


def _cross_products(
    devices: Devices[Features], parties: list[str], length: float
) -> dict[tuple[str, str], Any]:
    """The products of the columns of every two parties, scaled to ``length``, as shares."""
    own = devices.inputs
    spu = devices["spu"]
    sums: dict[tuple[str, str], Any] = {}
    for done, rows in row_chunks(own.table.rows, own.count):
        devices.run.progress(0.05 + 0.9 * done, "correlation")
        parts = {}
        for party in parties:
            part = devices[party](lambda rows: own.values[rows] * length)(rows)
            parts[party] = part.to(spu)
        for pair in combinations(parties, 2):
            product = spu(lambda a, b: a.T @ b)(parts[pair[0]], parts[pair[1]])
            if pair in sums:
                product = spu(lambda a, b: a + b)(sums[pair], product)
            sums[pair] = product
    return sums


def row_chunks(rows: int, columns: int) -> Iterator[tuple[float, slice]]:
    """``(share that is done, rows)`` of each part of a matrix that is shared at once."""
    size = max(1, _CELLS // columns)
    for first in range(0, rows, size):
        yield first / rows, slice(first, min(first + size, rows))


@TaskDispatcher.register_task("pearson_correlation", prepare=prepare_correlation)
def execute_pearson_correlation(
    devices: Devices[Features], task_config: CorrelationConfig
) -> dict[str, Any]:
    """Correlate all columns of all parties; every party learns the whole matrix."""
    run = devices.run
    own = devices.inputs
    names, order = _in_order(own, task_config)
    matrix = correlations(devices)[order][:, order]
    content = {"columns": names, "correlation": matrix.tolist(), "rows": own.table.rows}
    return {**reported(run, task_config, content), "columns_used": own.names[run.party]}


@TaskDispatcher.register_task("vif", prepare=prepare_correlation)
def execute_vif(devices: Devices[Features], task_config: VifConfig) -> dict[str, Any]:
    """Find columns that the others, of all parties, already explain."""
    run = devices.run
    own = devices.inputs
    names, order = _in_order(own, task_config)
    in_matrix_order = inflation_factors(correlations(devices))
    factors = {}
    for name, index in zip(names, order):
        factors[name] = in_matrix_order[index]
    content = {
        "vif": factors,
        "collinear": [name for name, factor in factors.items() if factor is None],
        "rows": own.table.rows,
    }
    return {**reported(run, task_config, content), "columns_used": own.names[run.party]}


def _in_order(own: Features, config: CorrelationConfig) -> tuple[list[str], list[int]]:
    """The columns in the order of the request, and where each is in the matrix."""
    held = []
    for party_names in own.names.values():
        held.extend(party_names)
    names = config.columns or held
    return names, [held.index(name) for name in names]


def inflation_factors(matrix: Array) -> list[float | None]:
    """The diagonal of the inverse of a Pearson matrix: what statsmodels gives with a constant.

    None stands for a column that others determine: its factor is infinite, or so large (about 1e5)
    that the rounding of the matrix hides it.
    """
    import numpy as np

    values, vectors = np.linalg.eigh(matrix)
    null = values < _COLLINEAR
    collinear = (np.abs(vectors[:, null]) > _INVOLVED).any(axis=1)
    factors = (vectors[:, ~null] ** 2 / values[~null]).sum(axis=1)
    return [None if lost else float(factor) for lost, factor in zip(collinear, factors)]
