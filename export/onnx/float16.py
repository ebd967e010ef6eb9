# SPDX-License-Identifier: Apache-2.0
"""float16 layers in a third-party float32 graph, as the export of checkpoints has them.

Convolutions, matrix products and what lies between them become float16. Float32 stay: what is before the
first of them; what is behind the last of them on the way to an output, a sort, a comparison, an integer or
the boxes of this package's operators (a corner at x = 2049 has no float16); sums over many values; and
layers with weights that float16 cannot represent.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, inliner, numpy_helper, shape_inference

from imp_trt.errors import DependencyMissing
from imp_trt.export.onnx.structure import DOMAIN

_FLOAT, _HALF = TensorProto.FLOAT, TensorProto.FLOAT16
_LARGEST = 65504.0

_LAYERS = frozenset(("Conv", "ConvTranspose", "Gemm", "MatMul"))
"""What becomes float16 wherever it is."""

_FEATURES = frozenset(
    "AveragePool BatchNormalization Elu Gelu GlobalAveragePool GlobalMaxPool HardSigmoid HardSwish LeakyRelu "
    "MaxPool Mish PRelu Relu Resize Selu Upsample".split()
)
"""Between layers; what is before them is no longer the arithmetic of an output."""

_BETWEEN = frozenset(
    "Abs Add ArgMax ArgMin Clip Concat DepthToSpace Div Dropout Erf Expand Flatten Gather Identity Max "
    "Min Mul Neg Pad Reshape Sigmoid Slice Softplus SpaceToDepth Split Squeeze Sub Sum Tanh Tile Transpose "
    "Unsqueeze Where".split()
)

_COMPARING = frozenset(
    "Cast Ceil Equal Floor Greater GreaterOrEqual GridSample Less LessOrEqual Mod NonMaxSuppression RoiAlign "
    "Round TopK".split()
)
"""What makes other integers, flags or positions from values that were rounded."""

_OPERANDS: Mapping[str, tuple[int, ...]] = {
    "Resize": (0,),
    "Upsample": (0,),
    "Dropout": (0,),
    "InstanceMaskProjection": (3,),
    "ImpMultilevelRoiAlign": (0, 1, 2, 3),
}
"""The inputs that become float16, of operators where it is not all of them."""

_STANDARD = ("", "ai.onnx")
_SUFFIX = ".float16"


def to_float16(model: ModelProto) -> ModelProto:
    """A copy of a float32 model with layers in float16; inputs and outputs keep their types.

    Args:
        model: with the types of its tensors; third-party local functions are expanded.

    Raises:
        DependencyMissing: the model calls instance mask projection, and PyTorch, which its body needs, is
            not installed.
    """
    model = _expanded(model)
    lowering = _Lowering(model)
    outputs = {output.name for output in model.graph.output}
    nodes = _read([new for node in model.graph.node for new in lowering.lower(node)], outputs)
    changed = ModelProto()
    changed.CopyFrom(model)
    del changed.graph.node[:]
    changed.graph.node.extend(nodes)
    changed.graph.initializer.extend(lowering.constants.values())
    used = {name for node in nodes for name in node.input} | outputs
    kept = [i for i in changed.graph.initializer if i.name in used]
    del changed.graph.initializer[:]
    changed.graph.initializer.extend(kept)
    _without_weights_as_inputs(changed, {i.name for i in model.graph.initializer})
    replace_bodies(changed)
    inferred: ModelProto = shape_inference.infer_shapes(changed, data_prop=True)
    return inferred


def has_float16(model: ModelProto) -> bool:
    """Whether a model of :func:`to_float16` has a tensor in float16."""
    return any(value.type.tensor_type.elem_type == _HALF for value in model.graph.value_info)


def _read(nodes: list[NodeProto], outputs: set[str]) -> list[NodeProto]:
    """The nodes without casts that nothing reads."""
    read = {name for node in nodes for name in node.input} | outputs
    return [node for node in nodes if node.op_type != "Cast" or node.output[0] in read]


def _without_weights_as_inputs(model: ModelProto, weights: set[str]) -> None:
    """Weights that a caller could replace, as old files have them, become constants."""
    inputs = [i for i in model.graph.input if i.name not in weights]
    kept = [type(i).FromString(i.SerializeToString()) for i in inputs]
    del model.graph.input[:]
    model.graph.input.extend(kept)
    model.ir_version = max(model.ir_version, 4)  # the first in which weights need not be inputs


def _expanded(model: ModelProto) -> ModelProto:
    own = [(f.domain, f.name) for f in model.functions if f.domain == DOMAIN]
    if len(own) == len(model.functions):
        return model
    expanded: ModelProto = inliner.inline_selected_functions(model, own, exclude=True)
    inferred: ModelProto = shape_inference.infer_shapes(expanded, data_prop=True)
    return inferred


def replace_bodies(model: ModelProto) -> None:
    """The body of a projection is written for the type of its masks."""
    if not any(n.op_type == "InstanceMaskProjection" and n.domain == DOMAIN for n in model.graph.node):
        return
    try:
        from imp_trt.export.onnx import mask_projection
    except ImportError as error:
        raise DependencyMissing(
            "instance mask projection in float16", got=error, fix="pip install 'imp-trt[export]'"
        ) from error
    inferred = shape_inference.infer_shapes(model, data_prop=True)
    body = mask_projection.function_for_model(inferred)
    others = [f for f in model.functions if (f.domain, f.name) != (DOMAIN, mask_projection.NAME)]
    kept = [type(f).FromString(f.SerializeToString()) for f in others]
    del model.functions[:]
    model.functions.extend([*kept, *([] if body is None else [body])])


@dataclass
class _Lowering:
    """Decides for each node, in order, and rewrites it.

    Attributes:
        constants: name -> initializer in float16.
    """

    model: ModelProto
    constants: dict[str, TensorProto] = field(default_factory=dict)

    def __post_init__(self) -> None:
        graph = self.model.graph
        self._types = {
            v.name: v.type.tensor_type.elem_type for v in (*graph.value_info, *graph.input, *graph.output)
        }
        self._weights = {i.name: i for i in graph.initializer}
        self._weights |= {n.output[0]: n.attribute[0].t for n in graph.node if _is_constant(n)}
        self._types |= {name: t.data_type for name, t in self._weights.items()}
        self._exact = _exact_tensors(self.model)
        self._half: dict[str, str] = {}  # float32 tensor -> its name in float16
        self._computed: set[str] = set()  # float32 tensors whose values are float16's
        self._taken = set(self._types) | {name for n in graph.node for name in n.output}

    def lower(self, node: NodeProto) -> Iterator[NodeProto]:
        """The nodes instead of a node."""
        positions = self._operands(node)
        if not self._becomes_half(node, positions):
            yield node
            return
        changed = NodeProto()
        changed.CopyFrom(node)
        for position in positions:
            name = node.input[position]
            if name not in self._half:
                yield from self._cast_to_half(name)
            changed.input[position] = self._half[name]
        casts = []
        for i, name in enumerate(node.output):
            if name and self._types.get(name) == _FLOAT:
                half = self._free(name + _SUFFIX)
                self._half[name] = changed.output[i] = half
                self._computed.add(name)
                casts.append(_cast(half, name, _FLOAT))
        yield changed
        yield from casts

    def _operands(self, node: NodeProto) -> list[int]:
        """Positions of the inputs that become float16 if the node does."""
        positions = _OPERANDS.get(node.op_type, range(len(node.input)))
        return [i for i in positions if i < len(node.input) and self._types.get(node.input[i]) == _FLOAT]

    def _becomes_half(self, node: NodeProto, positions: list[int]) -> bool:
        own = node.domain == DOMAIN and node.op_type in _OPERANDS
        if not own and (node.domain not in _STANDARD or not self._exact.isdisjoint(node.output)):
            return False
        if any(name and name not in self._types for name in (*node.input, *node.output)) or not positions:
            return False
        if not all(self._representable(node.input[i]) for i in positions):
            return False
        if own or node.op_type in _LAYERS:
            return True
        if node.op_type not in _FEATURES | _BETWEEN:
            return False
        return any(node.input[i] in self._computed for i in positions)

    def _representable(self, name: str) -> bool:
        tensor = self._weights.get(name)
        if tensor is None:
            return True
        values = np.abs(numpy_helper.to_array(tensor))
        return not bool(((values > _LARGEST) & np.isfinite(values)).any())

    def _cast_to_half(self, name: str) -> Iterator[NodeProto]:
        half = self._half[name] = self._free(name + _SUFFIX)
        tensor = self._weights.get(name)
        if tensor is None:
            yield _cast(name, half, _HALF)
        else:
            values = numpy_helper.to_array(tensor).astype(np.float16)
            self.constants[half] = numpy_helper.from_array(values, half)

    def _free(self, name: str) -> str:
        while name in self._taken:
            name += "_"
        self._taken.add(name)
        return name


def _is_constant(node: NodeProto) -> bool:
    return node.op_type == "Constant" and len(node.attribute) == 1 and node.attribute[0].name == "value"


def _exact_tensors(model: ModelProto) -> set[str]:
    """Outputs of the nodes behind the last layer, which stay float32: see the module."""
    producers = {name: node for node in model.graph.node for name in node.output if name}
    pending: list[str] = [output.name for output in model.graph.output]
    for node in model.graph.node:
        if node.domain == DOMAIN and node.op_type in _OPERANDS:
            features = _OPERANDS[node.op_type]
            pending += [name for i, name in enumerate(node.input) if i not in features]
        elif node.op_type in _COMPARING:
            pending += node.input
    exact: set[str] = set()
    while pending:
        name = pending.pop()
        found = producers.get(name)
        if found is None or name in exact or found.domain not in _STANDARD:
            continue
        if found.op_type in _LAYERS | _FEATURES or found.op_type in ("ArgMax", "ArgMin"):
            continue
        exact.update(filter(None, found.output))
        pending += found.input
    return exact


def _cast(source: str, target: str, to: int) -> NodeProto:
    return helper.make_node("Cast", [source], [target], name=f"Cast.{target}", to=to)
