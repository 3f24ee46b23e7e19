"""Reading Parquet with the types of the file."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from secretflow_task.data_loader.arrow_types import bytes_as_text, decoded, is_bytes

if TYPE_CHECKING:
    import pyarrow as pa

_PANDAS_INDEX = re.compile(r"__index_level_\d+__")


def read_parquet(path: Path) -> pa.Table:
    """Read a Parquet file; its categories become their values, and bytes that are text become text.

    Raises:
        pyarrow.ArrowException, OSError: it is not a table.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    # `read_table` would add columns from folder names such as `year=2024`.
    with pq.ParquetFile(path) as file:
        table = file.read()
    for index, name in enumerate(table.column_names):
        column = table.column(index)
        stored_type = column.type
        if pa.types.is_nested(column.type):
            raise pa.ArrowInvalid(f"column {name!r} is nested")
        if pa.types.is_dictionary(column.type):
            column = decoded(column)
        if is_bytes(column.type):
            column = bytes_as_text(column)
        if column.type != stored_type:
            table = table.set_column(index, name, column)
    # What pandas writes for an index without a name and does not show as a column either.
    shown = [i for i, name in enumerate(table.column_names) if not _PANDAS_INDEX.fullmatch(name)]
    return table.select(shown)
