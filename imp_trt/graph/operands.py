# SPDX-License-Identifier: Apache-2.0
"""Tensors of an ONNX graph, found by name and brought to the shapes and types of the operator's operands."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto
from onnxscript import ir

from imp_trt.errors import InvalidInput
from imp_trt.export.onnx.function_builder import Operators

FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)
INTEGERS = (
    TensorProto.INT64,
    TensorProto.INT32,
    TensorProto.INT16,
    TensorProto.INT8,
    TensorProto.UINT8,
    TensorProto.UINT16,
    TensorProto.UINT32,
)
_UNKNOWN = -1
_MOST_NAMES = 12


@dataclass(frozen=True)
class Columns:
    """Columns [start, stop) of the last axis of a tensor, such as boxes and scores in one output.

    Attributes:
        name: of the tensor.
        start, stop: the columns, counted from 0.
    """

    name: str
    start: int
    stop: int


@dataclass(frozen=True)
class Prototypes:
    """Masks as linear combinations, as of YOLACT and YOLO-seg: ``sigmoid(coefficients @ prototypes)``.

    Attributes:
        name: of the tensor with the prototypes, [K, h, w] or [B, K, h, w]; logits.
        spatial_scale: cells of the prototypes per pixel of the boxes.
        cells: P, side of the mask that is sampled in each box.
    """

    name: str
    spatial_scale: float = 0.25
    cells: int = 28


@dataclass(frozen=True)
class Operand:
    """A tensor and what is known of it.

    Attributes:
        what: its role and name, for messages.
        value: the tensor.
        kind: onnx type, 0 if unknown.
        shape: its sizes, -1 where unknown.
    """

    what: str
    value: ir.Value
    kind: int
    shape: tuple[int, ...]

    def problem(self, expected: str, fix: str | None = None) -> InvalidInput:
        """The error of an unfit tensor."""
        kind = TensorProto.DataType.Name(self.kind).lower() if self.kind else "of unknown type"
        sizes = ", ".join("?" if size == _UNKNOWN else str(size) for size in self.shape)
        return InvalidInput(self.what, expected=expected, got=f"[{sizes}] {kind}", fix=fix)


class GraphTensors:
    """The tensors of a graph by name, subgraphs excluded.

    Args:
        model: after shape inference.
    """

    def __init__(self, model: ModelProto) -> None:
        graph = model.graph
        values = (*graph.value_info, *graph.input, *graph.output)
        self._known = {value.name: value for value in values}
        self._constants = {i.name: i for i in graph.initializer}
        self._computed = [name for node in graph.node for name in node.output if name]
        self._outputs = [output.name for output in graph.output]
        self.names = {*self._computed, *(i.name for i in graph.input), *self._constants}

    def find(self, what: str, name: str) -> Operand:
        """A tensor of known rank; InvalidInput if there is none."""
        if name not in self.names:
            outputs = ", ".join(self._outputs[:_MOST_NAMES])
            raise InvalidInput(
                what,
                expected=f"the name of a tensor of the graph; its outputs are {outputs}",
                got=repr(name),
                fix="take a name of an output, or one that Netron shows on an edge",
            )
        what = f"{what} (tensor {name})"
        if name in self._constants:
            constant = self._constants[name]
            return Operand(what, ir.Value(name=name), constant.data_type, tuple(constant.dims))
        kind, shape = _described(self._known.get(name))
        if shape is None:
            raise InvalidInput(
                what,
                expected="a tensor whose rank is known",
                got="none in the file, and ONNX's shape inference finds none",
                fix="export the model with value_info, or run onnxruntime.tools.symbolic_shape_infer on it",
            )
        return Operand(what, ir.Value(name=name), kind, shape)


def _described(value: ValueInfoProto | None) -> tuple[int, tuple[int, ...] | None]:
    if value is None or not value.type.HasField("tensor_type"):
        return 0, None
    tensor = value.type.tensor_type
    if not tensor.HasField("shape"):
        return tensor.elem_type, None
    dims = tensor.shape.dim
    return tensor.elem_type, tuple(d.dim_value if d.HasField("dim_value") else _UNKNOWN for d in dims)


def select(op: Operators, tensors: GraphTensors, what: str, source: str | Columns) -> Operand:
    """The tensor of a name, or its columns."""
    if isinstance(source, str):
        return tensors.find(what, source)
    found = tensors.find(what, source.name)
    width = found.shape[-1] if found.shape else 0
    if not 0 <= source.start < source.stop or (width != _UNKNOWN and source.stop > width):
        raise found.problem(f"columns {source.start} to {source.stop} of the last axis")
    bounds = (op.Constant(value_ints=[i]) for i in (source.start, source.stop, -1))
    part = op.Slice(found.value, *bounds)
    return replace(found, value=part, shape=(*found.shape[:-1], source.stop - source.start))


def check_kind(operand: Operand, kinds: Sequence[int], words: str) -> None:
    """InvalidInput if the type is known and none of the kinds."""
    if operand.kind and operand.kind not in kinds:
        raise operand.problem(words)


def cast(op: Operators, operand: Operand, kind: int) -> Operand:
    """The operand in a type; the tensor itself if it has it."""
    if operand.kind == kind:
        return operand
    return replace(operand, value=op.Cast(operand.value, to=kind), kind=kind)


def batched(op: Operators, operand: Operand, rank: int) -> Operand:
    """The operand of an image as the only one of a batch, if it has one axis less than ``rank``."""
    if len(operand.shape) == rank:
        return operand
    axis = op.Constant(value_ints=[0])
    return replace(operand, value=op.Unsqueeze(operand.value, axis), shape=(1, *operand.shape))


def without_axis(op: Operators, operand: Operand, axis: int) -> Operand:
    """The operand without an axis of size 1; another size, if it is not known yet, fails at run time."""
    shape = operand.shape[:axis] + operand.shape[axis + 1 :]
    at = op.Constant(value_ints=[axis])
    return replace(operand, value=op.Squeeze(operand.value, at), shape=shape)


def named_nodes(op: Operators, prefix: str) -> list[NodeProto]:
    """The nodes as protocol buffers; tensors that have no name get one with the prefix."""
    for index, node in enumerate(op.nodes()):
        node.name = f"{prefix}.{index}.{node.op_type}"
        for number, output in enumerate(node.outputs):
            output.name = output.name or (f"{node.name}.{number}" if number else node.name)
    return [ir.serde.serialize_node(node) for node in op.nodes()]


def fits(one: int, other: int) -> bool:
    """Whether two sizes can be the same."""
    return one == other or _UNKNOWN in (one, other)
