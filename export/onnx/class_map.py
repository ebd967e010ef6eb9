# SPDX-License-Identifier: Apache-2.0
"""The class map without ArgMax, for TensorRT.

TensorRT computes ArgMax as TopK over all classes of each pixel and casts its int32 indices; 50 to 274 ms have
been reported for that (onnx-tensorrt 669, 671). Two reductions and a comparison give the same indices, and
the builder fuses them with the elementwise layers around them. ONNX Runtime's ArgMax is faster than the other
form: both exist.
"""

from __future__ import annotations

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

_OPSET = 18  # the first whose reductions take their axes as an input
_MAX_CLASSES = 256  # of a uint8 class map
_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16)


def without_argmax(model: ModelProto) -> ModelProto:
    """A copy in which each ArgMax over axis 1 that is cast to uint8 is ReduceMax, Equal, Where and ReduceMin.

    Bit-equal to ArgMax: the first of equal maxima wins. A pixel whose logits are NaN, for which ONNX does not
    define ArgMax, gets a valid class: that of the largest other logit, or the last. Any other ArgMax stays,
    and so do all in files below opset 18.
    """
    changed = ModelProto()
    changed.CopyFrom(model)
    if max((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), default=0) < _OPSET:
        return changed
    graph = changed.graph
    values = {v.name: v for v in (*graph.value_info, *graph.input)}
    readers: dict[str, list[NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    outputs = {output.name for output in graph.output}
    nodes: list[NodeProto] = []
    for node in graph.node:
        casts = readers.get(node.output[0], [])
        if _is_class_map(node, casts, values) and node.output[0] not in outputs:
            nodes += _reductions(changed, node, casts, values[node.input[0]])
        else:
            nodes.append(node)
    kept = [NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(kept)
    return changed


def _is_class_map(node: NodeProto, casts: list[NodeProto], values: dict[str, ValueInfoProto]) -> bool:
    if node.op_type != "ArgMax" or node.input[0] not in values:
        return False
    details = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    if details.get("axis", 0) != 1 or details.get("keepdims", 1) or details.get("select_last_index", 0):
        return False
    logits = values[node.input[0]].type.tensor_type
    if logits.elem_type not in _FLOATS or not 0 < logits.shape.dim[1].dim_value <= _MAX_CLASSES:
        return False
    return all(c.op_type == "Cast" and c.attribute[0].i == TensorProto.UINT8 for c in casts)


def _reductions(
    model: ModelProto, argmax: NodeProto, casts: list[NodeProto], logits: ValueInfoProto
) -> list[NodeProto]:
    """The nodes instead of an ArgMax, whose casts then read the last one."""
    graph, old = model.graph, argmax.output[0]
    shape = [dim.dim_value for dim in logits.type.tensor_type.shape.dim]
    kind = logits.type.tensor_type.elem_type
    # Class indices are exact in float16. TensorRT casts float32 and float16 to uint8, not bfloat16.
    index = kind if kind == TensorProto.FLOAT16 else TensorProto.FLOAT
    numbers = np.arange(shape[1]).astype(helper.tensor_dtype_to_np_dtype(index))
    axes, classes, last = (f"{old}.{name}" for name in ("axes", "classes", "last_class"))
    graph.initializer.extend(
        [
            numpy_helper.from_array(np.array([1], np.int64), axes),
            numpy_helper.from_array(numbers.reshape(1, -1, *[1] * (len(shape) - 2)), classes),
            numpy_helper.from_array(numbers[-1], last),
        ]
    )
    top, equal, of_top, first = (f"{old}.{name}" for name in ("max", "is_max", "of_max", "first_max"))
    described = (
        (top, kind, [shape[0], 1, *shape[2:]]),
        (equal, TensorProto.BOOL, shape),
        (of_top, index, shape),
        (first, index, [shape[0], *shape[2:]]),
    )
    rest = [value for value in graph.value_info if value.name != old]
    del graph.value_info[:]
    graph.value_info.extend([*rest, *(helper.make_tensor_value_info(*entry) for entry in described)])
    for cast in casts:
        cast.input[0] = first
    return [
        _node("ReduceMax", [argmax.input[0], axes], top, keepdims=1),
        _node("Equal", [argmax.input[0], top], equal),
        _node("Where", [equal, classes, last], of_top),
        _node("ReduceMin", [of_top, axes], first, keepdims=0),
    ]


def _node(kind: str, inputs: list[str], output: str, keepdims: int | None = None) -> NodeProto:
    # make_node omits an attribute of None.
    return helper.make_node(kind, inputs, [output], name=f"{kind}.{output}", keepdims=keepdims)
