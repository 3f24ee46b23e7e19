"""A table is read, checked and changed, and refused by the right error."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from secretflow_task.contract.errors import (
    AmbiguousColumn,
    DataError,
    DuplicateColumn,
    MissingColumn,
    MissingFile,
    NonFiniteValues,
    UnsupportedFormat,
    ValueRange,
)
from secretflow_task.data_loader.table import Table, owners
from tests.unit.data_loader.files import cells, read


class TestRead:
    """Which files are tables."""

    @pytest.mark.parametrize(
        "name", ["t", "t.txt", "t.csv.gz", "csv", ".csv", "t.csv ", "t.parquet.bak", "t.xlsx"]
    )
    def test_other_endings_are_refused(self, name: str, tmp_path: Path) -> None:
        with pytest.raises(UnsupportedFormat) as caught:
            read(tmp_path, "a\n1\n", name)
        assert caught.value.message == "alice: the file of train_data must end in .csv or .parquet."

    def test_a_file_that_does_not_exist(self, tmp_path: Path) -> None:
        with pytest.raises(MissingFile) as caught:
            Table.read(tmp_path / "none.csv", "alice", "train_data")
        assert caught.value.message == "alice: the file of train_data does not exist."
        assert str(tmp_path) in (caught.value.detail or "")

    @pytest.mark.parametrize("name", ["folder.csv", "folder.parquet"])
    def test_a_folder_is_no_file(self, name: str, tmp_path: Path) -> None:
        (tmp_path / name).mkdir()
        with pytest.raises(MissingFile):
            Table.read(tmp_path / name, "alice", "train_data")

    def test_a_pipe_is_no_file_and_nothing_waits_for_it(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "pipe.csv")
        with pytest.raises(MissingFile):
            Table.read(tmp_path / "pipe.csv", "alice", "train_data")

    def test_a_name_that_is_too_long_is_no_file(self, tmp_path: Path) -> None:
        with pytest.raises(MissingFile):
            Table.read(tmp_path / ("x" * 300 + ".csv"), "alice", "train_data")

    @pytest.mark.parametrize("header", ["a,b,a", "a,,", "\ufeffa,a", '"a",a'])
    def test_two_columns_of_one_name_are_refused(self, header: str, tmp_path: Path) -> None:
        width = len(header.split(","))
        with pytest.raises(DuplicateColumn):
            read(tmp_path, f"{header}\n{','.join('1' * width)}\n")


class TestNumbers:
    """Columns as numbers."""

    def test_numbers_are_read_in_the_order_of_the_names(self, tmp_path: Path) -> None:
        table = read(tmp_path, "a,b,c\n1,x,2.5\n-3e2,y,.5\n")
        array = table.numbers(["c", "a"])
        assert array.dtype == np.float64
        assert array.tolist() == [[2.5, 1.0], [0.5, -300.0]]
        assert table.numbers([]).shape == (2, 0)

    @pytest.mark.parametrize("text", ["inf", "-inf", "Infinity", "1e400"])
    def test_infinite_values_are_refused_in_any_case(self, text: str, tmp_path: Path) -> None:
        table = read(tmp_path, f"a\n1\n{text}\n")
        for missing in (False, True):
            with pytest.raises(NonFiniteValues, match="'a' of train_data holds infinite values"):
                table.numbers(["a"], missing=missing)

    @pytest.mark.parametrize("text", ["1e151", "-1e308"])
    def test_a_number_whose_square_is_none_is_refused(self, text: str, tmp_path: Path) -> None:
        with pytest.raises(ValueRange, match="'a' of train_data holds values beyond 1e150"):
            read(tmp_path, f"a\n1\n{text}\n").numbers(["a"])

    def test_a_column_that_is_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(MissingColumn) as caught:
            read(tmp_path, "age ,b\n1,2\n").numbers(["b", "age"])
        assert caught.value.message == "alice: the file of train_data has no column 'age'."
        assert caught.value.detail == "columns: ['age ', 'b']"

    def test_numeric_columns_are_those_whose_cells_are_all_numbers_or_empty(
        self, tmp_path: Path
    ) -> None:
        table = read(tmp_path, "id,age,name,none,note,big\n1,2,x,,1,inf\n2,,y,NA,z,1\n")
        assert table.numeric_columns() == ["id", "age", "none", "big"]
        assert table.numeric_columns(iter(["id", "big"])) == ["age", "none"]


class TestRows:
    """Rows and columns of a table that is read."""

    TABLE = Table(pa.table({"a": ["1", "2", "3"], "b": ["x", "y", "z"]}), "alice", "train_data")

    def test_take_gives_rows_in_the_asked_order_and_null_an_empty_one(self) -> None:
        taken = self.TABLE.take(pa.array([2, None, 0, 2]))
        assert cells(taken) == {"a": ["3", None, "1", "3"], "b": ["z", None, "x", "z"]}
        assert (taken.party, taken.purpose) == ("alice", "train_data")

    def test_take_with_numpy(self) -> None:
        assert cells(self.TABLE.take(np.array([1, 1]))) == {"a": ["2", "2"], "b": ["y", "y"]}

    def test_select_gives_columns_in_the_asked_order(self) -> None:
        assert self.TABLE.select(["b", "a"]).columns == ["b", "a"]
        assert self.TABLE.select([]).rows == 3
        with pytest.raises(MissingColumn):
            self.TABLE.select(["b", "c"])

    def test_columns_are_replaced_in_their_place_or_added_at_the_end(self) -> None:
        table = self.TABLE.with_columns({"c": np.array([1.5, np.nan, 2]), "a": np.array([7, 8, 9])})
        assert table.data.to_pydict() == {
            "a": [7, 8, 9],
            "b": ["x", "y", "z"],
            "c": [1.5, None, 2.0],
        }
        assert self.TABLE.columns == ["a", "b"]

    def test_require_names_the_first_that_is_missing(self) -> None:
        self.TABLE.require(["a", "b"])
        with pytest.raises(MissingColumn, match="'q'"):
            self.TABLE.require(iter(["a", "q", "r"]))


class TestWrite:
    """Where a table is written."""

    def test_a_target_is_replaced_whole(self, tmp_path: Path) -> None:
        (tmp_path / "t.csv").write_text("old\n" * 100)
        Table(pa.table({"a": ["1"]}), "alice", "x").write(tmp_path / "t.csv")
        assert (tmp_path / "t.csv").read_text() == "a\n1\n"


class TestOwners:
    """Who holds a column."""

    HELD = {"bob": ["income", "uid"], "alice": ["uid", "age"]}

    def test_columns_are_found_at_their_owners_in_the_order_of_the_request(self) -> None:
        found = owners(["income", "age"], self.HELD)
        assert found == {"alice": ["age"], "bob": ["income"]} and list(found) == ["alice", "bob"]
        assert owners([], self.HELD) == {"alice": [], "bob": []}

    def test_a_column_that_nobody_has(self) -> None:
        with pytest.raises(MissingColumn, match="^No party has a column 'x'.$"):
            owners(["age", "x"], self.HELD)

    def test_a_column_that_two_have(self) -> None:
        with pytest.raises(AmbiguousColumn, match="^Column 'uid' exists at alice and bob.$"):
            owners(["uid"], self.HELD)


@given(st.binary(max_size=200), st.sampled_from(["t.csv", "t.parquet"]))
def test_no_file_raises_anything_but_an_error_of_the_data(
    scratch: Path, content: bytes, name: str
) -> None:
    try:
        table = read(scratch, content, name)
        table.numeric_columns()
        assert all(len(table.text(column)) == table.rows > 0 for column in table.columns)
    except DataError as error:
        assert error.party == "alice"
