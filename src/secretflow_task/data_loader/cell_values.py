"""What the cells of an Arrow column hold: text, numbers, or nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from secretflow_task.contract.cells import MISSING_TEXT
from secretflow_task.data_loader.arrow_types import is_text

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import pyarrow as pa

_TRUE_TEXT = ("True", "TRUE", "true")
_FALSE_TEXT = ("False", "FALSE", "false")


def as_text(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Each cell as text, null where it is null or NaN.

    Raises:
        pyarrow.ArrowException: the cells are bytes that are not text.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_temporal(column.type):  # as a CSV of the column has it
        texts = [None if cell is None else str(cell) for cell in column.to_pylist()]
        return pa.chunked_array([pa.array(texts, pa.string())])
    if pa.types.is_floating(column.type):
        column = pc.if_else(pc.is_nan(column), pa.scalar(None, type=column.type), column)
        if _all_whole(column):  # the same key as an integer's: 13812345678, not 1.38e+10
            column = column.cast(pa.int64())
    return column.cast(pa.string())


def as_categories(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """A column of text as it is, but null where `as_numbers` takes a cell as missing."""
    import pyarrow.compute as pc

    return _null_where_missing(column, pc.utf8_trim_whitespace(column))


def as_numbers(column: pa.ChunkedArray) -> npt.NDArray[np.float64]:
    """Each cell as float64 of shape (rows,), NaN where it is missing; True is 1 and False is 0.

    Raises:
        pyarrow.ArrowException: a cell is not a number.
    """
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    if is_text(column.type):
        trimmed = pc.utf8_trim_whitespace(column)
        column = _as_booleans(_null_where_missing(trimmed, trimmed))
    numbers = column.cast(pa.float64(), safe=False)
    return np.asarray(numbers.to_numpy(), dtype=np.float64)


def _null_where_missing(column: pa.ChunkedArray, trimmed: pa.ChunkedArray) -> pa.ChunkedArray:
    """A column of text, null where its trimmed text stands for a missing cell."""
    import pyarrow as pa
    import pyarrow.compute as pc

    missing = pc.is_in(trimmed, value_set=pa.array(MISSING_TEXT, type=column.type))
    return pc.if_else(missing, pa.scalar(None, type=column.type), column)


def _as_booleans(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """A column of text as booleans if every cell is one: in Parquet they are numbers too."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if column.null_count == len(column):
        return column
    is_null = pc.is_null(column)
    is_true = pc.is_in(column, value_set=pa.array(_TRUE_TEXT, type=column.type))
    is_false = pc.is_in(column, value_set=pa.array(_FALSE_TEXT, type=column.type))
    is_known = pc.or_(is_null, pc.or_(is_true, is_false))
    if not pc.all(is_known).as_py():
        return column
    return pc.if_else(is_null, pa.scalar(None, type=pa.bool_()), is_true)


def _all_whole(column: pa.ChunkedArray) -> bool:
    """Whether all numbers of a float column are integers that it holds exactly."""
    import pyarrow.compute as pc

    is_integer = pc.equal(pc.floor(column), column)
    is_exact = pc.less(pc.abs(column), 2.0**53)
    return pc.all(pc.and_(is_integer, is_exact)).as_py() is not False
