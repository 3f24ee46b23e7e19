"""What `encode` writes comes back, and nothing else is read."""

from __future__ import annotations

import pickle
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from secretflow_task.engine import codec
from secretflow_task.engine.codec import CannotTravel, ForeignMessage, decode, encode

DTYPES = ["bool", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f2", "f4", "f8"]
ARRAYS = st.sampled_from(DTYPES).flatmap(
    lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, min_side=0, max_dims=4))
)
ATOMS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text()
    | st.binary()
)
VALUES = st.recursive(
    ATOMS,
    lambda inner: st.lists(inner)
    | st.lists(inner).map(tuple)
    | st.dictionaries(st.text() | st.integers(-5, 5), inner),
    max_leaves=20,
)


@given(VALUES)
def test_plain_values_come_back_with_their_types(value: Any) -> None:
    assert repr(decode(encode(value))) == repr(value)


@given(ARRAYS)
def test_arrays_come_back_and_may_be_written_to(array: Any) -> None:
    back = decode(encode(array))
    assert back.dtype == array.dtype and back.shape == array.shape
    assert back.tobytes() == array.tobytes()
    assert back.flags.writeable and back.flags.owndata


def test_views_in_another_order_come_back_as_what_they_show() -> None:
    array = np.arange(24.0).reshape(2, 3, 4)
    for view in (array.T, array[:, ::2], array[::-1]):
        assert np.array_equal(decode(encode(view)), view)


@pytest.mark.parametrize("dtype", DTYPES)
def test_single_numbers_come_back(dtype: str) -> None:
    number = np.dtype(dtype).type(1)
    assert type(decode(encode(number))) is type(number)


@pytest.mark.parametrize(
    "value",
    [
        np.array(["text"]),
        np.array([None]),
        np.array(["2020-01-01"], "datetime64[D]"),
        np.array([(1, 2.0)], [("a", "i4"), ("b", "f8")]),
        np.zeros(2, ">f8"),
        np.zeros((1,) * 9),
        {1.5: 0},
        {True: 0},
        2**64,
        {1},
        bytearray(b"x"),
        print,
        ValueError("4711"),
        pytest,
    ],
    ids=repr,
)
def test_nothing_else_travels(value: Any) -> None:
    with pytest.raises(CannotTravel) as refused:
        encode([value])
    assert "4711" not in str(refused.value)


def test_a_value_in_itself_does_not_travel() -> None:
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(CannotTravel, match="deep"):
        encode(endless)


def wire(*fields: Any) -> bytes:
    return msgspec.msgpack.encode(fields)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",
        b"\xc0\xc0",
        pickle.dumps([1]),
        wire("unknown", 1),
        wire("list"),
        wire("list", [1], 2),
        wire("list", 5),
        wire("dict", [[1.5, 0]]),
        wire("array", "<f8", [2], b"1234567"),
        wire("array", "<f8", [1 << 62, 1 << 62], b""),
        wire("array", "<f8", [-1, -1], b"12345678"),
        wire("array", "<f8", [1] * 9, b"12345678"),
        wire("array", "|O", [1], b"12345678"),
        wire("array", "V8", [1], b"12345678"),
        wire("array", "f8,f8", [1], b"12345678"),
        wire("array", "<M8[s]", [1], b"12345678"),
        wire("array", "|b1", [2], b"\x01\x02"),
        wire("scalar", "<f8", b"1234567"),
        wire("scalar", "|O", b"12345678"),
        wire("slice", "a", None, None),
        wire("array", "<f8", [0, 1 << 62], b""),
        b"\x92\xa4list\x91" * 40 + b"\xc0",
        b"\x92\xa4list\x91" * 100_000 + b"\xc0",
        b"\xdd\xff\xff\xff\xff",
        msgspec.msgpack.encode({"a": 1}),
    ],
    ids=lambda data: repr(data[:24]),
)
def test_foreign_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(ForeignMessage) as refused:
        decode(data)
    assert str(refused.value) == "The bytes are not a message of this version."


@given(st.binary(max_size=200))
def test_no_bytes_do_more_than_be_refused(data: bytes) -> None:
    try:
        value = decode(data)
    except ForeignMessage:
        return
    assert repr(decode(encode(value))) == repr(value)


@given(VALUES, st.data())
def test_no_change_of_a_message_does_more_than_be_refused(value: Any, data: Any) -> None:
    message = bytearray(encode(value))
    for _ in range(data.draw(st.integers(1, 4))):
        message[data.draw(st.integers(0, len(message) - 1))] = data.draw(st.integers(0, 255))
    try:
        decode(bytes(message))
    except ForeignMessage:
        pass


def test_every_kind_of_the_wire_has_a_reader() -> None:
    kinds = {kind.__struct_config__.tag for kind in codec.Piece.__subclasses__()}
    assert len(kinds) == len(codec.Piece.__subclasses__())
    assert kinds <= {
        kind.__struct_config__.tag
        for kind in codec.Value.__args__
        if kind is not None and hasattr(kind, "__struct_config__")
    }
