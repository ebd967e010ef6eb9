# SPDX-License-Identifier: Apache-2.0
"""Stored tensors of an ONNX file: shapes, and the values of those that may be shapes of others."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from imp_trt.backends.onnx_wire import (
    BYTES,
    FIXED32,
    FIXED64,
    INT,
    Message,
    Reader,
    Value,
    bytes_of,
    integers,
    number_of,
    packed,
    text_of,
)

MAX_VALUES = 4096
"""Tensors with at most this many elements are read, since they may be shapes of others."""

MAX_RANK = 64
"""Dimensions of a tensor; ONNX Runtime and NumPy support fewer."""

MANY = 1 << 62
"""A number of elements beyond every bound."""

DTYPES: dict[int, np.dtype[np.generic]] = {
    number: np.dtype(name)
    for number, name in {
        1: "<f4", 2: "u1", 3: "i1", 4: "<u2", 5: "<i2", 6: "<i4", 7: "<i8", 9: "?", 10: "<f2", 11: "<f8",
        12: "<u4", 13: "<u8",
    }.items()
}  # fmt: skip
"""TensorProto.DataType -> NumPy's, of the types that NumPy has."""

_DIMS, _TYPE, _NAME, _RAW, _EXTERNAL, _LOCATION = 1, 2, 8, 9, 13, 14
_FLOATS, _INT32, _STRINGS, _INT64, _DOUBLES, _UINT64 = 4, 5, 6, 7, 10, 11
_TENSOR = Message(
    one={_TYPE: INT, 3: BYTES, _NAME: BYTES, _RAW: BYTES, 12: BYTES, _LOCATION: INT},
    many={
        _DIMS: INT,
        _FLOATS: FIXED32,
        _INT32: INT,
        _STRINGS: BYTES,
        _INT64: INT,
        _DOUBLES: FIXED64,
        _UINT64: INT,
        _EXTERNAL: BYTES,
        16: BYTES,
    },
)
_DATA = (_RAW, _FLOATS, _INT32, _STRINGS, _INT64, _DOUBLES, _UINT64)
# Data type -> field with its values; of all others, it is _INT32, which then may hold bit patterns.
_FIELD_OF = {1: _FLOATS, 7: _INT64, 8: _STRINGS, 11: _DOUBLES, 12: _UINT64, 13: _UINT64, 14: _FLOATS}
_FIELD_OF |= {15: _DOUBLES}


@dataclass(slots=True)
class Tensor:
    """Shape of a stored tensor, and its values if it has few, in its own type."""

    shape: tuple[int, ...]
    values: NDArray[np.generic] | None = None
    name: str = ""


def read_tensor(reader: Reader, data: memoryview) -> Tensor:
    """A TensorProto; ValueError if it is malformed, ambiguous, or without the data of its shape."""
    dims: list[int] = []
    kind, name, field, size = 0, "", 0, 0
    parts: list[Value] = []
    for number, value in reader.fields(data, _TENSOR):
        if number == _DIMS:
            dims += islice(integers(value), MAX_RANK + 1)
            check_rank(dims)
        elif number == _TYPE:
            kind = number_of(value)
        elif number == _NAME:
            name = text_of(value)
        elif number == _EXTERNAL or (number == _LOCATION and value != 0):
            raise ValueError("a tensor in another file")
        elif number in _DATA:
            if field not in (0, number):
                raise ValueError("a tensor with data of two types")
            field = number
            size += 1 if isinstance(value, int) or number == _STRINGS else len(value)
            if number != _STRINGS and len(parts) <= MAX_VALUES:
                parts.append(value)
    if field not in (0, _RAW, _FIELD_OF.get(kind, _INT32)):
        raise ValueError("a tensor with data of another type than its own")
    count = elements(tuple(dims))
    if count < 0 or not _is_complete(kind, field, size, count):
        raise ValueError("a tensor whose data is not that of its shape")
    values = _values(kind, tuple(dims), field, parts) if kind in DTYPES and count <= MAX_VALUES else None
    return Tensor(tuple(dims), values, name)


def _is_complete(kind: int, field: int, size: int, count: int) -> bool:
    """Whether the data can be that of the shape: a tensor takes no more memory than its file."""
    if field == _RAW and kind in DTYPES:
        return size == count * DTYPES[kind].itemsize
    # Up to four values of 2 bits are in a byte. Integers take at least one byte each.
    return count <= size * (4 if field in (_RAW, _INT32) else 1)


def _values(kind: int, shape: tuple[int, ...], field: int, parts: list[Value]) -> NDArray[np.generic] | None:
    dtype = DTYPES[kind]
    flat: NDArray[np.generic]
    if field == _RAW:
        flat = np.frombuffer(bytes_of(parts[0]), "u1" if kind == 9 else dtype)
        if kind == 9:
            flat = _exactly(flat, dtype)
    elif field in (_FLOATS, _DOUBLES):
        flat = np.frombuffer(b"".join(packed(part, dtype.itemsize) for part in parts), dtype)
    else:
        numbers = list(islice((v for part in parts for v in integers(part)), MAX_VALUES + 1))
        if field == _INT32:  # protobuf keeps the last 32 bits
            whole = np.array([v & 0xFFFFFFFF for v in numbers], np.uint32).view(np.int32)
            flat = (
                _exactly(whole, np.dtype(np.uint16)).view(np.float16)
                if kind == 10
                else _exactly(whole, dtype)
            )
        else:
            flat = _exactly(np.array([v & (1 << 64) - 1 for v in numbers], np.uint64).view(np.int64), dtype)
    return flat.reshape(shape) if flat.size == math.prod(shape) else None


def _exactly(array: NDArray[np.generic], dtype: np.dtype[np.generic]) -> NDArray[np.generic]:
    """The array in another type of integers; runtimes differ for values that the type does not have."""
    if dtype == np.uint64:
        return array.view(np.uint64)
    converted = array.astype(dtype)
    if not np.array_equal(converted.astype(array.dtype), array):
        raise ValueError("a tensor with values that its type does not have")
    return converted


def check_rank(dims: list[int]) -> None:
    """ValueError for more dimensions than any runtime supports."""
    if len(dims) > MAX_RANK:
        raise ValueError(f"a tensor of more than {MAX_RANK} dimensions")


def elements(shape: tuple[int, ...]) -> int:
    """Number of elements of a tensor, exact up to 2^62; -1 if a dimension is negative."""
    count = 1
    for size in shape:
        if size < 0:
            return -1
        count *= size
        if count > MANY:
            break  # the exact product of some hundred thousand dimensions takes minutes
    return count
