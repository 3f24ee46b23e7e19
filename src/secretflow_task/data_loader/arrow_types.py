"""Which of Arrow's types are text and bytes, and columns of one type as another."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa


def is_text(kind: pa.DataType) -> bool:
    """Whether it is one of Arrow's types for text."""
    import pyarrow as pa

    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def is_bytes(kind: pa.DataType) -> bool:
    """Whether it is one of Arrow's types for bytes."""
    import pyarrow as pa

    if pa.types.is_fixed_size_binary(kind):
        return True
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def bytes_as_text(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Bytes as the text that older writers of Parquet store in them; other bytes as they are."""
    import pyarrow as pa

    try:
        return column.cast(pa.string())
    except pa.ArrowInvalid:
        return column


def decoded(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """A dictionary-encoded column as its values."""
    import pyarrow as pa

    chunks = [chunk.dictionary_decode() for chunk in column.chunks]
    return pa.chunked_array(chunks, column.type.value_type)
