"""A CSV is read as the text that it holds, and written as a person would write it."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from secretflow_task.contract.errors import EmptyInput, OutputNotWritable, UnreadableFile
from secretflow_task.data_loader.table import Table
from tests.unit.data_loader.files import CELLS, cells, parquet, read


class TestRead:
    """Reading as text, cell by cell."""

    @pytest.mark.parametrize("content", ["", "\n", "\r\n\n", "\ufeff", "\ufeff\n"])
    def test_a_file_without_a_header_is_empty(self, content: str, tmp_path: Path) -> None:
        with pytest.raises(EmptyInput) as caught:
            read(tmp_path, content)
        assert caught.value.message == "alice: the file of train_data is empty."

    @pytest.mark.parametrize("content", ["a,b\n", "a,b", "\ufeffa,b\r\n", "a,b\n\n\n"])
    def test_a_header_alone_has_no_rows(self, content: str, tmp_path: Path) -> None:
        with pytest.raises(EmptyInput) as caught:
            read(tmp_path, content)
        assert caught.value.message == "alice: the file of train_data has no rows."

    @pytest.mark.parametrize(
        "content",
        [
            b"a,b\n1\n",
            b"a,b\n1,2\n3,4,5\n",
            b"a,b\n1,2\n3,\xe9\n",
            b"a,\xe9\n1,2\n",
            "a,b\n1,2\n".encode("utf-16"),
            b'a,b\n1,"2\n',
            b'a,b\n1,"2\n3,4\n5,6\n',
            b'a,b\n1,"2,3',
            b'a,b\n1,"""\n',
            b'a,b\n1,"2""',
            b'a,b\n1,"2""\n\n',
            b'"a,b\n1,2\n',
            b"a;b\n1;2;3\n1,2\n",
            b"a,b\n1,x\0y\n",
        ],
        ids=[
            "short",
            "long",
            "latin-1",
            "latin-1 header",
            "utf-16",
            "open quote",
            "open quote early",
            "open quote at the end",
            "only quotes",
            "open double quote",
            "open double quote and lines",
            "open quote in header",
            "mixed",
            "NUL",
        ],
    )
    def test_a_csv_that_is_no_table_is_unreadable(self, content: bytes, tmp_path: Path) -> None:
        with pytest.raises(UnreadableFile) as caught:
            read(tmp_path, content)
        assert caught.value.message == "alice: the file of train_data cannot be read as a table."
        assert caught.value.detail

    def test_cells_stay_text(self, tmp_path: Path) -> None:
        table = read(tmp_path, "id,x\n007,1.50\n 7 ,+1\n,NA\n9007199254740993,1e5\n")
        assert cells(table) == {
            "id": ["007", " 7 ", "", "9007199254740993"],
            "x": ["1.50", "+1", "NA", "1e5"],
        }
        assert (table.rows, table.columns) == (4, ["id", "x"])

    @pytest.mark.parametrize("start", ["", "\ufeff", "\n", "\r\n", "\n\n"])
    @pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
    def test_byte_order_mark_line_ends_and_blank_lines_are_no_content(
        self, start: str, end: str, tmp_path: Path
    ) -> None:
        table = read(tmp_path, start + end.join(["a,b", "01,x", "02,y"]))
        assert cells(table) == {"a": ["01", "02"], "b": ["x", "y"]}

    def test_quotes_hold_commas_quotes_and_line_ends(self, tmp_path: Path) -> None:
        table = read(tmp_path, 'a,"b,""c"""\n"1\r\n2","x,y"\n"say ""no""",\'\n')
        assert cells(table) == {"a": ["1\r\n2", 'say "no"'], 'b,"c"': ["x,y", "'"]}

    def test_a_column_without_a_name_is_a_column(self, tmp_path: Path) -> None:
        assert cells(read(tmp_path, ",x\n1,2\n")) == {"": ["1"], "x": ["2"]}


class TestWrite:
    """What is written is read back."""

    @given(
        st.integers(1, 4).flatmap(
            lambda width: st.lists(
                st.lists(CELLS, min_size=width, max_size=width), min_size=1, max_size=6
            )
        )
    )
    def test_text_cells_survive_a_round_trip_through_csv(
        self, scratch: Path, rows: list[list[str]]
    ) -> None:
        columns = {f"c{index}": list(column) for index, column in enumerate(zip(*rows))}
        path = scratch / "t.csv"
        Table(pa.table(columns), "alice", "x").write(path)
        assert cells(Table.read(path, "alice", "x")) == columns
        with path.open(newline="", encoding="utf-8") as file:
            assert list(csv.reader(file)) == [list(columns), *rows]

    @given(
        st.lists(
            CELLS.filter(lambda name: not name.startswith("\ufeff")),
            min_size=2,
            max_size=4,
            unique=True,
        )
    )
    def test_names_of_columns_survive_a_round_trip_through_csv(
        self, scratch: Path, names: list[str]
    ) -> None:
        path = scratch / "t.csv"
        Table(pa.table({name: ["1"] for name in names}), "alice", "x").write(path)
        assert Table.read(path, "alice", "x").columns == names

    @pytest.mark.parametrize("others", [{}, {"b": ["z"]}])
    def test_a_nul_in_a_cell_of_parquet_is_no_csv(
        self, others: dict[str, Any], tmp_path: Path
    ) -> None:
        table = parquet(tmp_path, a=["x\0y"], **others)
        table.write(tmp_path / "out.parquet")
        with pytest.raises(OutputNotWritable, match="cannot be written as CSV"):
            table.write(tmp_path / "out.csv")

    def test_a_csv_has_the_lines_that_a_person_would_write(self, tmp_path: Path) -> None:
        data = pa.table(
            {
                "id": ["007", 'a "b"', None],
                "x": [1.5, None, -0.1],
                "n": [2**60, None, 0],
                "y": [True, None, False],
            }
        )
        Table(data, "alice", "x").write(tmp_path / "t.csv")
        assert (tmp_path / "t.csv").read_bytes() == (
            b'id,x,n,y\n007,1.5,1152921504606846976,True\n"a ""b""",,,\n,-0.1,0,False\n'
        )

    @given(st.lists(st.floats(-1e150, 1e150), min_size=1, max_size=10), st.booleans())
    def test_doubles_survive_a_round_trip_through_csv(
        self, scratch: Path, values: list[float], alone: bool
    ) -> None:
        path = scratch / "t.csv"
        others = {} if alone else {"id": ["x"] * len(values)}
        Table(pa.table({"a": values, **others}), "alice", "x").write(path)
        assert Table.read(path, "alice", "x").numbers(["a"]).ravel().tolist() == values

    @pytest.mark.parametrize("last", ["plain", "with, a comma"])
    def test_a_table_of_many_batches_is_written_whole(self, last: str, tmp_path: Path) -> None:
        numbers = list(range(70_000))
        texts = ["plain"] * 69_999 + [last]
        Table(pa.table({"a": numbers, "t": texts}), "alice", "x").write(
            tmp_path / "deep" / "er" / "t.csv"
        )
        with (tmp_path / "deep" / "er" / "t.csv").open(newline="") as file:
            assert list(csv.reader(file)) == [["a", "t"], *map(list, zip(map(str, numbers), texts))]

    @pytest.mark.parametrize(
        "unusual",
        [[], [1e22], [1e10], [13812345678.0], [1e15], [-1234567890123456.0], [1e-5], [-0.00001234]],
        ids=lambda numbers: str(*numbers),
    )
    def test_numbers_look_the_same_whether_another_cell_needs_quotes_or_not(
        self, unusual: list[float], tmp_path: Path
    ) -> None:
        numbers = pa.array([1.0, -0.0, 0.1 + 0.2, -2.5e-4, 9999999999.5, 12345.0, None, *unusual])
        for name, text in {"plain": "x", "quoted": "x,y"}.items():
            rows = len(numbers)
            data = pa.table({"a": numbers, "n": range(rows), "t": [text] * rows})
            Table(data, "alice", "x").write(tmp_path / f"{name}.csv")
        quoted = (tmp_path / "quoted.csv").read_text().replace('"x,y"', "x")
        assert (tmp_path / "plain.csv").read_text() == quoted


def test_reading_agrees_with_the_csv_module(tmp_path: Path) -> None:
    text = 'a,b\n1," x"\n"y\n",\n" ""q"" ",z\n'
    rows = list(csv.reader(io.StringIO(text, newline="")))
    table = read(tmp_path, text)
    assert [table.columns, *map(list, zip(*cells(table).values()))] == rows
