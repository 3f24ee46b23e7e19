"""Tables are read as they are written, and what cannot be read is refused by the right error."""

from __future__ import annotations

import csv
import io
import os
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from secretflow_task.contract.errors import (
    AmbiguousColumn,
    BadColumnType,
    DataError,
    DuplicateColumn,
    EmptyInput,
    MissingColumn,
    MissingFile,
    MissingValues,
    NonFiniteValues,
    OutputNotWritable,
    PathNotAllowed,
    UnreadableFile,
    UnsupportedFormat,
    ValueRange,
)
from secretflow_task.contract.paths import PathRules, check_format
from secretflow_task.data_loader.table import Table, owners

# Cells that a round trip could change; a CSV cannot hold half a surrogate pair, nor the reader a NUL.
CELLS = st.text(
    st.characters(blacklist_categories=["Cs"], blacklist_characters="\0"), max_size=8
) | st.sampled_from(
    [
        "007",
        "1.50",
        "NA",
        "null",
        '"',
        '""',
        ",",
        "\n",
        "\r",
        "\r\n",
        " 1 ",
        "\ufeff",
        "é",
        "e\u0301",
        "🙂",
        "'",
        "\\",
        ";",
    ]
)


def read(folder: Path, content: bytes | str, name: str = "t.csv") -> Table:
    """Read a file with this content as alice's ``train_data``."""
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return Table.read(path, "alice", "train_data")


def parquet(folder: Path, **columns: Any) -> Table:
    """Read a Parquet file with these columns."""
    path = folder / "t.parquet"
    pq.write_table(pa.table(columns), path)
    return Table.read(path, "alice", "train_data")


def cells(table: Table) -> dict[str, list[str | None]]:
    """All columns as text."""
    return {name: table.text(name) for name in table.columns}


class TestPathRules:
    """Where one party's paths may lead."""

    @pytest.fixture
    def rules(self, tmp_path: Path) -> PathRules:
        """Alice's rules; her folder, bob's, a shared one and a foreign one exist."""
        for name in ("data/alice/sub", "data/bob", "shared/sub", "elsewhere"):
            (tmp_path / name).mkdir(parents=True)
        return PathRules("alice", tmp_path / "data", (tmp_path / "shared",))

    def test_a_relative_path_starts_in_the_partys_own_folder(
        self, rules: PathRules, tmp_path: Path
    ) -> None:
        assert rules.resolve("sub/../x.csv", "input_data") == tmp_path / "data/alice/x.csv"

    def test_without_an_own_folder_a_relative_path_starts_in_the_data_root(
        self, tmp_path: Path
    ) -> None:
        rules = PathRules("carol", tmp_path)
        assert rules.resolve("x.csv", "input_data") == tmp_path / "x.csv"

    def test_an_absolute_path_may_lie_in_any_root(self, rules: PathRules, tmp_path: Path) -> None:
        for path in (
            "data/alice/x.csv",
            "data/alice/new/deep/x.csv",
            "shared/x.csv",
            "shared/sub/x.csv",
        ):
            assert rules.resolve(str(tmp_path / path), "input_data") == tmp_path / path

    @pytest.mark.parametrize(
        "path",
        [
            "../../elsewhere/x.csv",
            "../bob/bob.csv",
            "{tmp}/data/bob/bob.csv",
            "{tmp}/data/x.csv",
            "{tmp}/elsewhere/x.csv",
            "{tmp}/shared/../elsewhere/x.csv",
            "{tmp}/sharedx/x.csv",
            "/etc/passwd",
            "../alicex/x.csv",
            "a\0b.csv",
            "\0",
            "\ud800.csv",
        ],
    )
    def test_a_path_that_leaves_the_roots_is_refused(
        self, rules: PathRules, tmp_path: Path, path: str
    ) -> None:
        with pytest.raises(PathNotAllowed) as caught:
            rules.resolve(path.replace("{tmp}", str(tmp_path)), "train_data")
        assert (
            caught.value.message
            == "The path of train_data lies outside the folders that alice allows."
        )
        assert caught.value.party == "alice" and caught.value.detail is None

    @pytest.mark.parametrize(
        "path",
        [
            "",
            ".",
            "..",
            "sub/..",
            "/",
            "{tmp}",
            "{tmp}/data",
            "{tmp}/shared",
            "{tmp}/shared/sub/..",
        ],
    )
    def test_a_root_or_what_contains_one_is_refused(
        self, rules: PathRules, tmp_path: Path, path: str
    ) -> None:
        with pytest.raises(PathNotAllowed):
            rules.resolve(path.replace("{tmp}", str(tmp_path)), "model_output")

    def test_a_root_inside_another_is_refused_too(self, tmp_path: Path) -> None:
        rules = PathRules("carol", tmp_path / "all" / "data", (tmp_path / "all",))
        with pytest.raises(PathNotAllowed):
            rules.resolve(str(tmp_path / "all" / "data"), "model_output")
        assert (
            rules.resolve(str(tmp_path / "all" / "x.csv"), "input_data")
            == tmp_path / "all" / "x.csv"
        )

    def test_a_link_that_leaves_the_roots_is_refused(
        self, rules: PathRules, tmp_path: Path
    ) -> None:
        (tmp_path / "elsewhere/x.csv").write_text("a\n1\n")
        (tmp_path / "data/alice/file.csv").symlink_to(tmp_path / "elsewhere/x.csv")
        (tmp_path / "data/alice/folder").symlink_to(tmp_path / "elsewhere")
        (tmp_path / "data/alice/chain.csv").symlink_to("file.csv")
        (tmp_path / "data/alice/bobs").symlink_to("../bob")
        for path in ("file.csv", "folder/x.csv", "folder/new.csv", "chain.csv", "bobs/bob.csv"):
            with pytest.raises(PathNotAllowed):
                rules.resolve(path, "input_data")

    def test_a_link_within_the_roots_is_followed(self, rules: PathRules, tmp_path: Path) -> None:
        (tmp_path / "data/alice/x.csv").symlink_to(tmp_path / "shared/x.csv")
        assert rules.resolve("x.csv", "input_data") == tmp_path / "shared/x.csv"

    def test_a_root_may_be_a_link_itself(self, rules: PathRules, tmp_path: Path) -> None:
        (tmp_path / "linked").symlink_to(tmp_path / "data")
        linked = PathRules("alice", tmp_path / "linked")
        assert linked.resolve("x.csv", "input_data") == tmp_path / "data/alice/x.csv"

    def test_a_circle_of_links_is_no_crash(self, rules: PathRules, tmp_path: Path) -> None:
        (tmp_path / "data/alice/a.csv").symlink_to("b.csv")
        (tmp_path / "data/alice/b.csv").symlink_to("a.csv")
        with pytest.raises(MissingFile):
            Table.read(rules.resolve("a.csv", "input_data"), "alice", "input_data")

    @given(st.text(max_size=20))
    def test_whatever_the_text_the_path_is_inside_or_refused(self, text: str) -> None:
        root = Path("/nonexistent/data")
        try:
            path = PathRules("alice", root).resolve(text, "input_data")
        except PathNotAllowed:
            return
        assert root in path.parents


class TestFormats:
    """Which files are tables."""

    @pytest.mark.parametrize("name", ["t.csv", "t.CSV", "t.parquet", "t.PARQUET", "a.b.csv"])
    def test_csv_and_parquet_are_known_by_their_endings(self, name: str) -> None:
        check_format(Path(name), "alice", "input_data")

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

    def test_an_empty_parquet_file_and_one_without_rows_or_columns(self, tmp_path: Path) -> None:
        with pytest.raises(EmptyInput, match="is empty"):
            read(tmp_path, b"", "t.parquet")
        with pytest.raises(EmptyInput, match="has no rows"):
            parquet(tmp_path, a=pa.array([], pa.int64()))
        with pytest.raises(EmptyInput, match="is empty"):
            parquet(tmp_path)

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

    @pytest.mark.parametrize("content", [b"PAR1", b"a,b\n1,2\n", b"PAR1" + b"\0" * 100 + b"PAR1"])
    def test_a_parquet_file_that_is_none_is_unreadable(
        self, content: bytes, tmp_path: Path
    ) -> None:
        with pytest.raises(UnreadableFile):
            read(tmp_path, content, "t.parquet")

    def test_a_parquet_file_that_was_cut_off_is_unreadable(self, tmp_path: Path) -> None:
        parquet(tmp_path, a=list(range(1000)))
        content = (tmp_path / "t.parquet").read_bytes()
        with pytest.raises(UnreadableFile):
            read(tmp_path, content[:-50], "t.parquet")

    @pytest.mark.parametrize("kind", [pa.string(), pa.large_string()])
    @pytest.mark.parametrize("coded", [False, True])
    def test_text_of_parquet_that_is_not_utf_8_is_unreadable(
        self, kind: pa.DataType, coded: bool, tmp_path: Path
    ) -> None:
        names = pa.array(["张".encode(), "张伟".encode("gbk")], pa.binary()).cast(pa.large_binary())
        names = names.cast(pa.binary()) if kind == pa.string() else names
        names = pa.Array.from_buffers(kind, 2, names.buffers())
        with pytest.raises(UnreadableFile) as caught:
            parquet(tmp_path, a=[1, 2], name=names.dictionary_encode() if coded else names)
        assert (
            caught.value.message
            == "alice: column 'name' of train_data holds text that is not UTF-8."
        )

    @pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary(), pa.binary(2)])
    def test_bytes_that_are_text_are_read_as_text_and_others_are_not_written_as_csv(
        self, kind: pa.DataType, tmp_path: Path
    ) -> None:
        table = parquet(tmp_path, text=pa.array([b"k1", "é".encode()], kind))
        assert cells(table) == {"text": ["k1", "é"]}
        table = parquet(tmp_path, text=pa.array([b"k1", b"\xff\xfe"], kind))
        with pytest.raises(OutputNotWritable) as caught:
            table.write(tmp_path / "out.csv")
        assert "holds bytes" in caught.value.message

    @pytest.mark.parametrize("header", ["a,b,a", "a,,", "\ufeffa,a", '"a",a'])
    def test_two_columns_of_one_name_are_refused(self, header: str, tmp_path: Path) -> None:
        width = len(header.split(","))
        with pytest.raises(DuplicateColumn):
            read(tmp_path, f"{header}\n{','.join('1' * width)}\n")

    @pytest.mark.parametrize("kind", [pa.list_(pa.int64()), pa.struct([("x", pa.int64())])])
    def test_a_nested_parquet_column_is_refused(self, kind: pa.DataType, tmp_path: Path) -> None:
        with pytest.raises(UnreadableFile) as caught:
            parquet(tmp_path, a=[1], inside=pa.array([None], kind))
        assert "'inside'" in (caught.value.detail or "") and "flat Parquet" in caught.value.hint


class TestText:
    """Cells as text, exactly as they are."""

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

    def test_an_index_that_pandas_saved_is_no_column(self, tmp_path: Path) -> None:
        assert parquet(tmp_path, a=[1], __index_level_0__=[5]).columns == ["a"]

    def test_folder_names_are_no_columns(self, tmp_path: Path) -> None:
        (tmp_path / "year=2024").mkdir()
        assert parquet(tmp_path / "year=2024", a=[1]).columns == ["a"]


class TestNumbers:
    """Columns as numbers."""

    def test_numbers_are_read_in_the_order_of_the_names(self, tmp_path: Path) -> None:
        table = read(tmp_path, "a,b,c\n1,x,2.5\n-3e2,y,.5\n")
        array = table.numbers(["c", "a"])
        assert array.dtype == np.float64
        assert array.tolist() == [[2.5, 1.0], [0.5, -300.0]]
        assert table.numbers([]).shape == (2, 0)

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

    @given(
        st.lists(st.none() | CELLS, min_size=1, max_size=6),
        st.lists(st.none() | st.floats(), min_size=1, max_size=6),
    )
    def test_parquet_keeps_types_and_missing_cells(
        self, scratch: Path, texts: list[str | None], numbers: list[float | None]
    ) -> None:
        size = min(len(texts), len(numbers))
        data = pa.table(
            {"t": pa.array(texts[:size], pa.string()), "n": pa.array(numbers[:size], pa.float64())}
        )
        path = scratch / "t.parquet"
        Table(data, "alice", "x").write(path)
        written = Table.read(path, "alice", "x").data
        assert written.schema.equals(data.schema)
        assert str(written.to_pydict()) == str(data.to_pydict())

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


def test_reading_agrees_with_the_csv_module(tmp_path: Path) -> None:
    text = 'a,b\n1," x"\n"y\n",\n" ""q"" ",z\n'
    rows = list(csv.reader(io.StringIO(text, newline="")))
    table = read(tmp_path, text)
    assert [table.columns, *map(list, zip(*cells(table).values()))] == rows


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


def test_bytes_that_are_no_text_stay_in_parquet(tmp_path: Path) -> None:
    pq.write_table(pa.table({"id": [1], "blob": [b"\xff\xfe"]}), tmp_path / "in.parquet")
    table = Table.read(tmp_path / "in.parquet", "alice", "input_data")
    table.write(tmp_path / "out.parquet")
    with pytest.raises(OutputNotWritable, match="holds bytes"):
        table.write(tmp_path / "out.csv")
