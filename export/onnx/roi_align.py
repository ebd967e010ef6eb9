# SPDX-License-Identifier: Apache-2.0
"""ONNX form of ``imp_trt::multilevel_roi_align``: a node and a function of standard operators.

The body reads only the level that each box belongs to. All levels form one table with a row of C channels
per cell, so that a sample is a row index. Each output cell is a product of 2 * ratio * ratio weights with as
many gathered rows, once for the upper and once for the lower row of the bilinear samples (both at once would
double the largest temporary and is not faster). ``roi_align_adaptive`` has the body with adaptive sampling.
"""

from __future__ import annotations

from typing import Any

import torch
from onnx import FunctionProto, ModelProto, TensorProto
from onnxscript import ir

import imp_trt.ops.roi_align.torch  # noqa: F401  # registers the torch operator
from imp_trt.errors import ExportError
from imp_trt.export.onnx.function_builder import (
    DOMAIN,
    PLUGIN_ATTRIBUTES,
    Operators,
    Tensors,
    TranslationTable,
    build_function,
    cast,
    custom_op,
)
from imp_trt.export.onnx.roi_align_adaptive import write_body as write_adaptive_body

NAME = "ImpMultilevelRoiAlign"
ATTRIBUTES = ("output_size", "sampling_ratio", "canonical_level", "canonical_size")
ALIGNED = "aligned"
"""Attribute of the nodes with aligned boxes; a node without it has others. It is a constant of the body."""
INPUTS = ("p2", "p3", "p4", "p5", "boxes")

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64
_FEATURES = (TensorProto.FLOAT, TensorProto.FLOAT16)  # for MatMul in ONNX Runtime, and for the plugin


def function_proto(aligned: bool = False, adaptive: bool = False) -> FunctionProto:
    """The function ``imp_trt.ImpMultilevelRoiAlign``: inputs, attributes and result as the torch operator's.

    One body is used by all calls: sizes come from attribute references and from the shapes of the inputs.

    Args:
        aligned: whether the boxes of all calls are aligned.
        adaptive: whether the sampling ratio of all calls is 0.
    """
    # A body need not read these attributes, but ONNX wants them declared where a node has them.
    attributes = (*ATTRIBUTES, ALIGNED) if aligned else ATTRIBUTES
    body = _adaptive_body if adaptive else _body
    return build_function(NAME, attributes, INPUTS, "pooled", lambda op, t: body(op, t, aligned))


# B images of N boxes, M = B * N, S = output_size, R = sampling_ratio, C channels. The comment at the end of a
# line is the shape of its result. Without one it is a scalar, or a vector of one value (v1, Sv) or of sizes.


def _body(op: Operators, t: Tensors, aligned: bool) -> None:
    _constants(op, t)
    _levels(op, t)
    _level_tables(op, t)
    _samples(op, t)
    _axis(op, t, "x", t.W, aligned)
    _axis(op, t, "y", t.H, aligned)
    _columns(op, t)
    _row(op, t, "low")
    _row(op, t, "high")
    t.sum = op.Add(t.low_sum, t.high_sum)  # [M*S*S, 1, C]
    t.grid_shape = op.Concat(t.rest, t.Sv, t.Sv, t.Cv, axis=0)
    t.grid = op.Reshape(t.sum, t.grid_shape)  # [M, S, S, C]
    t.pooled = op.Transpose(t.grid, perm=[0, 3, 1, 2])  # [M, C, S, S]


def _constants(op: Operators, t: Tensors) -> None:
    t.zero, t.one = (op.Constant(value_int=i) for i in (0, 1))
    t.v0, t.v1, t.v2, t.rest = (op.Constant(value_ints=[i]) for i in (0, 1, 2, -1))
    t.column = op.Constant(value_ints=[-1, 1])
    t.zero_f, t.half_f, t.one_f = (op.Constant(value_float=x) for x in (0.0, 0.5, 1.0))
    t.two_f, t.minus_one_f = (op.Constant(value_float=x) for x in (2.0, -1.0))
    t.S = op.attribute("output_size", "INT")
    t.R = op.attribute("sampling_ratio", "INT")
    t.level0 = op.attribute("canonical_level", "INT")
    t.size0 = op.attribute("canonical_size", "INT")
    t.Sv = op.Reshape(t.S, t.v1)
    t.Rv = op.Reshape(t.R, t.v1)
    t.R2v = op.Mul(t.Rv, t.v2)
    t.Sf = op.Cast(t.S, to=FLOAT)
    t.Rf = op.Cast(t.R, to=FLOAT)
    t.Bv = op.Shape(t.boxes, start=0, end=1)
    t.Nv = op.Shape(t.boxes, start=1, end=2)
    t.Cv = op.Shape(t.p2, start=1, end=2)


def _levels(op: Operators, t: Tensors) -> None:
    """The level of every box, 0 for p2 to 3 for p5.

    Level k (p3, p4, p5) is reached when side / size0 >= 2^(k - level0 - 1e-6), which is torchvision's
    floor(level0 + log2(side / size0) + 1e-6) without the logarithm of 0. A NaN compares false: p2.
    """
    t.quads = op.Constant(value_ints=[-1, 4])
    t.ones4 = op.Constant(value_ints=[1, 1, 1, 1])
    t.flat = op.Reshape(t.boxes, t.quads)  # [M, 4]
    t.x0, t.y0, t.x1, t.y1 = op.Split(t.flat, t.ones4, axis=1, outputs=4)  # [M, 1] each
    t.width = op.Sub(t.x1, t.x0)  # [M, 1]
    t.height = op.Sub(t.y1, t.y0)  # [M, 1]
    t.area = op.Mul(t.width, t.height)  # [M, 1]
    t.side = op.Sqrt(t.area)  # [M, 1]
    t.level0_f = op.Cast(t.level0, to=FLOAT)
    t.size0_f = op.Cast(t.size0, to=FLOAT)
    t.relative = op.Div(t.side, t.size0_f)  # [M, 1]
    t.upper_levels = op.Constant(value_floats=[2.999999, 3.999999, 4.999999])
    t.exponents = op.Sub(t.upper_levels, t.level0_f)  # [3]
    t.bounds = op.Pow(t.two_f, t.exponents)  # [3]
    t.reached = op.GreaterOrEqual(t.relative, t.bounds)  # [M, 3]
    t.reached_i = op.Cast(t.reached, to=INT64)  # [M, 3]
    t.level = op.ReduceSum(t.reached_i, t.v1, keepdims=1)  # [M, 1]


def _level_tables(op: Operators, t: Tensors) -> None:
    """Table of all cells, and per box: size, scale and first table row of its level, in its image's part."""
    for level in "2345":
        t[f"h{level}"] = op.Shape(t[f"p{level}"], start=2, end=3)
    for level in "2345":
        t[f"w{level}"] = op.Shape(t[f"p{level}"], start=3, end=4)
    for level in "2345":
        t[f"n{level}"] = op.Mul(t[f"h{level}"], t[f"w{level}"])
    t.begin4 = op.Add(t.n2, t.n3)
    t.begin5 = op.Add(t.begin4, t.n4)
    t.cells = op.Add(t.begin5, t.n5)
    t.heights = op.Concat(t.h2, t.h3, t.h4, t.h5, axis=0)  # [4]
    t.widths = op.Concat(t.w2, t.w3, t.w4, t.w5, axis=0)  # [4]
    t.begins = op.Concat(t.v0, t.n2, t.begin4, t.begin5, axis=0)  # [4]
    t.scales = op.Constant(value_floats=[0.25, 0.125, 0.0625, 0.03125])
    t.H = op.Gather(t.heights, t.level, axis=0)  # [M, 1]
    t.W = op.Gather(t.widths, t.level, axis=0)  # [M, 1]
    t.begin = op.Gather(t.begins, t.level, axis=0)  # [M, 1]
    t.scale = op.Gather(t.scales, t.level, axis=0)  # [M, 1]
    t.B = op.Squeeze(t.Bv)
    t.images = op.Range(t.zero, t.B, t.one)  # [B]
    t.image_begins = op.Mul(t.images, t.cells)  # [B]
    t.image_column = op.Reshape(t.image_begins, t.column)  # [B, 1]
    t.BN = op.Concat(t.Bv, t.Nv, axis=0)
    t.image_grid = op.Expand(t.image_column, t.BN)  # [B, N]
    t.image_begin = op.Reshape(t.image_grid, t.column)  # [M, 1]
    t.first_row = op.Add(t.begin, t.image_begin)  # [M, 1]
    t.no_change = op.Constant(value_ints=[0, 0, -1])
    for level in "2345":
        t[f"f{level}"] = op.Reshape(t[f"p{level}"], t.no_change)  # [B, C, n]
    t.planes = op.Concat(t.f2, t.f3, t.f4, t.f5, axis=2)  # [B, C, cells]
    t.rows = op.Transpose(t.planes, perm=[0, 2, 1])  # [B, cells, C]
    t.table_shape = op.Concat(t.rest, t.Cv, axis=0)
    t.table = op.Reshape(t.rows, t.table_shape)  # [B * cells, C]


def _samples(op: Operators, t: Tensors) -> None:
    """Sample t of an axis is sub-sample t % R of cell t / R."""
    t.SR = op.Mul(t.S, t.R)
    t.t = op.Range(t.zero, t.SR, t.one)  # [S*R], as all below
    t.cell = op.Div(t.t, t.R)
    t.cell_first = op.Mul(t.cell, t.R)
    t.sub = op.Sub(t.t, t.cell_first)
    t.cell_f = op.Cast(t.cell, to=FLOAT)
    t.sub_f = op.Cast(t.sub, to=FLOAT)
    t.sub_mid = op.Add(t.sub_f, t.half_f)


def _axis(op: Operators, t: Tensors, axis: str, size: ir.Value, aligned: bool) -> None:
    """One axis: sample positions, then low and high tap with weights, as torchvision's bilinear_interpolate.

    Nothing counts outside [-1, size]; inside it, positions are clamped to the border cells. The comparisons
    come first, so that a NaN or infinite position is replaced before it becomes an index.
    """
    a = t.under(axis)
    if aligned:
        a.first = op.Mul(t[f"{axis}0"], t.scale)  # [M, 1]
        a.second = op.Mul(t[f"{axis}1"], t.scale)  # [M, 1]
        a.begin = op.Sub(a.first, t.half_f)  # [M, 1]
        a.end = op.Sub(a.second, t.half_f)  # [M, 1]
        a.length = op.Sub(a.end, a.begin)  # [M, 1]
    else:
        a.begin = op.Mul(t[f"{axis}0"], t.scale)  # [M, 1]
        a.end = op.Mul(t[f"{axis}1"], t.scale)  # [M, 1]
        a.extent = op.Sub(a.end, a.begin)  # [M, 1]
        a.length = op.Max(a.extent, t.one_f)  # [M, 1]
    a.bin = op.Div(a.length, t.Sf)  # [M, 1]
    a.cell = op.Mul(t.cell_f, a.bin)  # [M, S*R], as all below without a shape
    a.sub_r = op.Mul(t.sub_mid, a.bin)
    a.sub = op.Div(a.sub_r, t.Rf)
    a.base = op.Add(a.begin, a.cell)
    a.at = op.Add(a.base, a.sub)
    a.size = op.Cast(size, to=FLOAT)  # [M, 1]
    a.after = op.GreaterOrEqual(a.at, t.minus_one_f)
    a.before = op.LessOrEqual(a.at, a.size)
    a.inside = op.And(a.after, a.before)
    a.finite = op.Where(a.inside, a.at, t.zero_f)
    a.last = op.Sub(a.size, t.one_f)  # [M, 1]
    a.floor0 = op.Max(a.finite, t.zero_f)
    a.pos = op.Min(a.floor0, a.last)
    a.low = op.Floor(a.pos)
    a.next = op.Add(a.low, t.one_f)
    a.high = op.Min(a.next, a.last)
    a.high_w = op.Sub(a.pos, a.low)
    a.low_w = op.Sub(t.one_f, a.high_w)
    a.high_in = op.Where(a.inside, a.high_w, t.zero_f)
    a.low_in = op.Where(a.inside, a.low_w, t.zero_f)
    a.high_mean = op.Div(a.high_in, t.Rf)
    a.low_mean = op.Div(a.low_in, t.Rf)
    a.low_i = op.Cast(a.low, to=INT64)
    a.high_i = op.Cast(a.high, to=INT64)


def _columns(op: Operators, t: Tensors) -> None:
    """Low and high tap of the R samples of a cell side by side, and the shapes that cells are combined in."""
    x = t.under("x")
    x.shape = op.Concat(t.rest, t.v1, t.Sv, t.v1, t.R2v, axis=0)
    x.low_u = op.Unsqueeze(x.low_i, t.rest)  # [M, S*R, 1]
    x.high_u = op.Unsqueeze(x.high_i, t.rest)  # [M, S*R, 1]
    x.pair = op.Concat(x.low_u, x.high_u, axis=2)  # [M, S*R, 2]
    x.index = op.Reshape(x.pair, x.shape)  # [M, 1, S, 1, 2R]
    x.low_wu = op.Unsqueeze(x.low_mean, t.rest)  # [M, S*R, 1]
    x.high_wu = op.Unsqueeze(x.high_mean, t.rest)  # [M, S*R, 1]
    x.pair_w = op.Concat(x.low_wu, x.high_wu, axis=2)  # [M, S*R, 2]
    x.weight = op.Reshape(x.pair_w, x.shape)  # [M, 1, S, 1, 2R]
    t.y_shape = op.Concat(t.rest, t.Sv, t.v1, t.Rv, t.v1, axis=0)
    t.T = op.Mul(t.Rv, t.R2v)
    t.taps_shape = op.Concat(t.rest, t.T, axis=0)
    t.weights_shape = op.Concat(t.rest, t.v1, t.T, axis=0)


def _row(op: Operators, t: Tensors, row: str) -> None:
    """One of the two rows of taps, "low" or "high": weights times gathered rows of the table."""
    r = t.under(row)
    r.line = op.Mul(t[f"y_{row}_i"], t.W)  # [M, S*R]
    r.row = op.Add(r.line, t.first_row)  # [M, S*R]
    r.row5 = op.Reshape(r.row, t.y_shape)  # [M, S, 1, R, 1]
    r.weight5 = op.Reshape(t[f"y_{row}_mean"], t.y_shape)  # [M, S, 1, R, 1]
    r.index5 = op.Add(r.row5, t.x_index)  # [M, S, S, R, 2R]
    r.both = op.Mul(r.weight5, t.x_weight)  # [M, S, S, R, 2R]
    r.index = op.Reshape(r.index5, t.taps_shape)  # [M*S*S, 2*R*R]
    r.weights32 = op.Reshape(r.both, t.weights_shape)  # [M*S*S, 1, 2*R*R]
    r.weights = op.CastLike(r.weights32, t.p2)  # [M*S*S, 1, 2*R*R]
    r.taps = op.Gather(t.table, r.index, axis=0)  # [M*S*S, 2*R*R, C]
    r.sum = op.MatMul(r.weights, r.taps)  # [M*S*S, 1, C]


def _adaptive_body(op: Operators, t: Tensors, aligned: bool) -> None:
    t.v1 = op.Constant(value_ints=[1])
    t.zero_f, t.two_f = (op.Constant(value_float=x) for x in (0.0, 2.0))
    t.level0 = op.attribute("canonical_level", "INT")
    t.size0 = op.attribute("canonical_size", "INT")
    _levels(op, t)
    write_adaptive_body(op, t, aligned)


def function_for_model(model: ModelProto) -> FunctionProto | None:
    """The function that the ``ImpMultilevelRoiAlign`` nodes of a model's graph call; None without nodes.

    Raises:
        ExportError: some of them have aligned boxes or adaptive sampling, and some have not.
    """
    calls = [node for node in model.graph.node if node.op_type == NAME and node.domain == DOMAIN]
    aligned = {any(a.name == ALIGNED and a.i for a in node.attribute) for node in calls}
    adaptive = {any(a.name == "sampling_ratio" and a.i == 0 for a in node.attribute) for node in calls}
    for name, found in (("aligned boxes", aligned), ("adaptive sampling", adaptive)):
        if len(found) > 1:
            raise ExportError(
                f"nodes of {NAME}",
                expected=f"{name} in all calls or in none",
                got="both",
                fix="call pyramid_roi_align with the same aligned, and sampling_ratio 0 or not, everywhere",
            )
    return function_proto(aligned.pop(), adaptive.pop()) if calls else None


def translation_table(keep_bfloat16: bool = False) -> TranslationTable:
    """Entry for ``torch.onnx.export(custom_translation_table=...)``: the operator becomes one node.

    The torch operator takes more types than the node: boxes are cast to float32, all levels to one type.

    Args:
        keep_bfloat16: bfloat16 features stay, for TensorRT. ONNX Runtime does not multiply matrices of them:
            by default they are computed in float32 and cast back.
    """
    features = (*_FEATURES, TensorProto.BFLOAT16) if keep_bfloat16 else _FEATURES
    node = custom_op(NAME, INPUTS, dict.fromkeys(ATTRIBUTES, "INT"), "pooled", like="p2")
    aligned_node = custom_op(NAME, INPUTS, dict.fromkeys((*ATTRIBUTES, ALIGNED), "INT"), "pooled", like="p2")

    # torch.onnx.export reads these annotations, and warns of types that are not its own.
    def translate(
        p2: Any,
        p3: Any,
        p4: Any,
        p5: Any,
        boxes: Any,
        output_size: int,
        sampling_ratio: int,
        canonical_level: int,
        canonical_size: int,
        aligned: bool = False,
    ) -> Any:
        sizes = (output_size, sampling_ratio, canonical_level, canonical_size)
        attributes: dict[str, int] = dict(zip(ATTRIBUTES, sizes, strict=True))
        kind = p2.dtype if p2.dtype in features else TensorProto.FLOAT
        levels = [cast(level, kind) for level in (p2, p3, p4, p5)]
        if aligned:
            attributes[ALIGNED] = 1
        make = aligned_node if aligned else node
        pooled = make(*levels, cast(boxes, TensorProto.FLOAT), **attributes, **PLUGIN_ATTRIBUTES)
        return pooled if kind == p2.dtype else cast(pooled, p2.dtype)

    return {torch.ops.imp_trt.multilevel_roi_align.default: translate}
