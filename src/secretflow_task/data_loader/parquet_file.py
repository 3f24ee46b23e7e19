"""Reading Parquet with the types of the file."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from secretflow_task.data_loader.arrow_types import as_text, decoded, is_bytes

if TYPE_CHECKING:
    import pyarrow as pa

_PANDAS_INDEX = re.compile(r"__index_level_\d+__")


def read_parquet(path: Path) -> pa.Table:
    import pyarrow as pa
    import pyarrow.parquet as pq

    # `read_table` would add columns from folder names such as `year=2024`.
    with pq.ParquetFile(path) as file:
        table = file.read()
    for index, name in enumerate(table.column_names):
        if pa.types.is_nested(table.schema.field(index).type):
            raise pa.ArrowInvalid(f"column {name!r} is nested")
        if pa.types.is_dictionary(table.schema.field(index).type):
            table = table.set_column(index, name, decoded(table.column(index)))
        if is_bytes(table.schema.field(index).type):
            table = table.set_column(index, name, as_text(table.column(index)))
    # What pandas writes for an index without a name and does not show as a column either.
    return table.select(
        [i for i, name in enumerate(table.column_names) if not _PANDAS_INDEX.fullmatch(name)]
    )
