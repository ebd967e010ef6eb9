# SPDX-License-Identifier: Apache-2.0
"""The smallest ONNX models that call one custom operator."""

from __future__ import annotations

from onnx import FunctionProto, ModelProto, TensorProto, helper

from imp_trt.export.onnx import mask_projection
from imp_trt.export.onnx import roi_align as multilevel_roi_align
from imp_trt.export.onnx.function_builder import DOMAIN, PLUGIN_ATTRIBUTES

ELEMENTS = {"f32": TensorProto.FLOAT, "f16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}
Sizes = dict[str, tuple[int, list[int]]]


def _model(
    node_type: str,
    inputs: Sizes,
    outputs: Sizes,
    attributes: dict[str, object],
    function: FunctionProto,
    functions: bool,
) -> ModelProto:
    node = helper.make_node(
        node_type, list(inputs), list(outputs), domain=DOMAIN, **attributes, **PLUGIN_ATTRIBUTES
    )
    values = [
        [helper.make_tensor_value_info(name, *kind) for name, kind in some.items()]
        for some in (inputs, outputs)
    ]
    graph = helper.make_graph([node], "one", *values)
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid(DOMAIN, 1)]
    bodies = [function] if functions else []
    return helper.make_model(graph, opset_imports=opsets, ir_version=9, functions=bodies)


def mask_projection_model(
    element: str, sampling: str = "bilinear", labels: int = TensorProto.INT32, functions: bool = True
) -> ModelProto:
    """boxes, scores, labels, masks -> canvas [1, 3, 16, 24]; masks [1, 6, 5, 5] of the type."""
    attributes = {
        "num_classes": 3,
        "canvas_h": 16,
        "canvas_w": 24,
        "spatial_scale": 0.25,
        "sampling": sampling,
    }
    shapes = mask_projection.Shapes(1, 6, 3, (16, 24))
    function = mask_projection.function_proto(sampling, ELEMENTS[element], 5, shapes)
    inputs = {
        "boxes": (TensorProto.FLOAT, [1, 6, 4]),
        "scores": (TensorProto.FLOAT, [1, 6]),
        "labels": (labels, [1, 6]),
        "masks": (ELEMENTS[element], [1, 6, 5, 5]),
    }
    canvas = {"canvas": (ELEMENTS[element], [1, 3, 16, 24])}
    return _model(mask_projection.NAME, inputs, canvas, attributes, function, functions)


def roi_align_model(
    element: str, functions: bool = True, aligned: bool = False, ratio: int = 2
) -> ModelProto:
    """p2..p5 of the type, boxes -> pooled [5, 8, 3, 3]."""
    attributes = {"output_size": 3, "sampling_ratio": ratio, "canonical_level": 4, "canonical_size": 224}
    if aligned:
        attributes["aligned"] = 1
    sides = {"p2": 32, "p3": 16, "p4": 8, "p5": 4}
    inputs = {name: (ELEMENTS[element], [1, 8, side, side]) for name, side in sides.items()}
    inputs["boxes"] = (TensorProto.FLOAT, [1, 5, 4])
    pooled = {"pooled": (ELEMENTS[element], [5, 8, 3, 3])}
    function = multilevel_roi_align.function_proto(aligned, ratio == 0)
    return _model(multilevel_roi_align.NAME, inputs, pooled, attributes, function, functions)
