# SPDX-License-Identifier: Apache-2.0
"""Graph checks: operators that every target supports, static shapes, unique names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

import onnx
from onnx import AttributeProto, ModelProto, NodeProto, TensorProto

from imp_trt.errors import ExportError
from imp_trt.export.onnx.function_builder import DOMAIN, PLUGIN_ATTRIBUTES
from imp_trt.export.onnx.type_checks import as_float16, low_type_problems, quantization_problems

MAX_TOPK = 3840
"""TensorRT's limit on K of TopK (NvInfer.h)."""

# Supported by ONNX Runtime and by TensorRT 10.3 to 11.x. Excluded: NonZero, NonMaxSuppression and other
# operators with data-dependent output shapes, scatters, control flow, RoiAlign (a plugin that needs a GPU
# when it is parsed; see IN_BODIES), GroupNormalization (TensorRT 10.9), Mod, random numbers.
ALLOWED_OPS = frozenset(
    """
    Abs Add And ArgMax AveragePool BatchNormalization Cast CastLike Ceil Clip Concat Constant
    ConstantOfShape Conv CumSum DepthToSpace DequantizeLinear Div Equal Exp Expand Flatten Floor Gather
    GatherElements Gemm GlobalAveragePool Greater GreaterOrEqual Identity InstanceNormalization IsInf
    IsNaN Less LessOrEqual Log MatMul Max MaxPool Min Mul Neg Not Or Pad Pow QuantizeLinear Range
    Reciprocal ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum Relu Reshape Resize Round Shape Sigmoid
    Sign Size Slice Softmax Split Sqrt Squeeze Sub Sum TopK Transpose Trilu Unsqueeze Where
    """.split()
)

IN_BODIES = {"ImpMultilevelRoiAlign": frozenset({"RoiAlign"})}
"""Custom operator -> what its body has besides: an engine is built with the plugin instead of that body."""


def graph_problems(model: ModelProto) -> list[str]:
    """Everything in a model that some target does not support or could misread; empty for a valid model."""
    problems = [*_operators(model), *_names(model), *_shapes(model), *_uint8(model), *_custom_nodes(model)]
    problems += [*_empty(model), *low_type_problems(model), *quantization_problems(model)]
    return list(dict.fromkeys(problems))


def check(model: ModelProto) -> None:
    """Run the graph checks and ONNX's checker with shape inference; bfloat16 is checked as float16.

    Raises:
        ExportError: the graph is not valid ONNX, or :func:`graph_problems` is not empty.
    """
    problems = graph_problems(model)
    if problems:
        raise ExportError(
            "exported graph",
            expected="static shapes and operators that every target supports",
            got=f"{len(problems)} problems: {'; '.join(problems[:5])}",
        )
    try:
        onnx.checker.check_model(as_float16(model), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(
            "exported graph", expected="valid ONNX", got=" ".join(str(error).split())
        ) from error


def _node_lists(model: ModelProto) -> Iterator[tuple[str, Iterable[NodeProto]]]:
    yield "graph", model.graph.node
    for function in model.functions:
        yield f"function {function.name}", function.node


def _operators(model: ModelProto) -> Iterator[str]:
    functions = {(f.domain, f.name) for f in model.functions}
    constants = {i.name: i for i in model.graph.initializer}
    opsets = {o.domain: o.version for o in model.opset_import}
    for function in model.functions:
        for opset in function.opset_import:
            if opset.domain == "" and opset.version != opsets.get(""):
                yield f"function {function.name} has opset {opset.version}, the model {opsets.get('')}"
    for where, nodes in _node_lists(model):
        for node in nodes:
            if any(a.type in (AttributeProto.GRAPH, AttributeProto.GRAPHS) for a in node.attribute):
                yield f"{where}: {node.op_type} has a subgraph"
            if node.domain in ("", "ai.onnx"):
                allowed = IN_BODIES.get(where.removeprefix("function "), frozenset())
                if node.op_type not in ALLOWED_OPS | allowed:
                    yield f"{where}: {node.op_type} is not supported by every target"
                yield from _details(where, node, constants)
            elif (node.domain, node.op_type) not in functions:
                yield f"{where}: {node.domain}.{node.op_type} has no function body"


def _details(where: str, node: NodeProto, constants: dict[str, TensorProto]) -> Iterator[str]:
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute if not a.ref_attr_name}
    if node.op_type == "TopK" and node.input[1] in constants:
        k = int(onnx.numpy_helper.to_array(constants[node.input[1]]).reshape(-1)[0])
        if k > MAX_TOPK:
            yield f"{where}: TopK with K = {k}, more than {MAX_TOPK}"
    if node.op_type == "Resize":
        mode = attributes.get("coordinate_transformation_mode")
        if attributes.get("antialias") or mode == b"tf_crop_and_resize":
            yield f"{where}: Resize with antialias or tf_crop_and_resize"


def _names(model: ModelProto) -> Iterator[str]:
    """Duplicate names: TensorRT's parser has one table of functions and one of tensors for the whole file."""
    functions = Counter(f.name for f in model.functions)
    schemas = {s.name for s in onnx.defs.get_all_schemas()}
    for name, count in functions.items():
        if count > 1:
            yield f"two functions {name}"
        if name in schemas:
            yield f"function {name} has the name of an ONNX operator"
    graph = model.graph
    seen: set[str] = set()
    outer = [*[i.name for i in graph.input], *[i.name for i in graph.initializer], *_outputs(graph.node)]
    for name in (*outer, *(n for f in model.functions for n in (*f.input, *_outputs(f.node)))):
        if name in seen:
            yield f"tensor {name} is defined twice"
        seen.add(name)
    nodes: set[str] = set()
    for _, body in _node_lists(model):
        for node in body:
            if node.name in nodes or not node.name:
                yield f"{node.op_type} node name {node.name!r} is not unique"
            nodes.add(node.name)


def _outputs(nodes: Iterable[NodeProto]) -> Iterator[str]:
    for node in nodes:
        yield from (name for name in node.output if name)


def _shapes(model: ModelProto) -> Iterator[str]:
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            if not dim.HasField("dim_value"):
                yield f"{value.name} has the dynamic dimension {dim.dim_param or '?'}"


def _empty(model: ModelProto) -> Iterator[str]:
    """TensorRT's parser warns about each initializer without data."""
    for initializer in model.graph.initializer:
        if 0 in initializer.dims:
            yield f"initializer {initializer.name} has no elements"


def _uint8(model: ModelProto) -> Iterator[str]:
    """uint8 is allowed only for inputs and outputs of the graph, next to a Cast."""
    graph = model.graph
    types = {v.name: v.type.tensor_type.elem_type for v in (*graph.input, *graph.output, *graph.value_info)}
    uint8 = {name for name, kind in types.items() if kind == TensorProto.UINT8}
    outputs = {o.name for o in graph.output}
    for node in graph.node:
        if node.op_type == "Cast":
            continue
        for name in (*node.input, *node.output):
            if name in uint8:
                yield f"{node.op_type} uses uint8 tensor {name}"
    computed = {name for node in graph.node for name in node.output}
    for name in uint8 & computed - outputs:
        yield f"uint8 tensor {name} is not an output of the graph"


def _custom_nodes(model: ModelProto) -> Iterator[str]:
    for node in model.graph.node:
        if node.domain != DOMAIN:
            continue
        attributes = {a.name: a.s.decode() for a in node.attribute if a.type == AttributeProto.STRING}
        for name, value in PLUGIN_ATTRIBUTES.items():
            if attributes.get(name) != value:
                yield f"{node.op_type} has {name}={attributes.get(name)!r} instead of {value!r}"
    domains = {o.domain for o in model.opset_import}
    if model.functions and DOMAIN not in domains:
        yield f"domain {DOMAIN} is not imported"
