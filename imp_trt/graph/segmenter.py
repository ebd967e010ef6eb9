# SPDX-License-Identifier: Apache-2.0
"""The detections of an instance segmenter as operands of the projection: [B, N, ...] tensors of its types."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from onnx import TensorProto
from onnxscript import ir

from imp_trt.errors import InvalidInput
from imp_trt.export.onnx.function_builder import Operators
from imp_trt.graph.operands import (
    FLOATS,
    INTEGERS,
    Columns,
    GraphTensors,
    Operand,
    Prototypes,
    batched,
    cast,
    check_kind,
    fits,
    select,
    without_axis,
)


@dataclass(frozen=True)
class DetectionOperands:
    """Operands of the operator.

    Attributes:
        boxes: [B, N, 4].
        scores: [B, N].
        labels: [B, N] int64.
        masks: [B, N, P, P].
        batch: B, below 1 if unknown.
    """

    boxes: Operand
    scores: Operand
    labels: Operand
    masks: Operand
    batch: int


def read_detections(
    op: Operators,
    tensors: GraphTensors,
    sources: Mapping[str, str | Columns],
    prototypes: Prototypes | None = None,
) -> DetectionOperands:
    """Finds the tensors, checks them, and writes the nodes that bring them to the operator's shapes.

    Args:
        op: where the nodes are written.
        tensors: of the graph.
        sources: of boxes, scores, labels and masks.
        prototypes: if masks are coefficients.

    Raises:
        InvalidInput: a tensor does not exist or has another shape or type.
    """
    found = {what: select(op, tensors, what, source) for what, source in sources.items()}
    boxes = found["boxes"]
    check_kind(boxes, FLOATS, "floating point")
    if len(boxes.shape) not in (2, 3) or not fits(boxes.shape[-1], 4):
        raise boxes.problem("[N, 4] or [B, N, 4]")
    lead = len(boxes.shape) - 1
    scores = _vector(op, found["scores"], lead, FLOATS, "floating point")
    labels = _vector(op, found["labels"], lead, (*INTEGERS, *FLOATS), "integers or floating point")
    boxes = batched(op, boxes, 3)
    check_kind(found["masks"], FLOATS, "floating point")
    if prototypes is None:
        masks = _masks(op, found["masks"], lead)
    else:
        masks = _sampled(op, boxes, _coefficients(op, found["masks"], lead), tensors, prototypes)
    for operand in (scores, labels, masks):
        if not all(map(fits, operand.shape[:2], boxes.shape[:2])):
            sizes = ["?" if size < 0 else size for size in boxes.shape[:2]]
            raise operand.problem(f"{sizes} images and instances, as the boxes")
    batch = max(operand.shape[0] for operand in (boxes, scores, labels, masks))
    return DetectionOperands(boxes, scores, cast(op, labels, TensorProto.INT64), masks, batch)


def _vector(op: Operators, operand: Operand, lead: int, kinds: tuple[int, ...], words: str) -> Operand:
    """Scores or labels as [B, N]."""
    check_kind(operand, kinds, words)
    if len(operand.shape) == lead + 1 and fits(operand.shape[-1], 1):
        operand = without_axis(op, operand, lead)
    if len(operand.shape) != lead:
        expected = "[N] or [N, 1]" if lead == 1 else "[B, N] or [B, N, 1]"
        raise operand.problem(f"{expected}, as the boxes")
    return batched(op, operand, 2)


def _masks(op: Operators, operand: Operand, lead: int) -> Operand:
    """Masks as [B, N, P, P]."""
    shape, images = operand.shape, "B, " * (lead - 1)
    if len(shape) == lead + 3 and fits(shape[lead], 1):
        operand = without_axis(op, operand, lead)
    elif len(shape) != lead + 2:
        fix = None
        if len(shape) == lead + 1:
            fix = "for coefficients of prototypes pass prototypes=Prototypes(name)"
        elif len(shape) == lead + 3:
            fix = "take the mask of each instance's class, not those of all classes"
        expected = f"[{images}N, P, P] or [{images}N, 1, P, P], as the boxes"
        raise operand.problem(expected, fix)
    if not fits(operand.shape[-2], operand.shape[-1]) or 0 in operand.shape[-2:]:
        raise operand.problem(
            "square masks of the boxes", fix="take the tensor before the masks are pasted into the image"
        )
    return batched(op, operand, 4)


def _coefficients(op: Operators, operand: Operand, lead: int) -> Operand:
    """Coefficients as [B, N, K] float32."""
    if len(operand.shape) != lead + 1:
        images = "B, " * (lead - 1)
        raise operand.problem(f"coefficients [{images}N, K] of the prototypes, as the boxes")
    return cast(op, batched(op, operand, 3), TensorProto.FLOAT)


def _sampled(
    op: Operators, boxes: Operand, coefficients: Operand, tensors: GraphTensors, source: Prototypes
) -> Operand:
    """Masks [B, N, P, P] float32 of combined prototypes, sampled bilinearly at P x P points of each box.

    Both axes are products with small matrices of bilinear weights: no operator of the detector's runtime is
    needed, and TensorRT has no RoIAlign of its own.
    """
    if source.cells < 1 or not source.spatial_scale > 0:
        expected = "cells >= 1 and spatial_scale > 0"
        raise InvalidInput("prototypes", expected=expected, got=source)
    planes = select(op, tensors, "prototypes", source.name)
    check_kind(planes, FLOATS, "floating point")
    if len(planes.shape) not in (3, 4) or not fits(planes.shape[-3], coefficients.shape[-1]):
        width = coefficients.shape[-1]
        k = "K" if width < 0 else str(width)
        raise planes.problem(f"[{k}, h, w] or [B, {k}, h, w], K as the coefficients")
    planes = cast(op, batched(op, planes, 4), TensorProto.FLOAT)
    if not fits(planes.shape[0], boxes.shape[0]):
        raise planes.problem("as many images as the boxes")
    flat = op.Reshape(planes.value, op.Constant(value_ints=[0, 0, -1]))  # [B, K, h*w]
    logits = op.MatMul(coefficients.value, flat)  # [B, N, h*w]
    instances = op.Shape(coefficients.value, start=0, end=2)
    sides = op.Shape(planes.value, start=2, end=4)
    logits = op.Reshape(logits, op.Concat(instances, sides, axis=0))  # [B, N, h, w]
    corners = cast(op, boxes, TensorProto.FLOAT).value
    low, high = op.Split(corners, op.Constant(value_ints=[2, 2]), axis=2, outputs=2)
    weights = [_bilinear(op, low, op.Sub(high, low), planes.value, axis, source) for axis in (0, 1)]
    columns = op.MatMul(logits, op.Transpose(weights[0], perm=[0, 1, 3, 2]))  # [B, N, h, P]
    masks = op.Sigmoid(op.MatMul(weights[1], columns))  # [B, N, P, P]
    shape = (*coefficients.shape[:2], source.cells, source.cells)
    return replace(coefficients, value=masks, shape=shape)


def _bilinear(
    op: Operators, low: ir.Value, size: ir.Value, planes: ir.Value, axis: int, source: Prototypes
) -> ir.Value:
    """Weights [B, N, P, cells] of prototype cells along x (axis 0) or y, at the centers of mask cells."""
    begin, end, at = (op.Constant(value_ints=[i]) for i in (axis, axis + 1, 2))
    low, size = (op.Slice(value, begin, end, at) for value in (low, size))  # [B, N, 1]
    centers = [(index + 0.5) / source.cells for index in range(source.cells)]
    pixels = op.Add(low, op.Mul(size, op.Constant(value_floats=centers)))  # [B, N, P]
    scaled = op.Mul(pixels, op.Constant(value_float=source.spatial_scale))
    zero, half, one = (op.Constant(value_float=value) for value in (0.0, 0.5, 1.0))
    extent = op.Squeeze(op.Shape(planes, start=3 - axis, end=4 - axis))
    count = op.Cast(extent, to=TensorProto.FLOAT)
    position = op.Min(op.Max(op.Sub(scaled, half), zero), op.Sub(count, one))
    cells = op.Range(zero, count, one)  # [cells]
    distance = op.Abs(op.Sub(op.Unsqueeze(position, op.Constant(value_ints=[3])), cells))
    weights: ir.Value = op.Relu(op.Sub(one, distance))
    return weights
