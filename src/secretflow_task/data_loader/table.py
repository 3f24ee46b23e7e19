"""A table of one party: read, checked, changed and written, with errors that name no cell.

The cells of a CSV stay text until a task asks for a column's numbers; those of Parquet keep the
types of the file.
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
from secretflow_task.data_loader.cell_values import as_categories, as_numbers, as_text
from secretflow_task.data_loader.csv_file import read_csv, write_csv
from secretflow_task.data_loader.parquet_file import read_parquet

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import pyarrow as pa

_LARGEST = 1e150


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
            MissingFile, UnsupportedFormat, UnreadableFile, DuplicateColumn, EmptyInput: as their
                names say.
        """
        check_format(path, party, purpose)
        if not os.path.isfile(path):
            raise MissingFile(
                f"{party}: the file of {purpose} does not exist.", party=party, detail=str(path)
            )
        table = Table(_read_arrow(path, party, purpose), party, purpose)
        if len(set(table.columns)) < len(table.columns):
            raise DuplicateColumn(
                f"{party}: the file of {purpose} has two columns with the same name.", party=party
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
            BadColumnType: the cells are bytes that are not text.
        """
        return list(self.text_column(name).to_pylist())

    def text_column(self, name: str) -> pa.ChunkedArray:
        """As `text`, in the form of Arrow."""
        import pyarrow as pa

        try:
            return as_text(self.data.column(name))
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
        self.require([name])
        return as_categories(self.text_column(name))

    def numbers(self, names: Sequence[str], missing: bool = False) -> npt.NDArray[np.float64]:
        """Columns as one float64 array of shape (rows, len(names)); True is 1 and False is 0.

        Raises:
            MissingColumn, BadColumnType, NonFiniteValues: as their names say.
            ValueRange: the square of a value is not a float64.
            MissingValues: a cell is empty or NaN and ``missing`` is not allowed.
        """
        import numpy as np

        self.require(names)
        array = np.empty((self.rows, len(names)), dtype=np.float64)
        for index, name in enumerate(names):
            values = self._column_numbers(name)
            if np.isinf(values).any():
                raise NonFiniteValues(self.about(name, "holds infinite values"), party=self.party)
            if (np.abs(values) > _LARGEST).any():
                raise ValueRange(self.about(name, "holds values beyond 1e150"), party=self.party)
            if not missing and np.isnan(values).any():
                raise MissingValues(self.about(name, "has empty or NaN cells"), party=self.party)
            array[:, index] = values
        return array

    def numeric_columns(self, leave_out: Iterable[str] = ()) -> list[str]:
        """Columns in which every cell that is not empty is a number."""
        left_out = set(leave_out)
        return [name for name in self.columns if name not in left_out and self._is_numeric(name)]

    def text_columns(self, leave_out: Iterable[str] = ()) -> list[str]:
        """Columns of text in which a cell that is not empty is not a number."""
        left_out = set(leave_out)
        texts = []
        for name in self.columns:
            if name in left_out or not is_text(self.data.column(name).type):
                continue
            if not self._is_numeric(name):
                texts.append(name)
        return texts

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
            if name in data.column_names:
                data = data.set_column(data.column_names.index(name), name, array)
            else:
                data = data.append_column(name, array)
        return replace(self, data=data)

    def replace_column(self, name: str, columns: Mapping[str, Any]) -> Table:
        """The table with ``columns`` in the place of one column.

        Raises:
            DuplicateColumn: the table has another column of one of their names.
        """
        import pyarrow as pa

        others = set(self.columns) - {name}
        for new in columns:
            if new in others:
                problem = self.about(name, f"becomes {new!r}, which the table has already")
                raise DuplicateColumn(problem, party=self.party)
        position = self.columns.index(name)
        data = self.data.drop_columns([name])
        for offset, (new, values) in enumerate(columns.items()):
            array = pa.array(values, from_pandas=True)
            data = data.add_column(position + offset, new, array)
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
        else:
            self._write_csv(path)
        with path.open("rb") as file:
            os.fsync(file.fileno())

    def about(self, name: str, problem: str) -> str:
        """A sentence for an error about one of the columns."""
        return f"{self.party}: column {name!r} of {self.purpose} {problem}."

    def _write_csv(self, path: Path) -> None:
        if any(is_bytes(kind) for kind in self.data.schema.types):
            raise OutputNotWritable(
                f"{self.party}: a column of {self.purpose} holds bytes, which CSV cannot hold.",
                party=self.party,
                hint="Name the output .parquet instead.",
            )
        try:
            write_csv(self.data, path)
        except csv.Error as error:  # a NUL, which Parquet can hold
            raise OutputNotWritable(
                f"{self.party}: a cell of {self.purpose} cannot be written as CSV.",
                party=self.party,
                hint="Name the output .parquet, or remove the NUL characters.",
                detail=str(error),
            ) from None

    def _is_numeric(self, name: str) -> bool:
        try:
            self._column_numbers(name)
        except BadColumnType:
            return False
        return True

    def _column_numbers(self, name: str) -> npt.NDArray[np.float64]:
        import pyarrow as pa

        try:
            return as_numbers(self.data.column(name))
        except pa.ArrowException as error:
            problem = self.about(name, "holds text")
            raise BadColumnType(problem, party=self.party, detail=str(error)) from None


def _read_arrow(path: Path, party: str, purpose: str) -> pa.Table:
    import pyarrow as pa

    try:
        if path.stat().st_size == 0:
            table = None
        elif path.suffix.lower() == ".parquet":
            table = read_parquet(path)
        else:
            table = read_csv(path)
    except (pa.ArrowException, UnicodeDecodeError, csv.Error, OSError) as error:
        problem = f"{party}: the file of {purpose} cannot be read as a table."
        raise UnreadableFile(problem, party=party, detail=str(error)) from None
    if table is None or not table.column_names:
        raise EmptyInput(f"{party}: the file of {purpose} is empty.", party=party)
    return table


def _check_encoding(table: Table) -> None:
    """Raise `UnreadableFile` for text of Parquet that is not UTF-8, which pyarrow passes on."""
    import pyarrow as pa

    for name in table.columns:
        column = table.data.column(name)
        if not is_text(column.type):
            continue
        try:
            column.validate(full=True)
        except pa.ArrowInvalid as error:
            problem = table.about(name, "holds text that is not UTF-8")
            raise UnreadableFile(problem, party=table.party, detail=str(error)) from None


def owners(names: Sequence[str], held: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """Which party holds each of ``names``: ``{party: [names]}``, parties sorted, names in order.

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
