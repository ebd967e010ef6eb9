# SPDX-License-Identifier: Apache-2.0
"""A float16 graph as a float32 one that rounds where a GPU does.

ONNX Runtime has few float16 kernels for CPUs: it computes in float32, and removes the casts between two such
layers. Its outputs do not show values that overflow in float16. In the graph made here each float16
tensor is a float32 one that was cast to float16 and back, which ONNX Runtime keeps.
"""

from __future__ import annotations

from collections.abc import Iterator

from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper, shape_inference

from imp_trt.export.onnx.float16 import replace_bodies

_HALF, _FLOAT = TensorProto.FLOAT16, TensorProto.FLOAT


def with_float16_rounding(model: ModelProto) -> ModelProto:
    """A float32 copy of a graph of :func:`imp_trt.export.onnx.float16.to_float16`.

    Layers sum in float32, as tensor cores do; their results, and the inputs of the first, are rounded to
    float16. Inputs and outputs keep their names and types.

    Args:
        model: whose inputs and outputs are not in float16.

    Raises:
        DependencyMissing: the model calls instance mask projection, and PyTorch is not installed.
    """
    inferred = shape_inference.infer_shapes(model, data_prop=True)
    half = {v.name for v in inferred.graph.value_info if v.type.tensor_type.elem_type == _HALF}
    changed = ModelProto()
    changed.CopyFrom(inferred)
    graph = changed.graph
    nodes = [new for node in graph.node for new in _rounded(node, half)]
    del graph.node[:], graph.value_info[:]
    graph.node.extend(nodes)
    for tensor in graph.initializer:
        if tensor.data_type == _HALF:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype("f4"), tensor.name))
    replace_bodies(changed)
    return changed


def _rounded(node: NodeProto, half: set[str]) -> Iterator[NodeProto]:
    changed = NodeProto()
    changed.CopyFrom(node)
    if node.op_type == "Cast" and node.input[0] in half and changed.attribute[0].i == _FLOAT:
        changed.op_type = "Identity"
        del changed.attribute[:]
    casts = []
    for i, name in enumerate(node.output):
        if name in half:
            exact, low = f"{name}.exact", f"{name}.rounded"
            changed.output[i] = exact
            casts += [helper.make_node("Cast", [exact], [low], to=_HALF)]
            casts += [helper.make_node("Cast", [low], [name], to=_FLOAT)]
    if changed.op_type == "Cast" and casts:
        changed.attribute[0].i = _FLOAT
    yield changed
    yield from casts
