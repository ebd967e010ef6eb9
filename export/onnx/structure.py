# SPDX-License-Identifier: Apache-2.0
"""What an engine build needs to know of an ONNX file, read without the onnx package (devices do not have it).

Reads the fields of ``onnx.proto`` (ModelProto, GraphProto, NodeProto, ValueInfoProto) from their encoding as
protocol buffers: https://protobuf.dev/programming-guides/encoding/. Weights are skipped, not copied.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from imp_trt.artifacts.manifest import TensorSpec
from imp_trt.backends.onnx_wire import BYTES, FIXED32, FIXED64, INT, varint
from imp_trt.errors import ArtifactError

DOMAIN = "imp_trt"
"""Domain of every custom node and function of this package."""

# Field numbers of onnx.proto.
_MODEL_PRODUCER, _MODEL_GRAPH, _MODEL_OPSETS, _MODEL_FUNCTIONS = 2, 7, 8, 25
_GRAPH_NODE, _GRAPH_INITIALIZER, _GRAPH_INPUT, _GRAPH_OUTPUT = 1, 5, 11, 12
_NODE_NAME, _NODE_OP_TYPE, _NODE_DOMAIN = 3, 4, 7
_TENSOR_NAME = 8
_FUNCTION_NAME, _FUNCTION_NODE, _FUNCTION_DOMAIN = 1, 7, 10

# TensorProto.DataType -> name in NumPy.
_DTYPES = {1: "float32", 2: "uint8", 3: "int8", 6: "int32", 7: "int64", 9: "bool", 10: "float16"}
_DTYPES |= {4: "uint16", 5: "int16", 8: "string", 11: "float64", 12: "uint32", 13: "uint64", 16: "bfloat16"}

_Value = int | memoryview


@dataclass(frozen=True)
class Node:
    """A node of the graph: its name, operator and domain."""

    name: str
    op_type: str
    domain: str


@dataclass(frozen=True)
class Structure:
    """The structure of an ONNX file.

    Attributes:
        nodes: of the graph, in order.
        functions: (domain, name) of the local functions.
        inputs, outputs: tensors of the graph, without initializers; -1 is a dimension without a fixed size.
        opset: of the standard operators; 0 if the file names none.
        producer: program that wrote the file.
        adaptive: a function of this package pools with ONNX's RoiAlign: adaptive sampling.
    """

    nodes: tuple[Node, ...]
    functions: tuple[tuple[str, str], ...]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    opset: int
    producer: str = ""
    adaptive: bool = False

    def custom_nodes(self) -> dict[str, tuple[str, ...]]:
        """This package's operators -> names of their nodes."""
        found: dict[str, tuple[str, ...]] = {}
        for node in self.nodes:
            if node.domain == DOMAIN:
                found[node.op_type] = (*found.get(node.op_type, ()), node.name)
        return found


def read_structure(data: bytes) -> Structure:
    """The structure of an ONNX file.

    Raises:
        ArtifactError: the bytes are not an ONNX model.
    """
    try:
        return _structure(memoryview(data))
    except ValueError as error:
        raise ArtifactError(
            "ONNX file",
            expected="a serialized ModelProto",
            got=f"{type(error).__name__}: {error}",
            fix="the file is damaged or no ONNX file; copy it again",
        ) from error


def without_function_bodies(data: bytes) -> bytes:
    """The same file without its local functions; the rest keeps its bytes."""
    view = memoryview(data)
    kept = [bytes(view[start:end]) for number, _, start, end in _fields(view) if number != _MODEL_FUNCTIONS]
    return b"".join(kept)


def _structure(data: memoryview) -> Structure:
    nodes: list[Node] = []
    functions: list[tuple[str, str]] = []
    tensors: dict[int, list[TensorSpec]] = {_GRAPH_INPUT: [], _GRAPH_OUTPUT: []}
    initializers: set[str] = set()
    opset, producer, adaptive = 0, "", False
    for number, value, _, _ in _fields(data):
        if number == _MODEL_GRAPH:
            for inner, item, _, _ in _fields(_message(value)):
                if inner == _GRAPH_NODE:
                    texts = _texts(item, _NODE_NAME, _NODE_OP_TYPE, _NODE_DOMAIN)
                    nodes.append(Node(*texts))
                elif inner == _GRAPH_INITIALIZER:
                    initializers.update(_texts(item, _TENSOR_NAME))
                elif inner in tensors:
                    tensors[inner].append(_tensor(item))
        elif number == _MODEL_PRODUCER:
            producer = str(_message(value), "utf-8")
        elif number == _MODEL_OPSETS:
            imports = {inner: item for inner, item, _, _ in _fields(_message(value))}
            version = imports.get(2, 0)
            if bytes(_message(imports.get(1, memoryview(b"")))) in (b"", b"ai.onnx"):
                opset = version if isinstance(version, int) else 0
        elif number == _MODEL_FUNCTIONS:
            name, domain = _texts(value, _FUNCTION_NAME, _FUNCTION_DOMAIN)
            functions.append((domain, name))
            nodes_of = (item for inner, item, _, _ in _fields(_message(value)) if inner == _FUNCTION_NODE)
            adaptive |= domain == DOMAIN and ["RoiAlign"] in (
                _texts(node, _NODE_OP_TYPE) for node in nodes_of
            )
    inputs = tuple(spec for spec in tensors[_GRAPH_INPUT] if spec.name not in initializers)
    outputs = tuple(tensors[_GRAPH_OUTPUT])
    return Structure(tuple(nodes), tuple(functions), inputs, outputs, opset, producer, adaptive)


def _tensor(value: _Value) -> TensorSpec:
    """ValueInfoProto: name 1, type 2 { tensor_type 1 { elem_type 1, shape 2 { dim 1 { dim_value 1 } } } }."""
    (name,) = _texts(value, 1)
    tensor = _child(_child(value, 2), 1)
    kind = next((item for number, item, _, _ in _fields(tensor) if number == 1), 0)
    shape = []
    for number, dim, _, _ in _fields(_child(tensor, 2)):
        if number == 1:
            sizes = [item for inner, item, _, _ in _fields(_message(dim)) if inner == 1]
            shape.append(sizes[-1] if sizes and isinstance(sizes[-1], int) else -1)
    dtype = _DTYPES.get(kind, f"type {kind}") if isinstance(kind, int) else "no tensor"
    return TensorSpec(name, dtype, tuple(shape))


def _child(value: _Value, number: int) -> memoryview:
    """The last field of this number, a message; an empty one if there is none."""
    found = [item for other, item, _, _ in _fields(_message(value)) if other == number]
    return _message(found[-1]) if found else memoryview(b"")


def _texts(value: _Value, *numbers: int) -> list[str]:
    """Strings of a message by field number; empty ones where it has none."""
    found = dict.fromkeys(numbers, "")
    for number, item, _, _ in _fields(_message(value)):
        if number in found:
            found[number] = str(_message(item), "utf-8")
    return list(found.values())


def _message(value: _Value) -> memoryview:
    if isinstance(value, int):
        raise ValueError("a number instead of a message")
    return value


def _fields(data: memoryview) -> Iterator[tuple[int, _Value, int, int]]:
    """(number, value, start, end) of every field of a message."""
    position = 0
    while position < len(data):
        start = position
        key, position = varint(data, position)
        number, wire = key >> 3, key & 7
        value: _Value
        if wire == INT:
            value, position = varint(data, position)
        elif wire == BYTES:
            length, begin = varint(data, position)
            position = begin + length
            value = data[begin:position]
        elif wire in (FIXED64, FIXED32):
            begin, position = position, position + (8 if wire == FIXED64 else 4)
            value = data[begin:position]
        else:
            raise ValueError(f"wire type {wire}")
        if number < 1 or position > len(data):
            raise ValueError(f"field {number} ends behind the message")
        yield number, value, start, position
