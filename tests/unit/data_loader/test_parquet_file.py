"""Parquet keeps the types of the file."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from secretflow_task.contract.errors import EmptyInput, OutputNotWritable, UnreadableFile
from secretflow_task.data_loader.table import Table
from tests.unit.data_loader.files import CELLS, cells, parquet, read


class TestRead:
    """What is read, and what is refused."""

    def test_an_empty_parquet_file_and_one_without_rows_or_columns(self, tmp_path: Path) -> None:
        with pytest.raises(EmptyInput, match="is empty"):
            read(tmp_path, b"", "t.parquet")
        with pytest.raises(EmptyInput, match="has no rows"):
            parquet(tmp_path, a=pa.array([], pa.int64()))
        with pytest.raises(EmptyInput, match="is empty"):
            parquet(tmp_path)

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

    def test_an_index_that_pandas_saved_is_no_column(self, tmp_path: Path) -> None:
        assert parquet(tmp_path, a=[1], __index_level_0__=[5]).columns == ["a"]

    def test_folder_names_are_no_columns(self, tmp_path: Path) -> None:
        (tmp_path / "year=2024").mkdir()
        assert parquet(tmp_path / "year=2024", a=[1]).columns == ["a"]

    @pytest.mark.parametrize("kind", [pa.list_(pa.int64()), pa.struct([("x", pa.int64())])])
    def test_a_nested_parquet_column_is_refused(self, kind: pa.DataType, tmp_path: Path) -> None:
        with pytest.raises(UnreadableFile) as caught:
            parquet(tmp_path, a=[1], inside=pa.array([None], kind))
        assert "'inside'" in (caught.value.detail or "") and "flat Parquet" in caught.value.hint


class TestWrite:
    """What is written is read back."""

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


def test_bytes_that_are_no_text_stay_in_parquet(tmp_path: Path) -> None:
    pq.write_table(pa.table({"id": [1], "blob": [b"\xff\xfe"]}), tmp_path / "in.parquet")
    table = Table.read(tmp_path / "in.parquet", "alice", "input_data")
    table.write(tmp_path / "out.parquet")
    with pytest.raises(OutputNotWritable, match="holds bytes"):
        table.write(tmp_path / "out.csv")
