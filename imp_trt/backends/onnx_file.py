# SPDX-License-Identifier: Apache-2.0
"""Nodes, functions and small constants of an ONNX file, read without the onnx package and without trust.

The fields and their numbers are those of onnx.proto. A file is walked in place: tensors are not copied unless
they have few elements, and nothing is nested deeper than graph, node, attribute, tensor.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
from numpy.typing import NDArray

MAX_VALUES = 4096
"""Tensors with at most this many elements are read, since they may be shapes of others."""

MAX_RANK = 64
"""Dimensions of a tensor; ONNX Runtime and NumPy support fewer."""

_MANY = 1 << 62
"""A number of elements beyond every bound."""

_DTYPES = {1: "<f4", 2: "u1", 3: "i1", 6: "<i4", 7: "<i8", 9: "?", 10: "<f2", 11: "<f8", 12: "<u4", 13: "<u8"}
# Field of the typed data of a tensor: floats, int32 and narrower, int64, doubles, uint32 and uint64.
_FLOATS, _INT32, _INT64, _DOUBLES, _UINT64 = 4, 5, 7, 10, 11

_ORT_FORMAT = b"ORTM"
"""Bytes 4 to 8 of a flatbuffer that ONNX Runtime would read in place of an ONNX file."""

Field = tuple[int, "int | memoryview"]
"""Number, and an integer or the bytes of a string, message or packed list."""


@dataclass
class Tensor:
    """Shape of a stored tensor, and its values if it has few."""

    shape: tuple[int, ...]
    values: NDArray[np.generic] | None = None
    name: str = ""


@dataclass
class Node:
    """A node; attributes have the values that shapes depend on, None for others."""

    op: str = ""
    domain: str = ""
    overload: str = ""
    inputs: list[str] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    attributes: dict[str, int | float | list[int] | list[float] | Tensor | None] = field(default_factory=dict)
    references: dict[str, str] = field(default_factory=dict)
    """Attribute -> attribute of the function around it that has its value."""
    has_subgraph: bool = False
    has_sparse: bool = False


@dataclass
class Function:
    """A local function."""

    name: str = ""
    domain: str = ""
    overload: str = ""
    inputs: list[str] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    nodes: list[Node] = field(default_factory=list)


@dataclass
class OnnxFile:
    """The parts of a model that decide how much memory and time it takes."""

    nodes: list[Node] = field(default_factory=list)
    functions: list[Function] = field(default_factory=list)
    initializers: list[Tensor] = field(default_factory=list)
    inputs: dict[str, tuple[int, ...] | None] = field(default_factory=dict)
    has_sparse: bool = False


def parse(data: bytes) -> OnnxFile:
    """Parse a serialized ModelProto; ValueError if it is malformed."""
    if data[4:8] == _ORT_FORMAT:
        raise ValueError("a file in ONNX Runtime's own format")
    model = OnnxFile()
    for number, value in _fields(memoryview(data)):
        if number == 7:
            _graph(_bytes(value), model)
        elif number == 25:
            model.functions.append(_function(_bytes(value)))
    if not model.nodes:
        raise ValueError("a graph without nodes")
    return model


def _graph(data: memoryview, model: OnnxFile) -> None:
    for number, value in _fields(data):
        if number == 1:
            model.nodes.append(_node(_bytes(value)))
        elif number == 5:
            model.initializers.append(_tensor(_bytes(value)))
        elif number == 11:
            name, shape = _value_info(_bytes(value))
            model.inputs[name] = shape
        elif number == 15:
            model.has_sparse = True


def _function(data: memoryview) -> Function:
    function = Function()
    for number, value in _fields(data):
        if number == 1:
            function.name = _text(value)
        elif number == 4:
            function.inputs.append(_text(value))
        elif number == 5:
            function.outputs.append(_text(value))
        elif number == 7:
            function.nodes.append(_node(_bytes(value)))
        elif number == 10:
            function.domain = _text(value)
        elif number == 13:
            function.overload = _text(value)
    return function


def _node(data: memoryview) -> Node:
    node = Node()
    for number, value in _fields(data):
        if number == 1:
            node.inputs.append(_text(value))
        elif number == 2:
            node.outputs.append(_text(value))
        elif number == 4:
            node.op = _text(value)
        elif number == 5:
            _attribute(_bytes(value), node)
        elif number == 7:
            node.domain = _text(value)
        elif number == 8:
            node.overload = _text(value)
    return node


def _attribute(data: memoryview, node: Node) -> None:
    name, reference = "", ""
    content: int | float | Tensor | None = None
    integers: list[int] = []
    floats: list[float] = []
    for number, value in _fields(data):
        if number == 1:
            name = _text(value)
        elif number == 21:
            reference = _text(value)
        elif number == 2 and isinstance(value, int):
            content = float(np.uint32(value & 0xFFFFFFFF).view(np.float32))
        elif number == 3 and isinstance(value, int):
            content = _signed(value)
        elif number == 5:
            content = _tensor(_bytes(value))
        elif number == 10:
            _tensor(_bytes(value))
        elif number == 7:
            packed = (value & 0xFFFFFFFF).to_bytes(4, "little") if isinstance(value, int) else value
            floats += np.frombuffer(packed, "<f4").tolist()
        elif number == 8:
            integers += [_signed(v) for v in islice(_packed(value), MAX_VALUES + 1)]
        elif number in (6, 11):
            node.has_subgraph = True
        elif number in (22, 23):
            node.has_sparse = True
    node.attributes[name] = integers or floats or content
    if reference:
        node.references[name] = reference


def _tensor(data: memoryview) -> Tensor:
    dims: list[int] = []
    kind, raw, name = 0, None, ""
    typed: dict[int, list[memoryview | int]] = {}
    for number, value in _fields(data):
        if number == 1:
            dims += [_signed(v) for v in islice(_packed(value), MAX_RANK + 1)]
            _check_rank(dims)
        elif number == 2 and isinstance(value, int):
            kind = value
        elif number == 8:
            name = _text(value)
        elif number == 9:
            raw = _bytes(value)
        elif number == 13 or (number == 14 and value != 0):
            raise ValueError("a tensor in another file")
        elif number in (_FLOATS, _INT32, _INT64, _DOUBLES, _UINT64):
            parts = typed.setdefault(number, [])
            if len(parts) <= MAX_VALUES:
                parts.append(value)
    tensor = Tensor(tuple(dims), name=name)
    count = elements(tensor.shape)
    if kind in _DTYPES and 0 <= count <= MAX_VALUES:
        tensor.values = _values(np.dtype(_DTYPES[kind]), tensor.shape, raw, typed)
    return tensor


def _values(
    dtype: np.dtype[np.generic],
    shape: tuple[int, ...],
    raw: memoryview | None,
    typed: dict[int, list[memoryview | int]],
) -> NDArray[np.generic] | None:
    if raw is not None:
        flat = np.frombuffer(raw, dtype) if len(raw) % dtype.itemsize == 0 else np.zeros(0)
    elif _FLOATS in typed or _DOUBLES in typed:
        number, stored = (_FLOATS, "<f4") if _FLOATS in typed else (_DOUBLES, "<f8")
        parts = [v for v in typed[number] if isinstance(v, memoryview)]
        flat = np.concatenate([np.frombuffer(v, stored) for v in parts if len(v) % 4 == 0] or [np.zeros(0)])
    else:
        numbers = (v for values in typed.values() for value in values for v in _packed(value))
        flat = np.array([_signed(v) for v in islice(numbers, MAX_VALUES + 1)], np.int64)
    return flat.reshape(shape) if flat.size == elements(shape) else None


def _check_rank(dims: list[int]) -> None:
    if len(dims) > MAX_RANK:
        raise ValueError(f"a tensor of more than {MAX_RANK} dimensions")


def elements(shape: tuple[int, ...]) -> int:
    """Number of elements of a tensor, exact up to 2^62; -1 if a dimension is negative."""
    count = 1
    for size in shape:
        if size < 0:
            return -1
        count *= size
        if count > _MANY:
            break  # the exact product of some hundred thousand dimensions takes minutes
    return count


def _value_info(data: memoryview) -> tuple[str, tuple[int, ...] | None]:
    name, shape = "", None
    for number, value in _fields(data):
        if number == 1:
            name = _text(value)
        elif number == 2:
            shape = _shape(_bytes(value))
    return name, shape


def _shape(type_proto: memoryview) -> tuple[int, ...] | None:
    for tensor_type in _messages(type_proto, 1):
        for shape in _messages(tensor_type, 2):
            dims: list[int] = []
            for dim in _messages(shape, 1):
                sizes = [v for number, v in _fields(dim) if number == 1 and isinstance(v, int)]
                if not sizes:
                    return None
                dims.append(_signed(sizes[-1]))
                _check_rank(dims)
            return tuple(dims)
    return None


def _messages(data: memoryview, wanted: int) -> Iterator[memoryview]:
    return (_bytes(value) for number, value in _fields(data) if number == wanted)


def _fields(data: memoryview) -> Iterator[Field]:
    """The fields of a message; ValueError if one extends beyond its end."""
    at, end = 0, len(data)
    while at < end:
        key, at = _varint(data, at)
        number, wire = key >> 3, key & 7
        if number == 0:
            raise ValueError("a field with the number 0")
        if wire == 0:
            value, at = _varint(data, at)
            yield number, value
            continue
        if wire == 2:
            size, at = _varint(data, at)
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
        else:
            raise ValueError(f"wire type {wire}")
        if size > end - at:
            raise ValueError("a field that extends beyond its message")
        part = data[at : at + size]
        at += size
        yield number, part if wire == 2 else int.from_bytes(part, "little")


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= len(data) or shift > 63:
            raise ValueError("a number that does not end")
        byte = data[at]
        value |= (byte & 127) << shift
        at += 1
        if byte < 128:
            return value & (1 << 64) - 1, at
        shift += 7


def _packed(value: int | memoryview) -> Iterator[int]:
    if isinstance(value, int):
        yield value
        return
    at = 0
    while at < len(value):
        number, at = _varint(value, at)
        yield number


def _signed(value: int) -> int:
    return value - (1 << 64) if value >= 1 << 63 else value


def _bytes(value: int | memoryview) -> memoryview:
    if isinstance(value, int):
        raise ValueError("a number instead of a message")
    return value


def _text(value: int | memoryview) -> str:
    return str(_bytes(value), "utf-8", "replace")
