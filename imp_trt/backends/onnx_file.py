# SPDX-License-Identifier: Apache-2.0
"""Nodes, functions and small constants of an ONNX file, read without the onnx package and without trust.

The fields and their numbers are those of onnx.proto. A file is walked in place: tensors are not copied unless
they have few elements, and nothing is nested deeper than graph, node, attribute, tensor.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import islice
from typing import TypeVar

import numpy as np

from imp_trt.backends.onnx_tensor import MAX_VALUES, Tensor, check_rank, read_tensor
from imp_trt.backends.onnx_wire import (
    BYTES,
    FIXED32,
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

MAX_STORED = 200_000
"""Nodes, functions, tensors and inputs of a file, each."""

_ORT_FORMAT = b"ORTM"
"""Bytes 4 to 8 of a flatbuffer that ONNX Runtime would read instead of an ONNX file."""

_MODEL = Message(
    one={1: INT, 2: BYTES, 3: BYTES, 4: BYTES, 5: INT, 6: BYTES, 7: BYTES},
    many={8: BYTES, 14: BYTES, 20: BYTES, 25: BYTES, 26: BYTES},
)
_GRAPH = Message(
    one={2: BYTES, 10: BYTES},
    many=dict.fromkeys((1, 5, 11, 12, 13, 14, 15, 16), BYTES),
)
_FUNCTION = Message(
    one=dict.fromkeys((1, 8, 10, 13), BYTES),
    many=dict.fromkeys((4, 5, 6, 7, 9, 11, 12, 14), BYTES),
)
_NODE = Message(one=dict.fromkeys((3, 4, 6, 7, 8), BYTES), many=dict.fromkeys((1, 2, 5, 9, 10), BYTES))
_ATTRIBUTE = Message(
    one={1: BYTES, 2: FIXED32, 3: INT, 4: BYTES, 5: BYTES, 6: BYTES, 13: BYTES, 14: BYTES, 20: INT, 21: BYTES,
         22: BYTES},
    many={7: FIXED32, 8: INT, 9: BYTES, 10: BYTES, 11: BYTES, 15: BYTES, 23: BYTES},
)  # fmt: skip
_VALUE_INFO = Message(one=dict.fromkeys((1, 2, 3), BYTES), many={4: BYTES})
_TYPE = Message(one=dict.fromkeys((1, 4, 5, 6, 7, 8, 9), BYTES), many={})
_TENSOR_TYPE = Message(one={1: INT, 2: BYTES}, many={})
_SHAPE = Message(one={}, many={1: BYTES})
_DIMENSION = Message(one={1: INT, 2: BYTES, 3: BYTES}, many={})

# AttributeProto.AttributeType -> field with the value.
_VALUE_OF = {1: 2, 2: 3, 3: 4, 4: 5, 5: 6, 6: 7, 7: 8, 8: 9, 9: 10, 10: 11, 11: 22, 12: 23, 13: 14, 14: 15}

_Item = TypeVar("_Item")

AttributeValue = int | float | str | list[int] | list[float] | list[str] | Tensor | None


@dataclass(slots=True)
class Node:
    """A node; attributes have the values that shapes depend on, None for others."""

    op: str = ""
    domain: str = ""
    overload: str = ""
    inputs: list[str] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    attributes: dict[str, AttributeValue] = field(default_factory=dict)
    references: dict[str, str] = field(default_factory=dict)
    """Attribute -> attribute of the function around it that has its value."""
    has_subgraph: bool = False
    has_sparse: bool = False


@dataclass(slots=True)
class Function:
    """A local function; defaults are the values of attributes that a call leaves out."""

    name: str = ""
    domain: str = ""
    overload: str = ""
    inputs: list[str] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    nodes: list[Node] = field(default_factory=list)
    defaults: dict[str, AttributeValue] = field(default_factory=dict)


@dataclass
class OnnxFile:
    """The parts of a model that decide how much memory and time it takes."""

    nodes: list[Node] = field(default_factory=list)
    functions: list[Function] = field(default_factory=list)
    initializers: list[Tensor] = field(default_factory=list)
    inputs: dict[str, tuple[int, ...] | None] = field(default_factory=dict)
    has_sparse: bool = False


def parse(data: bytes) -> OnnxFile:
    """Parse a serialized ModelProto; ValueError if it is malformed, or could be read in two ways."""
    if data[4:8] == _ORT_FORMAT:
        raise ValueError("a file in ONNX Runtime's own format")
    model, reader = OnnxFile(), Reader()
    for number, value in reader.fields(memoryview(data), _MODEL):
        if number == 7:
            _graph(reader, bytes_of(value), model)
        elif number == 25:
            _add(model.functions, _function(reader, bytes_of(value)))
    if not model.nodes:
        raise ValueError("a graph without nodes")
    return model


def _add(stored: list[_Item], item: _Item) -> None:
    if len(stored) >= MAX_STORED:
        raise ValueError(f"more than {MAX_STORED:,} nodes, functions or tensors")
    stored.append(item)


def _graph(reader: Reader, data: memoryview, model: OnnxFile) -> None:
    for number, value in reader.fields(data, _GRAPH):
        if number == 1:
            _add(model.nodes, _node(reader, bytes_of(value)))
        elif number == 5:
            _add(model.initializers, read_tensor(reader, bytes_of(value)))
        elif number == 11:
            name, shape = _value_info(reader, bytes_of(value))
            if name in model.inputs or len(model.inputs) >= MAX_STORED:
                raise ValueError("an input twice, or too many")
            model.inputs[name] = shape
        elif number == 15:
            model.has_sparse = True
    if len({tensor.name for tensor in model.initializers}) < len(model.initializers):
        raise ValueError("two initializers of the same name")


def _function(reader: Reader, data: memoryview) -> Function:
    function, defaults = Function(), Node()
    for number, value in reader.fields(data, _FUNCTION):
        if number == 1:
            function.name = text_of(value)
        elif number == 4:
            function.inputs.append(text_of(value))
        elif number == 5:
            function.outputs.append(text_of(value))
        elif number == 7:
            _add(function.nodes, _node(reader, bytes_of(value)))
        elif number == 10:
            function.domain = text_of(value)
        elif number == 11:
            _attribute(reader, bytes_of(value), defaults)
        elif number == 13:
            function.overload = text_of(value)
    if defaults.has_subgraph or defaults.has_sparse or defaults.references:
        raise ValueError("a function with a default that is no value")
    function.defaults = defaults.attributes
    return function


def _node(reader: Reader, data: memoryview) -> Node:
    node = Node()
    for number, value in reader.fields(data, _NODE):
        if number == 1:
            node.inputs.append(text_of(value))
        elif number == 2:
            node.outputs.append(text_of(value))
        elif number == 4:
            node.op = text_of(value)
        elif number == 5:
            _attribute(reader, bytes_of(value), node)
        elif number == 7:
            node.domain = text_of(value)
        elif number == 8:
            node.overload = text_of(value)
    return node


def _attribute(reader: Reader, data: memoryview, node: Node) -> None:
    """Add an attribute to its node; ValueError if its type is not that of its value."""
    name, reference, kind, given = "", "", 0, 0
    values: list[Value] = []
    for number, value in reader.fields(data, _ATTRIBUTE):
        if number == 1:
            name = text_of(value)
        elif number == 20:
            kind = number_of(value)
        elif number == 21:
            reference = text_of(value)
        elif number != 13:
            if given not in (0, number):
                raise ValueError("an attribute with values of two types")
            given = number
            if len(values) <= MAX_VALUES:
                values.append(value)
    expected = _VALUE_OF.get(kind)
    if expected is None or given not in (0, expected) or (reference and given):
        raise ValueError("an attribute with a value of another type than its own")
    if name in node.attributes or name in node.references:
        raise ValueError("an attribute twice")
    node.has_subgraph |= expected in (6, 11)
    node.has_sparse |= expected in (22, 23)
    if reference:
        node.references[name] = reference
    else:
        node.attributes[name] = _content(reader, expected, values)


def _content(reader: Reader, number: int, values: list[Value]) -> AttributeValue:
    """The value of an attribute; if it is missing, what protobuf has in its place."""
    if number == 2:
        return float(np.frombuffer(packed(values[0], 4), "<f4")[0]) if values else 0.0
    if number == 3:
        return number_of(values[0]) if values else 0
    if number == 4:
        return str(bytes_of(values[0]), "utf-8", "replace") if values else ""
    if number == 5:
        return read_tensor(reader, bytes_of(values[0])) if values else None
    content: list[int] | list[float] | list[str] | None = None
    if number == 10:
        for value in values:
            read_tensor(reader, bytes_of(value))
    elif number == 7:
        content = np.frombuffer(b"".join(packed(v, 4) for v in values), "<f4").tolist()
    elif number == 8:
        content = list(islice((i for v in values for i in integers(v)), MAX_VALUES + 1))
    elif number == 9:
        content = [""] * len(values)
    if len(values if content is None else content) > MAX_VALUES:
        raise ValueError(f"an attribute of more than {MAX_VALUES:,} values")
    return content


def _value_info(reader: Reader, data: memoryview) -> tuple[str, tuple[int, ...] | None]:
    name, shape = "", None
    for number, value in reader.fields(data, _VALUE_INFO):
        if number == 1:
            name = text_of(value)
        elif number == 2:
            shape = _shape(reader, bytes_of(value))
    return name, shape


def _shape(reader: Reader, type_proto: memoryview) -> tuple[int, ...] | None:
    kinds = dict(reader.fields(type_proto, _TYPE))
    if not kinds.keys() - {6} == {1}:  # no tensor, or several types, of which protobuf takes the last
        return None
    shape = dict(reader.fields(bytes_of(kinds[1]), _TENSOR_TYPE)).get(2)
    if shape is None:
        return None
    dims: list[int] = []
    for _, value in reader.fields(bytes_of(shape), _SHAPE):
        dimension = dict(reader.fields(bytes_of(value), _DIMENSION))
        if 1 not in dimension or 2 in dimension or number_of(dimension[1]) < 0:
            return None
        dims.append(number_of(dimension[1]))
        check_rank(dims)
    return tuple(dims)
