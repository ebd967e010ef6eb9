# SPDX-License-Identifier: Apache-2.0
"""ONNX form of ``imp_trt::instance_mask_projection``: a node and a function of standard operators.

Instances are first sorted by class into slots; each class starts at a multiple of the block size, so that a
block has one class only. The maximum over a block then needs no comparison of classes: only the few block
maxima are compared with every class, not every instance. Masks are sampled with two small matrix products
(bilinear, nearest) or two lookups in tables of range maxima (rect). The canvas is computed in bands of
columns, which limits the size of the temporaries.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from onnx import FunctionProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper

import imp_trt.ops.mask_projection.torch  # noqa: F401  # registers the torch operator
from imp_trt.errors import ExportError
from imp_trt.export.onnx.function_builder import (
    DOMAIN,
    PLUGIN_ATTRIBUTES,
    TranslationTable,
    build_function,
    cast,
    custom_op,
)
from imp_trt.export.onnx.mask_projection_body import write_body
from imp_trt.ops.mask_projection.options import SAMPLING_RULES, Sampling

NAME = "InstanceMaskProjection"
ATTRIBUTES = {"num_classes": "INT", "canvas_h": "INT", "canvas_w": "INT", "spatial_scale": "FLOAT"}
INPUTS = ("boxes", "scores", "labels", "masks")

_BAND_VALUES = 2_000_000  # float32 values of the largest temporary, up to
_MAX_BANDS = 32
_MAX_VALUE: dict[int, float] = {  # largest finite value of each type of a canvas
    TensorProto.FLOAT: 3.4028234663852886e38,
    TensorProto.FLOAT16: 65504.0,
    TensorProto.BFLOAT16: 3.3895313892515355e38,
}


@dataclass(frozen=True)
class Shapes:
    """Sizes of a call. A body is correct for all sizes; these make it fast and its temporaries small."""

    batch: int = 1
    instances: int = 100
    num_classes: int = 8
    canvas: tuple[int, int] = (64, 128)

    def block(self) -> int:
        """Slots per block: larger blocks need more padding, smaller ones more comparisons per class.

        Measured in ONNX Runtime: a block maximum costs 0.8 of a slot per class.
        """
        return min((2, 4, 8, 16, 32), key=lambda b: self._blocks(b) * (b + 0.8 * self.num_classes))

    def bands(self) -> int:
        """Number of bands of columns."""
        height, width = self.canvas
        block = self.block()
        values = self.batch * self._blocks(block) * max(block, self.num_classes) * height * width
        columns = max(1, _BAND_VALUES * width // max(values, 1))
        return min(-(-width // columns), _MAX_BANDS)

    def _blocks(self, block: int) -> int:
        return max(1, (self.instances + (self.num_classes + 1) * (block - 1)) // block)


def function_proto(
    sampling: Sampling = "bilinear",
    dtype: int = TensorProto.FLOAT,
    cells: int = 28,
    shapes: Shapes | None = None,
) -> FunctionProto:
    """The function ``imp_trt.InstanceMaskProjection``; inputs, attributes and result as the torch operator's.

    One body is used by all calls with the same sampling rule: classes, canvas and scale are attribute
    references.

    Args:
        sampling: "bilinear", "nearest" or "rect".
        dtype: onnx type of masks and canvas, FLOAT, FLOAT16 or BFLOAT16; coordinates and scores are
            float32.
        cells: P, the side of a mask; exact for rect, unused by the others.
        shapes: the sizes to optimize for.

    Raises:
        ExportError: unknown sampling rule or type.
    """
    if sampling not in SAMPLING_RULES:
        raise ExportError(f"sampling rule of {NAME}", expected=" or ".join(SAMPLING_RULES), got=sampling)
    if dtype not in _MAX_VALUE:
        expected = " or ".join(TensorProto.DataType.Name(t) for t in _MAX_VALUE)
        raise ExportError(f"masks of {NAME}", expected=expected, got=TensorProto.DataType.Name(dtype))
    shapes = shapes or Shapes()
    block, bands, limit = shapes.block(), shapes.bands(), _MAX_VALUE[dtype]
    write = partial(
        write_body, sampling=sampling, cells=cells, block=block, bands=bands, dtype=dtype, limit=limit
    )
    return build_function(NAME, ATTRIBUTES, INPUTS, "canvas", write)


def function_for_model(model: ModelProto) -> FunctionProto | None:
    """The function that the ``InstanceMaskProjection`` nodes of a model's graph call; None without nodes.

    Sizes and type come from the shapes in the model, or else from the defaults.

    Raises:
        ExportError: two nodes differ in sampling rule, type or mask size: the file can have only one body.
    """
    nodes = [node for node in model.graph.node if node.op_type == NAME and node.domain == DOMAIN]
    if not nodes:
        return None
    values = {v.name: v for v in (*model.graph.value_info, *model.graph.input, *model.graph.output)}
    calls = [_call(node, values.get(node.input[3])) for node in nodes]
    if len({call[:3] for call in calls}) > 1:
        actual = [f"{c[0]}, {TensorProto.DataType.Name(c[1])}, {c[2]} cells" for c in calls]
        raise ExportError(
            f"calls of {NAME}",
            expected="one sampling rule, type and mask size per file",
            got="; ".join(actual),
            fix="use the same sampling rule, mask type and mask size in all projections of the model",
        )
    sampling, dtype, cells, shapes = max(calls, key=lambda call: call[3].bands())
    return function_proto(sampling, dtype, cells, shapes)


def _call(node: NodeProto, masks: ValueInfoProto | None) -> tuple[Sampling, int, int, Shapes]:
    """Sampling rule, type, mask size and sizes of one node."""
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    sides, dtype = [1, 100, 28, 28], int(TensorProto.FLOAT)  # [B, N, P, P]
    if masks is not None:
        known = [d.dim_value for d in masks.type.tensor_type.shape.dim]
        sides = [side or default for side, default in zip(known, sides, strict=False)] or sides
        dtype = masks.type.tensor_type.elem_type or dtype
    batch, instances, _, cells = sides
    canvas = (attributes["canvas_h"], attributes["canvas_w"])
    shapes = Shapes(batch, instances, attributes["num_classes"], canvas)
    sampling: Sampling = attributes["sampling"].decode()
    return sampling, dtype, cells, shapes


def translation_table() -> TranslationTable:
    """Entry for ``torch.onnx.export(custom_translation_table=...)``: the operator becomes one node.

    The torch operator takes more types than the node. Boxes and scores are cast to float32, labels of other
    types than int32 to int64, and float64 masks to float32, whose canvas is cast back.
    """
    node = custom_op(NAME, INPUTS, {**ATTRIBUTES, "sampling": "STRING"}, "canvas", like="masks")

    # torch.onnx.export reads these annotations, and warns of types that are not its own.
    def translate(
        boxes: Any,
        scores: Any,
        labels: Any,
        masks: Any,
        num_classes: int,
        canvas_h: int,
        canvas_w: int,
        spatial_scale: float,
        sampling: str,
    ) -> Any:
        canvas = node(
            cast(boxes, TensorProto.FLOAT),
            cast(scores, TensorProto.FLOAT),
            labels if labels.dtype == TensorProto.INT32 else cast(labels, TensorProto.INT64),
            masks if masks.dtype in _MAX_VALUE else cast(masks, TensorProto.FLOAT),
            num_classes=num_classes,
            canvas_h=canvas_h,
            canvas_w=canvas_w,
            spatial_scale=spatial_scale,
            sampling=sampling,
            **PLUGIN_ATTRIBUTES,
        )
        return canvas if masks.dtype in _MAX_VALUE else cast(canvas, masks.dtype)

    return {torch.ops.imp_trt.instance_mask_projection.default: translate}
