# SPDX-License-Identifier: Apache-2.0
"""Type checks of a graph: where float32 is required, and the quantization that all targets support."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from imp_trt.export.onnx.function_builder import DOMAIN

QDQ_OPSET = 19
"""First opset whose QuantizeLinear supports float16 inputs and float8 outputs."""

# These compute coordinates and scores; with a 16-bit type boxes move and detections change their order.
_FLOAT32_OPS = ("TopK", "Softmax", "Sigmoid", "Exp")
_FLOAT32_INPUTS = {"InstanceMaskProjection": (0, 1), "ImpMultilevelRoiAlign": (4,)}
_LOW_TYPES = (TensorProto.FLOAT16, TensorProto.BFLOAT16)
_QUANTIZED_TYPES = (TensorProto.INT8, TensorProto.FLOAT8E4M3FN)


def residual_additions(model: ModelProto) -> Iterator[str]:
    """Names of the nodes Add whose first input is a convolution's and whose output is read by one ReLU alone.

    Only those can become part of a quantized kernel: convolution, addition of the second input, ReLU.
    """
    readers: dict[str, list[NodeProto]] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    convolutions = {n.output[0] for n in model.graph.node if n.op_type == "Conv"}
    for node in model.graph.node:
        if node.op_type != "Add" or node.input[0] not in convolutions or len(readers[node.input[0]]) > 1:
            continue
        if [reader.op_type for reader in readers.get(node.output[0], [])] == ["Relu"]:
            yield node.name


def types_of(model: ModelProto) -> dict[str, int]:
    """Element type of every tensor of the graph that has one in the model."""
    graph = model.graph
    values = (*graph.value_info, *graph.input, *graph.output)
    return {v.name: v.type.tensor_type.elem_type for v in values} | {
        i.name: i.data_type for i in graph.initializer
    }


def low_type_problems(model: ModelProto) -> Iterator[str]:
    """float16 or bfloat16 in the computation of coordinates, scores or probabilities."""
    types = types_of(model)
    for node in model.graph.node:
        inputs = list(node.input)
        if node.domain == DOMAIN:
            inputs = [node.input[i] for i in _FLOAT32_INPUTS.get(node.op_type, ())]
        elif node.op_type not in _FLOAT32_OPS:
            continue
        for name in inputs:
            if types.get(name) in _LOW_TYPES:
                kind = TensorProto.DataType.Name(types[name])
                yield f"{node.op_type} uses {kind} tensor {name} instead of FLOAT"


def quantization_problems(model: ModelProto) -> Iterator[str]:
    """Q/DQ that is asymmetric, not per output channel for weights, or at an unsupported position."""
    constants = {i.name: i for i in model.graph.initializer}
    producers = {name: node for node in model.graph.node for name in node.output}
    residual = set(residual_additions(model))
    opset = max((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), default=0)
    for node in model.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            if opset < QDQ_OPSET:
                yield f"{node.op_type} needs opset {QDQ_OPSET}, the model has {opset}"
            yield from _quantizer(node, constants)
        else:
            for position, name in enumerate(node.input):
                producer = producers.get(name)
                if producer is None or producer.op_type != "DequantizeLinear":
                    continue
                if not (node.name in residual and position == 1):
                    yield from _consumer(node, position, producer, constants)
    for function in model.functions:
        if any(n.op_type in ("QuantizeLinear", "DequantizeLinear") for n in function.node):
            yield f"function {function.name} is quantized"


def _quantizer(node: NodeProto, constants: dict[str, TensorProto]) -> Iterator[str]:
    name = f"{node.op_type} {node.name}"
    if len(node.input) < 3 or any(i not in constants for i in node.input[1:3]):
        yield f"{name} has no constant scale and zero point"
        return
    scale, zero = constants[node.input[1]], constants[node.input[2]]
    if zero.data_type not in _QUANTIZED_TYPES:
        yield f"{name} has type {TensorProto.DataType.Name(zero.data_type)}, not INT8 or FLOAT8E4M3FN"
        return
    if np.frombuffer(zero.raw_data or numpy_helper.to_array(zero).tobytes(), np.uint8).any():
        yield f"{name} is not symmetric"
    values = numpy_helper.to_array(scale).astype(np.float32)
    if not (np.isfinite(values).all() and (values > 0).all()):
        yield f"{name} has a scale that is not positive"
    weight = constants.get(node.input[0])
    axis = next((a.i for a in node.attribute if a.name == "axis"), 1)
    if weight is not None and list(scale.dims) != [weight.dims[axis]]:
        yield f"{name} does not have one scale per channel of axis {axis}"
    if weight is None and scale.dims:
        yield f"{name} has more than one scale for an activation"


def _consumer(
    node: NodeProto, position: int, producer: NodeProto, constants: dict[str, TensorProto]
) -> Iterator[str]:
    """Only input and weight of a layer, and the shortcut of a residual block, may be dequantized."""
    if node.op_type not in ("Conv", "Gemm") or position > 1:
        yield f"{node.op_type} {node.name} reads a quantized tensor as input {position}"
        return
    if position == 1 and producer.input[0] in constants:
        attributes = {a.name: helper.get_attribute_value(a) for a in (*producer.attribute, *node.attribute)}
        output = 1 if node.op_type == "Gemm" and not attributes.get("transB") else 0
        axis = attributes.get("axis", 1)
        if axis != output:
            yield f"{node.op_type} {node.name} has scales along axis {axis} of its weight"


def as_float16(model: ModelProto) -> ModelProto:
    """A copy with float16 instead of bfloat16, for ONNX's checker.

    TensorRT supports bfloat16 convolutions at opset 18, ONNX only from opset 22. The graphs differ only in
    the type, so the copy shows whether the rest is valid.
    """
    copy = ModelProto()
    copy.CopyFrom(model)
    for value in (*copy.graph.value_info, *copy.graph.input, *copy.graph.output):
        if value.type.tensor_type.elem_type == TensorProto.BFLOAT16:
            value.type.tensor_type.elem_type = TensorProto.FLOAT16
    for tensor in copy.graph.initializer:
        if tensor.data_type == TensorProto.BFLOAT16:
            tensor.data_type = TensorProto.FLOAT16
    for nodes in (copy.graph.node, *(f.node for f in copy.functions)):
        for node in nodes:
            for attribute in node.attribute:
                if node.op_type == "Cast" and attribute.i == TensorProto.BFLOAT16:
                    attribute.i = TensorProto.FLOAT16
                if attribute.t.data_type == TensorProto.BFLOAT16:
                    attribute.t.data_type = TensorProto.FLOAT16
    return copy
