"""The bytes of what jobs send each other and keep in share files: values of a closed set.

Reading them makes nothing but these values. No name in the bytes is looked up and nothing is
called; lengths are checked against the bytes that are there. SecretFlow's own form is pickle.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any, BinaryIO, Callable, Union

import msgspec

_DEEPEST = 32  # values inside values
_MOST_DIMENSIONS = 8
_ENGINE = ("heu", "jax", "jaxlib", "secretflow", "spu")  # whose values are not imported for others
# Of NumPy's arrays: numbers, little endian.
_DTYPES = frozenset(
    ["|b1", "|i1", "|u1", "<i2", "<u2", "<i4", "<u4", "<i8", "<u8", "<f2", "<f4", "<f8"]
)


class ForeignMessage(ValueError):
    """Bytes that `encode` has not written. The text holds none of them."""


class CannotTravel(TypeError):
    """A value of a kind that no message holds. The text names the kind only."""


class Piece(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """A value of a kind that MessagePack lacks."""


class List(Piece, tag="list"):
    """A list."""

    items: list[Value]


class Tuple(Piece, tag="tuple"):
    """A tuple."""

    items: list[Value]


class Dict(Piece, tag="dict"):
    """A dict with texts or whole numbers as keys, in its order."""

    items: list[tuple[Union[str, int], Value]]


class Bytes(Piece, tag="bytes"):
    """Bytes."""

    data: memoryview


class Array(Piece, tag="array"):
    """Numbers in C order."""

    dtype: str
    shape: list[int]
    data: memoryview


class Scalar(Piece, tag="scalar"):
    """One number of NumPy."""

    dtype: str
    data: bytes


class Slice(Piece, tag="slice"):
    """A slice."""

    start: int | None
    stop: int | None
    step: int | None


class Meta(Piece, tag="meta"):
    """`secretflow.device.device.spu.SPUValueMeta`."""

    shape: list[int]
    dtype: str
    visibility: int
    protocol: int
    field: int
    fraction_bits: int


class Chunks(Piece, tag="chunks"):
    """`secretflow.device.device.spu.SPUIOInfo`."""

    start: int
    end: int
    meta: bytes


class Share(Piece, tag="share"):
    """`spu.libspu.Share`."""

    meta: bytes
    chunks: list[bytes]


class PublicKey(Piece, tag="key"):
    """`heu.phe.PublicKey`."""

    data: bytes


class Ciphertexts(Piece, tag="ciphertexts"):
    """`heu.numpy.CiphertextArray`."""

    data: bytes


class Failed(Piece, tag="failed"):
    """`secretflow.distributed.fed.exception.FedRemoteError`, without its text."""

    party: str


Value = Union[
    None,
    bool,
    int,
    float,
    str,
    List,
    Tuple,
    Dict,
    Bytes,
    Array,
    Scalar,
    Slice,
    Meta,
    Chunks,
    Share,
    PublicKey,
    Ciphertexts,
    Failed,
]
_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Value)


def encode(value: Any) -> bytes:
    """The bytes of a value.

    Raises:
        CannotTravel: the value, or one in it, is of no kind that may travel.
    """
    try:
        return _encoder.encode(_node(value, 0))
    except OverflowError:
        raise CannotTravel("a whole number of more than 64 bits") from None


def decode(data: bytes) -> Any:
    """Read back `encode`; arrays are new and may be written to.

    Raises:
        ForeignMessage: anything else.
    """
    try:
        return _value(_decoder.decode(data), 0)
    except (msgspec.MsgspecError, RecursionError, ValueError, TypeError, RuntimeError):
        raise ForeignMessage("The bytes are not a message of this version.") from None


def dump(value: Any, file: BinaryIO) -> None:
    """Write `encode` to a file."""
    file.write(encode(value))


def load(file: BinaryIO) -> Any:
    """Read back `dump`."""
    return decode(file.read())


def _node(value: Any, depth: int) -> Any:
    import numpy as np

    if depth > _DEEPEST:
        raise CannotTravel(f"values more than {_DEEPEST} deep")
    kind = type(value)
    if value is None or kind in (bool, int, float, str):
        return value
    if kind is list:
        return List([_node(item, depth + 1) for item in value])
    if kind is tuple:
        return Tuple([_node(item, depth + 1) for item in value])
    if kind is dict:
        return Dict([(_key(key), _node(item, depth + 1)) for key, item in value.items()])
    if kind is bytes:
        return Bytes(memoryview(value))
    if kind is np.ndarray:
        return _array_node(value)
    if isinstance(value, np.generic):
        return Scalar(_checked_dtype(value.dtype.str), value.tobytes())
    if kind is slice:
        return Slice(value.start, value.stop, value.step)
    return _engine_node(value)


def _key(key: Any) -> str | int:
    if type(key) not in (str, int):
        raise CannotTravel(f"a dict whose key is a {type(key).__name__}")
    return key  # type: ignore[no-any-return]


def _array_node(array: Any) -> Array:
    import numpy as np

    dtype = _checked_dtype(array.dtype.str)
    if array.ndim > _MOST_DIMENSIONS:
        raise CannotTravel(f"an array of {array.ndim} dimensions")
    data = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    return Array(dtype, list(array.shape), data.data)


def _checked_dtype(name: str) -> str:
    if name not in _DTYPES:
        raise CannotTravel("an array of something else than numbers")
    return name


def _engine_node(value: Any) -> Any:
    kind = type(value)
    if kind.__module__.partition(".")[0] not in _ENGINE:
        raise CannotTravel(f"a {kind.__module__}.{kind.__qualname__}")
    import jax
    import numpy as np

    if isinstance(value, jax.Array):
        return _array_node(np.asarray(value))
    write = _engine_kinds().get(kind)
    if write is None:
        raise CannotTravel(f"a {kind.__module__}.{kind.__qualname__}")
    return write(value)


@cache
def _engine_kinds() -> dict[type, Callable[[Any], Piece]]:
    import numpy as np
    from heu import numpy as heu_numpy
    from heu import phe
    from secretflow.device.device.spu import SPUIOInfo, SPUValueMeta
    from secretflow.distributed.fed.exception import FedRemoteError
    from spu import libspu

    def meta(value: Any) -> Meta:
        return Meta(
            list(value.shape),
            _checked_dtype(np.dtype(value.dtype).str),
            int(value.vtype),
            int(value.protocol),
            int(value.field),
            value.fxp_fraction_bits,
        )

    return {
        SPUValueMeta: meta,
        SPUIOInfo: lambda info: Chunks(info.start_chunk_index, info.end_chunk_index, info.meta),
        libspu.Share: lambda share: Share(share.meta, list(share.share_chunks)),
        phe.PublicKey: lambda key: PublicKey(key.serialize()),
        heu_numpy.CiphertextArray: lambda numbers: Ciphertexts(numbers.serialize()),
        FedRemoteError: lambda error: Failed(str(error.party())),
    }


def _value(node: Any, depth: int) -> Any:
    if depth > _DEEPEST:
        raise ValueError
    if not isinstance(node, Piece):
        return node
    if isinstance(node, List):
        return [_value(item, depth + 1) for item in node.items]
    if isinstance(node, Tuple):
        return tuple(_value(item, depth + 1) for item in node.items)
    if isinstance(node, Dict):
        return {key: _value(item, depth + 1) for key, item in node.items}
    if isinstance(node, Bytes):
        return bytes(node.data)
    if isinstance(node, Array):
        return _array(node)
    if isinstance(node, Scalar):
        return _numbers(node.dtype, node.data, 1)[0]
    if isinstance(node, Slice):
        return slice(node.start, node.stop, node.step)
    return _engine_value(node)


def _array(node: Array) -> Any:
    if len(node.shape) > _MOST_DIMENSIONS or any(length < 0 for length in node.shape):
        raise ValueError
    return _numbers(node.dtype, node.data, math.prod(node.shape)).reshape(node.shape).copy()


def _numbers(dtype: str, data: bytes | memoryview, count: int) -> Any:
    import numpy as np

    if dtype not in _DTYPES or len(data) != count * np.dtype(dtype).itemsize:
        raise ValueError
    numbers = np.frombuffer(data, dtype)
    if dtype == "|b1" and (numbers.view(np.uint8) > 1).any():
        raise ValueError
    return numbers


def _engine_value(node: Piece) -> Any:
    import numpy as np
    from heu import numpy as heu_numpy
    from heu import phe
    from secretflow.device.device.spu import SPUIOInfo, SPUValueMeta
    from secretflow.distributed.fed.exception import FedRemoteError
    from spu import libspu

    if isinstance(node, Meta):
        if node.dtype not in _DTYPES:
            raise ValueError
        return SPUValueMeta(
            tuple(node.shape),
            np.dtype(node.dtype),
            _member(libspu.Visibility, node.visibility),
            _member(libspu.ProtocolKind, node.protocol),
            _member(libspu.FieldType, node.field),
            node.fraction_bits,
        )
    if isinstance(node, Chunks):
        return SPUIOInfo(node.start, node.end, node.meta)
    if isinstance(node, Share):
        share = libspu.Share()
        share.meta = node.meta
        share.share_chunks = node.chunks
        return share
    if isinstance(node, PublicKey):
        return phe.PublicKey.load_from(node.data)
    if isinstance(node, Ciphertexts):
        return heu_numpy.CiphertextArray.load_from(node.data)
    assert isinstance(node, Failed)
    return FedRemoteError(node.party, None)


def _member(enumeration: Any, number: int) -> Any:
    """The constructor of SPU's own enumerations takes any number."""
    member = enumeration(number)
    if member not in enumeration.__members__.values():
        raise ValueError
    return member
