"""A cell means the same in a CSV and in Parquet."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from secretflow_task.contract.errors import BadColumnType, MissingValues
from secretflow_task.data_loader.table import Table
from tests.unit.data_loader.files import cells, parquet, read


class TestText:
    """Cells as text."""

    def test_all_types_of_parquet_become_text(self, tmp_path: Path) -> None:
        table = parquet(
            tmp_path,
            text=["a", None],
            whole=[9007199254740993, None],
            real=[1.5, float("nan")],
            yes=[True, None],
            exact=pa.array([Decimal("1.10"), None]),
            day=pa.array([19000, None], pa.date32()),
            raw=pa.array([b"x", None]),
            kind=pa.array(["k", None]).dictionary_encode(),
            none=pa.array([None, None]),
        )
        assert cells(table) == {
            "text": ["a", None],
            "whole": ["9007199254740993", None],
            "real": ["1.5", None],
            "yes": ["true", None],
            "exact": ["1.10", None],
            "day": ["2022-01-08", None],
            "raw": ["x", None],
            "kind": ["k", None],
            "none": [None, None],
        }

    def test_whole_numbers_in_a_real_column_read_as_in_a_csv(self, tmp_path: Path) -> None:
        assert parquet(tmp_path, id=[1.0, 20.0, None]).text("id") == ["1", "20", None]

    def test_bytes_that_are_no_text_are_refused(self, tmp_path: Path) -> None:
        with pytest.raises(
            BadColumnType, match="column 'raw' of train_data cannot be read as text"
        ):
            parquet(tmp_path, raw=pa.array([b"\xff"])).text("raw")


class TestNumbers:
    """Cells as numbers."""

    @pytest.mark.parametrize(
        ("text", "value"),
        [
            ("1", 1),
            (" 1 ", 1),
            ("\t-1.5", -1.5),
            ("+2", 2),
            ("1e-3", 0.001),
            ("1E5", 1e5),
            ("007", 7),
            (".5", 0.5),
            ("5.", 5),
        ],
    )
    def test_a_number_may_be_written_in_many_ways(
        self, text: str, value: float, tmp_path: Path
    ) -> None:
        assert read(tmp_path, f"a,b\n{text},x\n").numbers(["a"]).tolist() == [[value]]

    @pytest.mark.parametrize(
        "text", ["x", "1,5", "1 2", "0x10", "1_000", "true", "1e", "--1", "12%", "$1", "٣", "-"]
    )
    def test_text_is_refused_and_its_cell_stays_private(self, text: str, tmp_path: Path) -> None:
        table = read(tmp_path, f'a\n1\n"{text}"\n')
        with pytest.raises(BadColumnType) as caught:
            table.numbers(["a"])
        assert caught.value.message == "alice: column 'a' of train_data holds text."
        assert caught.value.party == "alice"

    @pytest.mark.parametrize(
        ("yes", "no"), [("True", "False"), ("TRUE", "FALSE"), (" true", "false ")]
    )
    def test_booleans_are_numbers_in_text_as_they_are_in_parquet(
        self, yes: str, no: str, tmp_path: Path
    ) -> None:
        table = read(tmp_path, f"a,b\n{yes},1\n{no},2\n{yes},3\n")
        assert table.numbers(["a"]).ravel().tolist() == [1, 0, 1]
        assert read(tmp_path, f"a,b\n{no},1\n").numbers(["a"]).tolist() == [[0]]
        gap = read(tmp_path, f"a,b\n,1\n{yes},2\n{no},2\n")
        assert np.array_equal(
            gap.numbers(["a"], missing=True).ravel(), [np.nan, 1, 0], equal_nan=True
        )
        with pytest.raises(MissingValues):
            gap.numbers(["a"])

    @pytest.mark.parametrize(
        "cells", ["True,1", "1,True", "True,no", "True,tRUE", "yes,no", "True,0.5"]
    )
    def test_booleans_among_other_cells_are_text(self, cells: str, tmp_path: Path) -> None:
        with pytest.raises(BadColumnType):
            read(tmp_path, "a\n" + cells.replace(",", "\n")).numbers(["a"])

    @pytest.mark.parametrize(
        "text", ["", " ", "NA", "NaN", "nan", "NULL", "null", "None", "<NA>", "N/A", " NA "]
    )
    def test_missing_cells_are_refused_unless_they_are_allowed(
        self, text: str, tmp_path: Path
    ) -> None:
        table = read(tmp_path, f"a,b\n1,2\n{text},3\n")
        with pytest.raises(MissingValues) as caught:
            table.numbers(["b", "a"])
        assert caught.value.message == "alice: column 'a' of train_data has empty or NaN cells."
        assert np.array_equal(table.numbers(["a"], missing=True), [[1.0], [np.nan]], equal_nan=True)

    def test_a_category_is_missing_where_a_number_would_be(self, tmp_path: Path) -> None:
        path = tmp_path / "t.csv"
        path.write_text("a,b\n x,1\nNA,2\n ,3\n7,4\n")
        assert Table.read(path, "alice", "x").categories("a") == [" x", None, None, "7"]

    def test_whole_numbers_beyond_doubles_are_rounded_as_numbers_and_kept_as_text(
        self, tmp_path: Path
    ) -> None:
        big = 2**53 + 1
        for table in (read(tmp_path, f"a\n{big}\n"), parquet(tmp_path, a=[big])):
            assert table.numbers(["a"]).tolist() == [[float(big)]]
            assert table.text("a") == [str(big)]

    @given(st.lists(st.floats(-1e150, 1e150), min_size=1, max_size=20))
    def test_doubles_are_read_exactly(self, values: list[float]) -> None:
        table = Table(pa.table({"a": [repr(value) for value in values]}), "alice", "train_data")
        assert table.numbers(["a"]).ravel().tolist() == values

    def test_all_numeric_types_of_parquet_are_numbers(self, tmp_path: Path) -> None:
        table = parquet(
            tmp_path,
            small=pa.array([1, 2], pa.int8()),
            large=pa.array([1, 2**63], pa.uint64()),
            single=pa.array([1, 2], pa.float32()),
            exact=pa.array([Decimal("1.10"), Decimal("-2.25")]),
            yes=[True, False],
            coded=pa.array(["1", " 2 "]).dictionary_encode(),
            text=pa.array(["1", "2"], pa.large_string()),
        )
        assert table.numeric_columns() == table.columns
        assert table.numbers(table.columns).tolist() == [
            [1, 1, 1, 1.1, 1, 1, 1],
            [2, 2**63, 2, -2.25, 0, 2, 2],
        ]

    @pytest.mark.parametrize(
        "column",
        [
            pa.array([0], pa.date32()),
            pa.array([0], pa.timestamp("s")),
            pa.array([b"\xff"]),
            pa.array(["x"]).dictionary_encode(),
        ],
        ids=["date", "time", "bytes", "category"],
    )
    def test_other_types_are_no_numbers(self, column: pa.Array, tmp_path: Path) -> None:
        table = parquet(tmp_path, a=column)
        assert table.numeric_columns() == []
        with pytest.raises(BadColumnType, match="column 'a' of train_data holds text"):
            table.numbers(["a"])

    def test_missing_cells_of_parquet_are_missing(self, tmp_path: Path) -> None:
        table = parquet(
            tmp_path,
            null=[1, None],
            nan=[1.0, float("nan")],
            text=["1", "NA"],
            empty=pa.array([None, None]),
        )
        for name in table.columns:
            with pytest.raises(MissingValues):
                table.numbers([name])
            assert np.isnan(table.numbers([name], missing=True)[-1, 0])


@pytest.mark.parametrize(
    ("cells", "text"),
    [
        (pa.array([13812345678.0, None, 7.0]), ["13812345678", None, "7"]),
        (pa.array([0.5, 7.0, float("nan")]), ["0.5", "7", None]),
        (pa.array([b"0012", None, "张".encode()]), ["0012", None, "张"]),
        (
            pa.array([0, 1_700_000_000], pa.timestamp("s")),
            ["1970-01-01 00:00:00", "2023-11-14 22:13:20"],
        ),
        (pa.array([1_700_000_000 * 10**9], pa.timestamp("ns")), ["2023-11-14 22:13:20"]),
    ],
    ids=["whole floats", "floats", "bytes", "times", "times of pandas"],
)
def test_typed_cells_have_the_text_that_a_csv_of_them_has(
    cells: pa.Array, text: list[str | None], tmp_path: Path
) -> None:
    pq.write_table(pa.table({"key": cells}), tmp_path / "in.parquet")
    table = Table.read(tmp_path / "in.parquet", "alice", "input_data")
    assert table.text("key") == text
    table.write(tmp_path / "out.csv")
    written = Table.read(tmp_path / "out.csv", "alice", "input_data")
    if not pa.types.is_floating(cells.type):
        assert [cell or None for cell in written.text("key")] == text
