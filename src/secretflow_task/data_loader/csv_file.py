"""Reading a CSV as text, cell by cell, and writing one.

What a task does not touch is written back as it was: leading zeros, trailing zeros, quotes.
"""

from __future__ import annotations

import csv
import mmap
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TextIO

from secretflow_task.data_loader.arrow_types import is_text

if TYPE_CHECKING:
    import pyarrow as pa

_BATCH_ROWS = 65_536


def read_csv(path: Path) -> pa.Table | None:
    """Read a CSV as columns of text; None if it has no header.

    Raises:
        pyarrow.ArrowException, UnicodeDecodeError, csv.Error, OSError: it is not a table.
    """
    import pyarrow as pa
    import pyarrow.csv as pa_csv

    if _has_nul(path):  # which pyarrow reads and `csv` cannot write
        raise pa.ArrowInvalid("the file has NUL bytes")
    names, has_rows = _read_header(path)
    if not names:
        return None
    if not has_rows:
        return pa.table([pa.array([], pa.string()) for _ in names], names)
    table = pa_csv.read_csv(
        path,
        parse_options=pa_csv.ParseOptions(newlines_in_values=True),
        convert_options=pa_csv.ConvertOptions(
            column_types={name: pa.string() for name in names}, strings_can_be_null=False
        ),
    )
    if table.column_names != names:
        raise pa.ArrowInvalid("the header can be read in two ways")
    last_cell = table.column(len(names) - 1)[-1].as_py()
    if not _ends_with_cell(path, last_cell):
        raise pa.ArrowInvalid("the last cell is not as it was written: a quote is open")
    return table


def write_csv(data: pa.Table, path: Path) -> None:
    """Write a table of any types but bytes, each cell as Python writes it.

    Raises:
        csv.Error: a cell holds a NUL.
    """
    if _write_without_quotes(data, path):
        return
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(UnixLines(file))
        writer.writerow(data.column_names)
        for batch in data.to_batches(max_chunksize=_BATCH_ROWS):
            columns = [column.to_pylist() for column in batch.columns]
            writer.writerows(zip(*columns))


def plain_rows() -> Any:
    """Arrow's options for rows of a CSV without a header, where a cell that needs quotes fails."""
    import pyarrow.csv as pa_csv

    return pa_csv.WriteOptions(include_header=False, quoting_style="none", batch_size=_BATCH_ROWS)


class UnixLines:
    """Ends the rows of a `csv.writer` with a line feed.

    The writer's own ``lineterminator`` would leave a lone ``\\r`` in a cell without quotes.
    """

    def __init__(self, file: TextIO) -> None:
        self._file = file

    def write(self, row: str) -> int:
        """Write one row, which ends with ``\\r\\n``."""
        return self._file.write(row[:-2] + "\n")


def _has_nul(path: Path) -> bool:
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return content.find(b"\0") >= 0


def _read_header(path: Path) -> tuple[list[str], bool]:
    """The column names, and whether rows follow them.

    pyarrow has to be told the names to read every column as text. Both skip empty lines.
    """
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = csv.reader(file, strict=True)
        names = next(filter(None, rows), [])
        has_rows = any(line.strip("\r\n") for line in file)
    return names, has_rows


def _ends_with_cell(path: Path, cell: str) -> bool:
    """Whether the file's last cell is ``cell``, plain or in quotes.

    pyarrow lets the end of the file close a quote, so that one stray quote swallows all rows after
    it.
    """
    plain = cell.encode()
    quoted = b'"' + plain.replace(b'"', b'""') + b'"'
    with path.open("rb") as file:
        file.seek(0, os.SEEK_END)
        while file.tell() and _byte_before(file) in b"\r\n":
            file.seek(-1, os.SEEK_CUR)
        end = file.tell()
        file.seek(max(0, end - len(quoted)))
        tail = file.read(end - file.tell())
    return tail == quoted or tail.endswith((b"," + plain, b"\n" + plain, b"\r" + plain))


def _byte_before(file: BinaryIO) -> bytes:
    file.seek(-1, os.SEEK_CUR)
    return file.read(1)


def _write_without_quotes(data: pa.Table, path: Path) -> bool:
    """Write a table that needs no quotes, ten times as fast; False if it needs them."""
    import pyarrow as pa
    import pyarrow.csv as pa_csv

    columns = [_python_text(column) for column in data.columns]
    if len(columns) < 2 or None in columns:  # one column needs quotes around an empty cell
        return False
    try:
        with path.open("w", newline="", encoding="utf-8") as file:
            csv.writer(UnixLines(file)).writerow(data.column_names)
            file.flush()
            pa_csv.write_csv(pa.table(columns, data.column_names), file.buffer, plain_rows())
    except pa.ArrowInvalid:  # a comma, a quote or the end of a line in a cell
        return False
    return True


def _python_text(column: pa.ChunkedArray) -> pa.ChunkedArray | None:
    """A column that Arrow writes as Python writes its cells, or None where it cannot."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_integer(column.type):
        return column
    if pa.types.is_float64(column.type):
        return _python_floats(column)
    if not is_text(column.type):
        return None
    if pc.any(pc.match_substring(column, "\0")).as_py():
        return None
    return column


def _python_floats(column: pa.ChunkedArray) -> pa.ChunkedArray | None:
    import pyarrow as pa
    import pyarrow.compute as pc

    size = pc.abs(column)
    is_tiny = pc.and_(pc.greater(size, 0.0), pc.less(size, 1e-4))
    is_large = pc.greater_equal(size, 1e10)
    if pc.any(pc.or_(is_tiny, is_large)).as_py():  # Arrow writes their exponents in another way
        return None
    text = column.cast(pa.string())
    is_whole = pc.match_substring_regex(text, r"\A-?\d+\z")
    return pc.if_else(is_whole, pc.binary_join_element_wise(text, ".0", ""), text)
