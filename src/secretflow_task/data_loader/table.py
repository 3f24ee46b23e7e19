"""Reading and writing one party's own tables: allowed folders, CSV and Parquet, checks with public errors.

A CSV is read as text, cell by cell, so that what a task does not touch is written back as it was
(leading zeros, trailing zeros, quotes); only the columns that a task computes with become numbers.
"""

from __future__ import annotations

import csv
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Iterable, Mapping, Sequence

from secretflow_task.contract.errors import (
    AmbiguousColumn,
    BadColumnType,
    DuplicateColumn,
    EmptyInput,
    MissingColumn,
    MissingFile,
    MissingValues,
    NonFiniteValues,
    OutputNotWritable,
    UnreadableFile,
    ValueRange,
)
from secretflow_task.contract.paths import check_format
from secretflow_task.data_loader.arrow_types import is_bytes, is_text
from secretflow_task.data_loader.csv_file import UnixLines, plain_rows, read_csv
from secretflow_task.data_loader.parquet_file import read_parquet

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import pyarrow as pa

# What pandas reads as missing too, so that a file means the same here and in a data scientist's notebook.
MISSING_TEXT = (
    "",
    "NA",
    "N/A",
    "NaN",
    "nan",
    "NULL",
    "null",
    "None",
    "<NA>",
    "n/a",
    "#N/A",
    "#NA",
) + (*("#N/A N/A", "-NaN", "-nan", "1.#IND", "1.#QNAN", "-1.#IND", "-1.#QNAN"),)
_LARGEST = 1e150
_TRUE_TEXT, _FALSE_TEXT = ("True", "TRUE", "true"), ("False", "FALSE", "false")


@dataclass(frozen=True)
class Table:
    """One party's table in its own process.

    Attributes:
        data: the cells; text for a CSV, the file's own types for Parquet.
        party: whose table it is.
        purpose: the request key that named it, such as ``train_data``.
    """

    data: pa.Table
    party: str
    purpose: str

    @staticmethod
    def read(path: Path, party: str, purpose: str) -> Table:
        """Read a CSV or Parquet file.

        Raises:
            MissingFile, UnsupportedFormat, UnreadableFile, DuplicateColumn, EmptyInput: as their names say.
        """
        check_format(path, party, purpose)
        if not os.path.isfile(path):
            raise MissingFile(
                f"{party}: the file of {purpose} does not exist.", party=party, detail=str(path)
            )
        table = Table(_read_arrow(path, party, purpose), party, purpose)
        if len(set(table.columns)) < len(table.columns):
            raise DuplicateColumn(
                f"{party}: the file of {purpose} has two columns of one name.", party=party
            )
        if table.rows == 0:
            raise EmptyInput(f"{party}: the file of {purpose} has no rows.", party=party)
        _check_encoding(table)
        return table

    @property
    def rows(self) -> int:
        """Number of rows."""
        return int(self.data.num_rows)

    @property
    def columns(self) -> list[str]:
        """Column names in the order of the file."""
        return list(self.data.column_names)

    def require(self, names: Iterable[str]) -> None:
        """Raise `MissingColumn` unless all ``names`` are there."""
        missing = [name for name in names if name not in self.columns]
        if missing:
            raise MissingColumn(
                f"{self.party}: the file of {self.purpose} has no column {missing[0]!r}.",
                party=self.party,
                detail=f"columns: {self.columns}",
            )

    def text(self, name: str) -> list[str | None]:
        """A column as text, cell by cell; a missing cell is an empty text or None.

        Raises:
            BadColumnType: the cells are bytes that are no text.
        """
        return list(self.text_column(name).to_pylist())

    def text_column(self, name: str) -> pa.ChunkedArray:
        """As `text`, in the form of Arrow."""
        import pyarrow as pa
        import pyarrow.compute as pc

        column = self.data.column(name)
        if pa.types.is_temporal(column.type):  # as `write` does
            texts = [None if cell is None else str(cell) for cell in column.to_pylist()]
            return pa.chunked_array([pa.array(texts, pa.string())])
        if pa.types.is_floating(column.type):
            column = pc.if_else(pc.is_nan(column), pa.scalar(None, type=column.type), column)
        try:
            if pa.types.is_floating(column.type) and _all_whole(column):
                column = column.cast(
                    pa.int64()
                )  # the same key as an integer's: 13812345678, not 1.38e+10
            return column.cast(pa.string())
        except pa.ArrowException as error:
            problem = self.about(name, "cannot be read as text")
            raise BadColumnType(problem, party=self.party, detail=str(error)) from None

    def categories(self, name: str) -> list[str | None]:
        """A column as text, cell by cell; None for every cell that `numbers` takes as missing.

        Raises:
            MissingColumn, BadColumnType: as their names say.
        """
        return list(self.category_column(name).to_pylist())

    def category_column(self, name: str) -> pa.ChunkedArray:
        """As `categories`, in the form of Arrow."""
        import pyarrow.compute as pc

        self.require([name])
        column = self.text_column(name)
        return _without_missing(column, pc.utf8_trim_whitespace(column))

    def numbers(self, names: Sequence[str], missing: bool = False) -> npt.NDArray[np.float64]:
        """Columns as one float64 array of shape (rows, len(names)); True is 1 and False is 0.

        Raises:
            MissingColumn, BadColumnType, NonFiniteValues: as their names say.
            ValueRange: the square of a value is no float64.
            MissingValues: a cell is empty or NaN and ``missing`` is not allowed.
        """
        import numpy as np

        self.require(names)
        array = np.empty((self.rows, len(names)), dtype=np.float64)
        for index, name in enumerate(names):
            array[:, index] = self._column_numbers(name)
            if np.isinf(array[:, index]).any():
                raise NonFiniteValues(self.about(name, "holds infinite values"), party=self.party)
            if (np.abs(array[:, index]) > _LARGEST).any():
                raise ValueRange(self.about(name, "holds values beyond 1e150"), party=self.party)
            if not missing and np.isnan(array[:, index]).any():
                raise MissingValues(self.about(name, "has empty or NaN cells"), party=self.party)
        return array

    def numeric_columns(self, leave_out: Iterable[str] = ()) -> list[str]:
        """Columns in which every cell that is not empty is a number."""
        left_out = set(leave_out)
        return [name for name in self.columns if name not in left_out and self._is_numeric(name)]

    def text_columns(self, leave_out: Iterable[str] = ()) -> list[str]:
        """Columns of text in which a cell that is not empty is no number."""

        left_out = set(leave_out)
        texts = [name for name in self.columns if is_text(self.data.column(name).type)]
        return [name for name in texts if name not in left_out and not self._is_numeric(name)]

    def take(self, indices: Any) -> Table:
        """The rows at ``indices`` (a pyarrow or numpy integer array; null gives an empty row)."""
        return replace(self, data=self.data.take(indices))

    def select(self, names: Sequence[str]) -> Table:
        """Only these columns, in this order."""
        self.require(names)
        return replace(self, data=self.data.select(list(names)))

    def with_columns(self, columns: Mapping[str, Any]) -> Table:
        """The table with columns replaced, or added at its end."""
        import pyarrow as pa

        data = self.data
        for name, values in columns.items():
            array = pa.array(values, from_pandas=True)
            at = data.column_names.index(name) if name in data.column_names else None
            data = (
                data.append_column(name, array) if at is None else data.set_column(at, name, array)
            )
        return replace(self, data=data)

    def replace_column(self, name: str, columns: Mapping[str, Any]) -> Table:
        """The table with ``columns`` in the place of one column.

        Raises:
            DuplicateColumn: the table has another column of one of their names.
        """
        import pyarrow as pa

        others = set(self.columns) - {name}
        taken = [new for new in columns if new in others]
        if taken:
            raise DuplicateColumn(
                self.about(name, f"becomes {taken[0]!r}, which the table has already"),
                party=self.party,
            )
        at, data = self.columns.index(name), self.data.drop_columns([name])
        for offset, (new, values) in enumerate(columns.items()):
            data = data.add_column(at + offset, new, pa.array(values, from_pandas=True))
        return replace(self, data=data)

    def write(self, path: Path) -> None:
        """Write as CSV or Parquet by the ending of ``path``; the file is on disk when this returns.

        Raises:
            OutputNotWritable: a cell holds what no CSV can.
        """
        import pyarrow.parquet as pq

        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix.lower() == ".parquet":
            pq.write_table(self.data, path)
        elif not self._write_plain_csv(path):
            with path.open("w", newline="", encoding="utf-8") as file:
                self._write_csv(csv.writer(UnixLines(file)))
        with path.open("rb") as file:
            os.fsync(file.fileno())

    def _write_plain_csv(self, path: Path) -> bool:
        """Write as `_write_csv` does, ten times as fast, a table that needs no quotes; whether it is one."""
        import pyarrow as pa
        import pyarrow.csv as pa_csv

        columns = [_plain_text(column) for column in self.data.columns]
        if len(columns) < 2 or None in columns:  # one column needs quotes around an empty cell
            return False
        try:
            with path.open("w", newline="", encoding="utf-8") as file:
                csv.writer(UnixLines(file)).writerow(self.columns)
                file.flush()
                pa_csv.write_csv(pa.table(columns, self.columns), file.buffer, plain_rows())
        except pa.ArrowInvalid:  # a comma, a quote or the end of a line in a cell
            return False
        return True

    def _write_csv(self, writer: Any) -> None:
        if any(map(is_bytes, self.data.schema.types)):
            problem = f"{self.party}: a column of {self.purpose} holds bytes, which no CSV can."
            raise OutputNotWritable(
                problem, party=self.party, hint="Name the output .parquet instead."
            )
        writer.writerow(self.columns)
        try:
            for batch in self.data.to_batches(max_chunksize=65536):
                writer.writerows(zip(*(column.to_pylist() for column in batch.columns)))
        except csv.Error as error:  # a NUL, which Parquet can hold
            raise OutputNotWritable(
                f"{self.party}: a cell of {self.purpose} cannot be written as CSV.",
                party=self.party,
                hint="Name the output .parquet, or remove the NUL characters.",
                detail=str(error),
            ) from None

    def about(self, name: str, problem: str) -> str:
        """A sentence for an error about one of the columns."""
        return f"{self.party}: column {name!r} of {self.purpose} {problem}."

    def _is_numeric(self, name: str) -> bool:
        try:
            self._column_numbers(name)
        except BadColumnType:
            return False
        return True

    def _column_numbers(self, name: str) -> npt.NDArray[np.float64]:
        import numpy as np
        import pyarrow as pa
        import pyarrow.compute as pc

        column = self.data.column(name)
        try:
            if is_text(column.type):
                trimmed = pc.utf8_trim_whitespace(column)
                column = _as_booleans(_without_missing(trimmed, trimmed))
            column = column.cast(pa.float64(), safe=False)
        except pa.ArrowException as error:
            raise BadColumnType(
                self.about(name, "holds text"), party=self.party, detail=str(error)
            ) from None
        return np.asarray(column.to_numpy(), dtype=np.float64)


def _without_missing(column: pa.ChunkedArray, trimmed: pa.ChunkedArray) -> pa.ChunkedArray:
    """A column of text with null for every cell that means a missing one, told by its trimmed text."""
    import pyarrow as pa
    import pyarrow.compute as pc

    missing = pc.is_in(trimmed, value_set=pa.array(MISSING_TEXT, type=column.type))
    return pc.if_else(missing, pa.scalar(None, type=column.type), column)


def _as_booleans(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """A column of text as booleans if every cell is one: in Parquet they are numbers too."""
    import pyarrow as pa
    import pyarrow.compute as pc

    is_true, is_false = (
        pc.is_in(column, value_set=pa.array(words, type=column.type))
        for words in (_TRUE_TEXT, _FALSE_TEXT)
    )
    known = pc.or_(pc.is_null(column), pc.or_(is_true, is_false))
    if column.null_count == len(column) or not pc.all(known).as_py():
        return column
    return pc.if_else(pc.is_null(column), pa.scalar(None, type=pa.bool_()), is_true)


def _plain_text(column: pa.ChunkedArray) -> pa.ChunkedArray | None:
    """Cells as Python writes them, or None where Arrow cannot do that."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_integer(column.type):
        return column
    if pa.types.is_float64(column.type):
        size = pc.abs(column)
        tiny = pc.and_(pc.greater(size, 0.0), pc.less(size, 1e-4))
        if pc.any(pc.or_(tiny, pc.greater_equal(size, 1e10))).as_py():  # Arrow's exponents
            return None
        text = column.cast(pa.string())
        whole = pc.match_substring_regex(text, r"\A-?\d+\z")
        return pc.if_else(whole, pc.binary_join_element_wise(text, ".0", ""), text)
    return (
        column
        if is_text(column.type) and not pc.any(pc.match_substring(column, "\0")).as_py()
        else None
    )


def _check_encoding(table: Table) -> None:
    """Raise `UnreadableFile` for text that is not UTF-8, which Parquet can hold and pyarrow passes on."""
    import pyarrow as pa

    for name in filter(lambda name: is_text(table.data.column(name).type), table.columns):
        try:
            table.data.column(name).validate(full=True)
        except pa.ArrowInvalid as error:
            problem = table.about(name, "holds text that is not UTF-8")
            raise UnreadableFile(problem, party=table.party, detail=str(error)) from None


def _read_arrow(path: Path, party: str, purpose: str) -> pa.Table:
    import pyarrow as pa

    read = read_parquet if path.suffix.lower() == ".parquet" else read_csv
    try:
        empty = path.stat().st_size == 0
        table = None if empty else read(path)
    except (pa.ArrowException, UnicodeDecodeError, csv.Error, OSError) as error:
        message = f"{party}: the file of {purpose} cannot be read as a table."
        raise UnreadableFile(message, party=party, detail=str(error)) from None
    if table is None or not table.column_names:
        raise EmptyInput(f"{party}: the file of {purpose} is empty.", party=party)
    return table


def _all_whole(column: pa.ChunkedArray) -> bool:
    """Whether all numbers of a float column are integers that it holds exactly."""
    import pyarrow.compute as pc

    whole = pc.and_(pc.equal(pc.floor(column), column), pc.less(pc.abs(column), 2.0**53))
    return pc.all(whole).as_py() is not False


def owners(names: Sequence[str], held: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """Which party holds each of ``names``, in the order of ``names``: ``{party: [names]}``, parties sorted.

    Raises:
        MissingColumn: no party has the column.
        AmbiguousColumn: more than one party has it.
    """
    found: dict[str, list[str]] = {party: [] for party in sorted(held)}
    for name in names:
        parties = [party for party in found if name in held[party]]
        if not parties:
            raise MissingColumn(f"No party has a column {name!r}.")
        if len(parties) > 1:
            raise AmbiguousColumn(f"Column {name!r} exists at {' and '.join(parties)}.")
        found[parties[0]].append(name)
    return found
