"""What the cells of a column mean: which are missing, numbers and text, as pandas reads a CSV.

All text is read alike, whether it comes from a CSV or from Parquet, because a workflow's steps pass
the cells of a CSV on as Parquet.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Iterable, Sequence, Union

from secretflow_task.contract.cells import MISSING_TEXT
from secretflow_task.contract.errors import BadColumnType, EmptyColumn, NonFiniteValues, ValueRange
from secretflow_task.data_loader.table import Table

if TYPE_CHECKING:
    from secretflow_task.jobs.columns import Array

Cell = Union[str, int, float, None]

UNSEEN = -1
_EXACT = 2**53  # up to here every integer is a float64
INTEGER = re.compile(r"\s*[+-]?\d+\s*", re.ASCII)
_NUMBER = re.compile(r"\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*", re.ASCII)
_LEADING_ZERO = re.compile(r"\s*[+-]?0\d", re.ASCII)


@dataclass(frozen=True)
class Cells:
    """A column by its distinct cells.

    Attributes:
        values: each distinct cell; either text or numbers, and None for what is missing.
        rows: which of ``values`` each row holds; integers of shape (rows,).
    """

    values: list[Cell]
    rows: Array

    def counts(self) -> dict[Cell, int]:
        """How many rows hold each value that is not missing, in the order of the values."""
        import numpy as np

        found: dict[Cell, int] = {}
        counts = np.bincount(self.rows, minlength=len(self.values))
        for value, count in zip(self.values, counts):
            if value is not None:
                found[value] = found.get(value, 0) + int(count)
        return dict(sorted(found.items()))

    def missing(self) -> Array:
        """Which rows are missing; bool of shape (rows,)."""
        import numpy as np

        is_missing = [value is None for value in self.values]
        return np.array(is_missing, dtype=bool)[self.rows]

    def positions(self, known: Sequence[Cell]) -> Array:
        """Where in ``known`` each row's cell stands, or `UNSEEN`; integers of shape (rows,).

        Numbers are compared as numbers, and with known text everything as text.
        """
        import numpy as np

        if any(isinstance(value, str) for value in known):
            values = _texts(self.values)
        else:
            values = _numbers(self.values)
        place_of = {value: index for index, value in enumerate(known)}
        places = [place_of.get(value, UNSEEN) for value in values]
        return np.array(places, dtype=np.int64)[self.rows]


def exact_numbers(table: Table, name: str) -> Array:
    """A column as float64 of shape (rows,), NaN where it is missing.

    Raises:
        ValueRange: an integer beyond 2**53 would lose digits.
        MissingColumn, BadColumnType, NonFiniteValues: as `Table.numbers`.
    """
    import numpy as np

    values = table.numbers([name], missing=True).ravel()
    large = np.flatnonzero(np.abs(values) >= _EXACT)
    large_cells = table.data.column(name).take(large).to_pylist()
    for value, cell in zip(values[large], large_cells):
        whole = _whole(cell)
        if whole is not None and whole != int(value):
            raise ValueRange(
                table.about(name, "holds integers beyond 2**53, which would lose digits"),
                party=table.party,
            )
    return values


def present_numbers(table: Table, name: str) -> Array:
    """The cells of a column that are there, float64 of shape (cells,).

    Raises:
        EmptyColumn: there are none; and as `exact_numbers`.
    """
    import numpy as np

    values = exact_numbers(table, name)
    present = values[~np.isnan(values)]
    if not present.size:
        raise empty_column(table, name)
    return present


def raw_cells(table: Table, name: str) -> Cells:
    """The cells as they stand in the file; bool, dates and times are text.

    Raises:
        MissingColumn, BadColumnType, NonFiniteValues: as their names say.
    """
    table.require([name])
    column = table.data.column(name).dictionary_encode(null_encoding="encode").combine_chunks()
    try:
        values = [_cell(value) for value in column.dictionary.to_pylist()]
    except TypeError:
        problem = table.about(name, "cannot be read as text")
        raise BadColumnType(problem, party=table.party) from None
    except OverflowError:
        problem = table.about(name, "holds infinite values")
        raise NonFiniteValues(problem, party=table.party) from None
    return Cells(values, column.indices.to_numpy())


def cells(table: Table, name: str) -> Cells:
    """The cells as ``pandas.read_csv`` reads a column: as integers, as numbers, or all as text.

    Nothing is lost: digits with a leading zero are text, as are integers of more than 64 bits; and
    integers beyond 2**53 stay integers where pandas makes floats of a column because some cells are
    missing.

    Raises:
        as `raw_cells`
    """
    raw = raw_cells(table, name)
    values = raw.values
    if _all_numbers(values):
        values = _numbers(values)
    whole = all(isinstance(value, int) for value in values if value is not None)
    if not whole or (None in values and _fit_a_float(values)):
        values = [float(value) if isinstance(value, int) else value for value in values]
    return Cells(values, raw.rows)


def empty_column(table: Table, name: str) -> EmptyColumn:
    """The error for a column of which every cell is empty."""
    return EmptyColumn(table.about(name, "has only empty cells"), party=table.party)


def _whole(cell: Any) -> int | None:
    """The integer that a cell is, None for another number."""
    if isinstance(cell, int):
        return cell
    if isinstance(cell, str) and INTEGER.fullmatch(cell):
        return int(cell)
    if isinstance(cell, Decimal) and cell == cell.to_integral_value():
        return int(cell)
    return None


def _cell(value: Any) -> Cell:
    if isinstance(value, (bytes, memoryview)):
        raise TypeError("bytes")
    if value is None:
        return None
    if isinstance(value, float):
        if math.isinf(value):
            raise OverflowError("infinity")
        if math.isnan(value):
            return None
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    text = str(value)
    if text.strip() in MISSING_TEXT:
        return None
    return text


def _texts(values: Iterable[Cell]) -> list[Cell]:
    return [value if value is None else str(value) for value in values]


def _all_numbers(values: Iterable[Cell]) -> bool:
    texts = [value for value in values if isinstance(value, str)]
    if any(_LEADING_ZERO.match(text) or not _NUMBER.fullmatch(text) for text in texts):
        return False
    integers = [int(text) for text in texts if INTEGER.fullmatch(text)]
    least, most = min(integers, default=0), max(integers, default=0)
    if least < 0:
        return least >= -(2**63) and most < 2**63
    return most < 2**64


def _numbers(values: Iterable[Cell]) -> list[Cell]:
    return [_number(value) if isinstance(value, str) else value for value in values]


def _number(text: str) -> Cell:
    if INTEGER.fullmatch(text):
        return int(text)
    if _NUMBER.fullmatch(text):
        return float(text)
    return text


def _fit_a_float(values: Iterable[Cell]) -> bool:
    return all(abs(value) <= _EXACT for value in values if isinstance(value, int))
