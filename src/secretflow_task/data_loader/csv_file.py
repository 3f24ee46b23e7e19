"""Reading a CSV as text, cell by cell."""

from __future__ import annotations

import csv
import mmap
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TextIO

if TYPE_CHECKING:
    import pyarrow as pa


def plain_rows() -> Any:
    """Arrow's options for rows of a CSV without a header, in which a cell that needs quotes is an error."""
    import pyarrow.csv as pa_csv

    return pa_csv.WriteOptions(include_header=False, quoting_style="none", batch_size=65_536)


class UnixLines:
    """Ends the rows of a `csv.writer` with a line feed; by itself it would leave a lone ``\\r`` unquoted."""

    def __init__(self, file: TextIO) -> None:
        self._file = file

    def write(self, row: str) -> int:
        """Write one row, which ends with ``\\r\\n``."""
        return self._file.write(row[:-2] + "\n")


def read_csv(path: Path) -> pa.Table | None:
    import pyarrow as pa
    import pyarrow.csv as pa_csv

    if _has_nul(path):  # which pyarrow reads and `csv` cannot write
        raise pa.ArrowInvalid("the file has NUL bytes")
    # Names first: pyarrow needs them to be told that every column is text. Both skip empty lines.
    with path.open(newline="", encoding="utf-8-sig") as file:
        names = next((row for row in csv.reader(file, strict=True) if row), [])
        if not any(line.strip("\r\n") for line in file):
            return pa.table([pa.array([], pa.string()) for _ in names], names) if names else None
    table = pa_csv.read_csv(
        path,
        parse_options=pa_csv.ParseOptions(newlines_in_values=True),
        convert_options=pa_csv.ConvertOptions(
            column_types={name: pa.string() for name in names}, strings_can_be_null=False
        ),
    )
    if table.column_names != names:
        raise pa.ArrowInvalid("the header can be read in two ways")
    if not _ends_with_cell(path, table.column(len(names) - 1)[-1].as_py()):
        raise pa.ArrowInvalid("the last cell is not as it was written: a quote is open")
    return table


def _has_nul(path: Path) -> bool:
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return content.find(b"\0") >= 0


def _ends_with_cell(path: Path, cell: str) -> bool:
    """Whether the file's last cell is ``cell``, plain or in quotes.

    pyarrow lets the end of the file close a quote, so that one stray quote swallows all rows after it.
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
