# SPDX-License-Identifier: Apache-2.0
"""Body of ``ImpMultilevelRoiAlign`` with adaptive sampling: ONNX's RoiAlign on each level.

The number of samples depends on the box, for which the operators of the other body have no shape. TensorRT
has RoiAlign only as a plugin: its engines need this package's.
"""

from __future__ import annotations

from onnx import TensorProto
from onnxscript import ir

from imp_trt.export.onnx.function_builder import Operators, Tensors
from imp_trt.ops.roi_align.torch import REACH, STRIDES

FLOAT = TensorProto.FLOAT
_LARGEST = 3.4028234663852886e38  # of float32


def write_body(op: Operators, t: Tensors, aligned: bool) -> None:
    """The pooling of boxes ``t.flat`` [M, 4], whose ``t.width``, ``t.height`` and ``t.level`` are [M, 1]."""
    _boxes(op, t)
    _images(op, t)
    size = {
        side: ir.RefAttr(side, "output_size", ir.AttributeType.INT)
        for side in ("output_height", "output_width")
    }
    mode = "half_pixel" if aligned else "output_half_pixel"
    before = t.zero_f
    for level, stride in enumerate(STRIDES, 2):
        a = t.under(f"p{level}")
        a.index = op.Constant(value_int=level - 2)
        a.chosen = op.Equal(t.level, a.index)  # [M, 1]
        if aligned:
            _extended(op, a, t, 1.0 / stride)
        a.own = op.And(a.chosen, a.extended if aligned else t.finite)  # [M, 1]
        # The boxes of other levels have no samples, or one in each bin where they are not aligned.
        a.rois = op.Where(a.own, t.near, t.zero_f)  # [M, 4]
        a.features = op.Cast(t[f"p{level}"], to=FLOAT)  # of float16, ONNX Runtime has no RoiAlign
        a.all = op.RoiAlign(  # [M, C, S, S]
            a.features,
            a.rois,
            t.image,
            **size,
            mode="avg",
            sampling_ratio=0,
            spatial_scale=1.0 / stride,
            coordinate_transformation_mode=mode,
        )
        a.own4 = op.Reshape(a.own, t.each)  # [M, 1, 1, 1]
        a.or_before = op.Where(a.own4, a.all, before)  # [M, C, S, S]
        before = a.or_before
    t.pooled = op.CastLike(before, t.p2)  # [M, C, S, S]


def _extended(op: Operators, a: Tensors, t: Tensors, scale: float) -> None:
    """Which boxes have samples on a level: of no sample, OpenVINO takes the mean as 0 / 0."""
    a.scale = op.Constant(value_float=scale)
    a.scaled = op.Mul(t.near, a.scale)  # [M, 4]
    a.corners = op.Sub(a.scaled, t.half_f)  # [M, 4]
    a.low, a.high = op.Split(a.corners, t.pairs, axis=1, outputs=2)  # [M, 2] each
    a.extent = op.Sub(a.high, a.low)  # [M, 2]
    a.least = op.ReduceMin(a.extent, t.v1, keepdims=1)  # [M, 1]
    a.positive = op.Greater(a.least, t.zero_f)  # [M, 1]
    a.extended = op.And(a.positive, t.finite)  # [M, 1]


def _boxes(op: Operators, t: Tensors) -> None:
    """Which boxes are finite, and their corners at most REACH pixels outside of the frame.

    Of a box that is turned inside out along an axis, which ONNX Runtime rejects, the side becomes 0.
    """
    t.half_f = op.Constant(value_float=0.5)
    t.largest = op.Constant(value_float=_LARGEST)
    t.pairs = op.Constant(value_ints=[2, 2])
    t.least = op.Constant(value_float=-float(REACH))
    t.reach = op.Constant(value_float=float(REACH))
    t.stride = op.Constant(value_float=float(STRIDES[0]))
    t.abs_width = op.Abs(t.width)  # [M, 1]
    t.abs_height = op.Abs(t.height)  # [M, 1]
    t.finite_width = op.LessOrEqual(t.abs_width, t.largest)  # [M, 1]; false for NaN
    t.finite_height = op.LessOrEqual(t.abs_height, t.largest)  # [M, 1]
    t.finite = op.And(t.finite_width, t.finite_height)  # [M, 1]
    t.H2 = op.Shape(t.p2, start=2, end=3)
    t.W2 = op.Shape(t.p2, start=3, end=4)
    t.cells = op.Concat(t.W2, t.H2, axis=0)  # [2]
    t.cells_f = op.Cast(t.cells, to=FLOAT)  # [2]
    t.frame = op.Mul(t.cells_f, t.stride)  # [2]
    t.most = op.Add(t.frame, t.reach)  # [2]
    t.low, t.high = op.Split(t.flat, t.pairs, axis=1, outputs=2)  # [M, 2] each, as below
    for side in ("low", "high"):
        t[f"{side}_above"] = op.Max(t[side], t.least)
        t[f"{side}_near"] = op.Min(t[f"{side}_above"], t.most)
    t.high_right = op.Max(t.high_near, t.low_near)
    t.near = op.Concat(t.low_near, t.high_right, axis=1)  # [M, 4]


def _images(op: Operators, t: Tensors) -> None:
    """The image of every box, and the shape of a value for each box."""
    t.zero, t.one = (op.Constant(value_int=i) for i in (0, 1))
    t.rest = op.Constant(value_ints=[-1])
    t.column = op.Constant(value_ints=[-1, 1])
    t.each = op.Constant(value_ints=[-1, 1, 1, 1])
    t.BN = op.Shape(t.boxes, start=0, end=2)
    t.Bv = op.Shape(t.boxes, start=0, end=1)
    t.B = op.Squeeze(t.Bv)
    t.images = op.Range(t.zero, t.B, t.one)  # [B]
    t.image_column = op.Reshape(t.images, t.column)  # [B, 1]
    t.image_grid = op.Expand(t.image_column, t.BN)  # [B, N]
    t.image = op.Reshape(t.image_grid, t.rest)  # [M]
