# SPDX-License-Identifier: Apache-2.0
"""Body of the ONNX function ``InstanceMaskProjection``, in sections; see mask_projection.py for the plan.

Letters: B batch, N instances, P cells a side, C classes, H x W canvas, S slots = K blocks of D, w columns of
a band. A comment behind a line gives the shape of its result. Lines without one give scalars, or vectors of
one value (v1, Sv) or of sizes.
"""

from __future__ import annotations

from collections.abc import Sequence

from onnx import TensorProto
from onnxscript import ir

from imp_trt.export.onnx.function_builder import Operators, Tensors

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64


def write_body(
    op: Operators, t: Tensors, sampling: str, cells: int, block: int, bands: int, dtype: int, limit: float
) -> None:
    """Writes the body.

    Args:
        cells, block: P and D.
        bands: how many bands of columns.
        dtype, limit: onnx type of the canvas and its largest finite value.
    """
    _constants(op, t, block)
    _members(op, t)
    _slots(op, t)
    _ceiling(op, t)
    _boxes_of_slots(op, t)
    _masks_of_slots(op, t)
    _pixels(op, t, bands)
    columns = [t.under(f"x{i}") for i in range(bands)]
    if sampling == "rect":
        _range_maxima(op, t, columns, levels=cells.bit_length())
    else:
        _weighted_sums(op, t, columns, bilinear=sampling == "bilinear")
    for x in columns:
        _class_maxima(op, t, x)
    _result(op, t, columns, dtype, limit)


def _constants(op: Operators, t: Tensors, block: int) -> None:
    """Sizes of the call. Blocks that are begun take up to D - 1 slots more for each class."""
    t.zero, t.one = (op.Constant(value_int=i) for i in (0, 1))
    t.v1, t.v2, t.v3 = (op.Constant(value_ints=[i]) for i in (1, 2, 3))
    t.v34 = op.Constant(value_ints=[3, 4])
    t.rest = op.Constant(value_ints=[-1])
    t.zero_f, t.half_f, t.minus_one_f = (op.Constant(value_float=x) for x in (0.0, 0.5, -1.0))
    t.largest = op.Constant(value_float=3.4028234663852886e38)
    t.C = op.attribute("num_classes", "INT")
    t.H = op.attribute("canvas_h", "INT")
    t.W = op.attribute("canvas_w", "INT")
    t.scale = op.attribute("spatial_scale", "FLOAT")
    t.Hv = op.Reshape(t.H, t.v1)
    t.Bv = op.Shape(t.masks, start=0, end=1)
    t.Nv = op.Shape(t.masks, start=1, end=2)
    t.Pv = op.Shape(t.masks, start=3, end=4)
    t.N = op.Squeeze(t.Nv)
    t.P = op.Squeeze(t.Pv)
    t.P_f = op.Cast(t.P, to=FLOAT)
    t.block = op.Constant(value_int=block)
    t.block_v = op.Constant(value_ints=[block])
    t.block_f = op.Constant(value_float=float(block))
    t.padding = op.Sub(t.block, t.one)
    t.class_padding = op.Mul(t.C, t.padding)
    t.most = op.Add(t.N, t.class_padding)
    t.most_up = op.Add(t.most, t.padding)
    t.some = op.Max(t.most_up, t.block)
    t.K = op.Div(t.some, t.block)
    t.S = op.Mul(t.K, t.block)
    t.Kv = op.Reshape(t.K, t.v1)
    t.Sv = op.Reshape(t.S, t.v1)


def _members(op: Operators, t: Tensors) -> None:
    """member: the instance is valid and of the class. A comparison with NaN is false."""
    t.corners = op.Mul(t.boxes, t.scale)  # [B, N, 4]
    t.two_each = op.Constant(value_ints=[2, 2])
    t.low, t.high = op.Split(t.corners, t.two_each, axis=2, outputs=2)  # [B, N, 2] each
    t.size = op.Sub(t.high, t.low)  # [B, N, 2]
    t.score = op.Unsqueeze(t.scores, t.v2)  # [B, N, 1]
    t.values = op.Concat(t.corners, t.size, t.score, axis=2)  # [B, N, 7]
    t.magnitudes = op.Abs(t.values)  # [B, N, 7]
    t.finite = op.LessOrEqual(t.magnitudes, t.largest)  # [B, N, 7]
    t.positive = op.Greater(t.size, t.zero_f)  # [B, N, 2]
    t.finite_f = op.Cast(t.finite, to=FLOAT)  # [B, N, 7]
    t.positive_f = op.Cast(t.positive, to=FLOAT)  # [B, N, 2]
    t.tests = op.Concat(t.finite_f, t.positive_f, axis=2)  # [B, N, 9]
    t.passed = op.ReduceMin(t.tests, t.v2, keepdims=1)  # [B, N, 1]
    t.sound = op.Greater(t.passed, t.half_f)  # [B, N, 1]
    t.labels_i = op.Cast(t.labels, to=INT64)  # [B, N]
    t.label = op.Unsqueeze(t.labels_i, t.v2)  # [B, N, 1]
    t.classes = op.Range(t.zero, t.C, t.one)  # [C]
    t.of_class = op.Equal(t.label, t.classes)  # [B, N, C]
    t.member = op.And(t.of_class, t.sound)  # [B, N, C]
    t.member_f = op.Cast(t.member, to=FLOAT)  # [B, N, C]
    t.valid_f = op.ReduceMax(t.member_f, t.v2, keepdims=1)  # [B, N, 1]
    t.valid = op.Greater(t.valid_f, t.half_f)  # [B, N, 1]


def _slots(op: Operators, t: Tensors) -> None:
    """source: 1 + the instance in a slot, 0 for an empty slot.

    Sorting without a sort: an instance's slot is its class's first slot plus its rank in the class. Counts
    are small integers in float32, exact.
    """
    t.n = op.Range(t.zero, t.N, t.one)  # [N]
    t.n_column = op.Unsqueeze(t.n, t.v1)  # [N, 1]
    t.earlier = op.Greater(t.n_column, t.n)  # [N, N]
    t.earlier_f = op.Cast(t.earlier, to=FLOAT)  # [N, N]
    t.rank = op.MatMul(t.earlier_f, t.member_f)  # [B, N, C]
    t.members = op.ReduceSum(t.member_f, t.v1, keepdims=1)  # [B, 1, C]
    t.blocks_exact = op.Div(t.members, t.block_f)  # [B, 1, C]
    t.blocks = op.Ceil(t.blocks_exact)  # [B, 1, C]
    t.class_column = op.Unsqueeze(t.classes, t.v1)  # [C, 1]
    t.before = op.Less(t.class_column, t.classes)  # [C, C]
    t.before_f = op.Cast(t.before, to=FLOAT)  # [C, C]
    t.begin = op.MatMul(t.blocks, t.before_f)  # [B, 1, C]
    t.end = op.Add(t.begin, t.blocks)  # [B, 1, C]
    t.first_slot = op.Mul(t.begin, t.block_f)  # [B, 1, C]
    t.slot_of_class = op.Add(t.rank, t.first_slot)  # [B, N, C]
    t.slot_or_0 = op.Where(t.member, t.slot_of_class, t.zero_f)  # [B, N, C]
    t.slot_sum = op.ReduceSum(t.slot_or_0, t.v2, keepdims=1)  # [B, N, 1]
    t.slot = op.Where(t.valid, t.slot_sum, t.minus_one_f)  # [B, N, 1]
    t.s = op.Range(t.zero, t.S, t.one)  # [S]
    t.s_f = op.Cast(t.s, to=FLOAT)  # [S]
    t.here = op.Equal(t.slot, t.s_f)  # [B, N, S]
    t.B = op.Squeeze(t.Bv)
    t.b = op.Range(t.zero, t.B, t.one)  # [B]
    t.b_column = op.Unsqueeze(t.b, t.v1)  # [B, 1]
    t.b_begin = op.Mul(t.b_column, t.N)  # [B, 1]
    t.n_next = op.Add(t.n, t.one)  # [N]
    t.ids = op.Add(t.b_begin, t.n_next)  # [B, N]
    t.ids_f = op.Cast(t.ids, to=FLOAT)  # [B, N]
    t.id = op.Unsqueeze(t.ids_f, t.v2)  # [B, N, 1]
    t.id_here = op.Where(t.here, t.id, t.zero_f)  # [B, N, S]
    t.empty_shape = op.Concat(t.Bv, t.v1, t.Sv, axis=0)
    t.empty = op.Expand(t.zero_f, t.empty_shape)  # [B, 1, S]
    t.id_or_empty = op.Concat(t.empty, t.id_here, axis=1)  # [B, 1 + N, S]
    t.source_f = op.ReduceMax(t.id_or_empty, t.v1, keepdims=0)  # [B, S]
    t.source = op.Cast(t.source_f, to=INT64)  # [B, S]


def _ceiling(op: Operators, t: Tensors) -> None:
    """ceiling: the largest float where the block is of the class, else 0."""
    t.k = op.Range(t.zero, t.K, t.one)  # [K]
    t.k_f = op.Cast(t.k, to=FLOAT)  # [K]
    t.k_column = op.Unsqueeze(t.k_f, t.v1)  # [K, 1]
    t.from_begin = op.GreaterOrEqual(t.k_column, t.begin)  # [B, K, C]
    t.to_end = op.Less(t.k_column, t.end)  # [B, K, C]
    t.block_is = op.And(t.from_begin, t.to_end)  # [B, K, C]
    t.ceiling_kc = op.Where(t.block_is, t.largest, t.zero_f)  # [B, K, C]
    t.ceiling_ck = op.Transpose(t.ceiling_kc, perm=[0, 2, 1])  # [B, C, K]
    t.ceiling = op.Unsqueeze(t.ceiling_ck, t.v34)  # [B, C, K, 1, 1]


def _boxes_of_slots(op: Operators, t: Tensors) -> None:
    """Boxes and scores in slot order. Row 0 of the table is the empty slot: box (0, 0, 1, 1), score 0."""
    t.row = op.Concat(t.low, t.size, t.score, axis=2)  # [B, N, 5]
    t.empty_row = op.Constant(value_floats=[0.0, 0.0, 1.0, 1.0, 0.0])
    t.safe_row = op.Where(t.valid, t.row, t.empty_row)  # [B, N, 5]
    t.fives = op.Constant(value_ints=[-1, 5])
    t.empty_row2 = op.Reshape(t.empty_row, t.fives)  # [1, 5]
    t.rows = op.Reshape(t.safe_row, t.fives)  # [B * N, 5]
    t.row_table = op.Concat(t.empty_row2, t.rows, axis=0)  # [1 + B * N, 5]
    t.slot_rows = op.Gather(t.row_table, t.source, axis=0)  # [B, S, 5]
    t.one_each = op.Constant(value_ints=[1, 1, 1, 1, 1])
    parts = op.Split(t.slot_rows, t.one_each, axis=2, outputs=5)  # [B, S, 1] each
    t.x0, t.y0, t.w, t.h, t.score_of_slot = parts
    t.slot_score = op.Unsqueeze(t.score_of_slot, t.v3)  # [B, S, 1, 1]


def _masks_of_slots(op: Operators, t: Tensors) -> None:
    """Masks in slot order, 0 in the empty slot. The bound keeps a blend of the largest cells finite."""
    t.masks_f = op.Cast(t.masks, to=FLOAT)  # [B, N, P, P]
    t.mask_magnitudes = op.Abs(t.masks_f)  # [B, N, P, P]
    t.mask_finite = op.LessOrEqual(t.mask_magnitudes, t.largest)  # [B, N, P, P]
    t.clean = op.Where(t.mask_finite, t.masks_f, t.zero_f)  # [B, N, P, P]
    t.bound = op.Constant(value_float=3.40281e38)
    t.minus_bound = op.Neg(t.bound)
    t.bounded = op.Clip(t.clean, t.minus_bound, t.bound)  # [B, N, P, P]
    t.PPv = op.Mul(t.Pv, t.Pv)
    t.mask_shape = op.Concat(t.rest, t.PPv, axis=0)
    t.mask_rows = op.Reshape(t.bounded, t.mask_shape)  # [B * N, P * P]
    t.empty_mask_shape = op.Concat(t.v1, t.PPv, axis=0)
    t.empty_mask = op.Expand(t.zero_f, t.empty_mask_shape)  # [1, P * P]
    t.mask_table = op.Concat(t.empty_mask, t.mask_rows, axis=0)  # [1 + B * N, P * P]
    t.slot_masks = op.Gather(t.mask_table, t.source, axis=0)  # [B, S, P * P]
    t.cells_shape = op.Concat(t.Bv, t.Sv, t.Pv, t.Pv, axis=0)
    t.cells = op.Reshape(t.slot_masks, t.cells_shape)  # [B, S, P, P]


def _pixels(op: Operators, t: Tensors, bands: int) -> None:
    """Cells j, rows of pixels, and columns of pixels up to a multiple of the bands."""
    t.j = op.Range(t.zero, t.P, t.one)  # [P]
    t.y_all = op.Range(t.zero, t.H, t.one)  # [H]
    t.y_pixels = op.Cast(t.y_all, to=FLOAT)  # [H]
    t.bands = op.Constant(value_int=bands)
    t.bands_less = op.Sub(t.bands, t.one)
    t.W_up = op.Add(t.W, t.bands_less)
    t.band = op.Div(t.W_up, t.bands)
    t.W_all = op.Mul(t.band, t.bands)
    t.x_all = op.Range(t.zero, t.W_all, t.one)  # [bands * w]
    t.x_all_f = op.Cast(t.x_all, to=FLOAT)  # [bands * w]
    t.blocks_shape = op.Concat(t.Bv, t.Kv, t.block_v, t.Hv, t.rest, axis=0)


def _band(op: Operators, t: Tensors, x: Tensors, i: int) -> None:
    """Columns of a band. All bands are equally wide, so that none is ever empty; the result is cut to W."""
    x.i = op.Constant(value_ints=[i])
    x.next = op.Constant(value_ints=[i + 1])
    x["from"] = op.Mul(t.band, x.i)
    x.to = op.Mul(t.band, x.next)
    x.pixels = op.Slice(t.x_all_f, x["from"], x.to)  # [w]


def _weighted_sums(op: Operators, t: Tensors, columns: Sequence[Tensors], bilinear: bool) -> None:
    """Samples of a band, [B, S, H, w], by two products with the weight of every cell at every pixel."""
    if bilinear:
        t.one_f = op.Constant(value_float=1.0)
    t.j_f = op.Cast(t.j, to=FLOAT)  # [P]
    t.j_column = op.Unsqueeze(t.j_f, t.v1)  # [P, 1]
    y = t.under("y")
    _coordinates(op, t, y, t.y0, t.h)
    _weights(op, t, y, t.v3, t.j_f, bilinear)
    for i, x in enumerate(columns):
        _band(op, t, x, i)
        _coordinates(op, t, x, t.x0, t.w)
        _weights(op, t, x, t.v2, t.j_column, bilinear)
        x.lines = op.MatMul(t.cells, x.weight)  # [B, S, P, w]
        x.sample = op.MatMul(y.weight, x.lines)  # [B, S, H, w]


def _coordinates(op: Operators, t: Tensors, a: Tensors, low: ir.Value, size: ir.Value) -> None:
    """The mask coordinate of the contract, u = (x + 0.5 - x0) * P / w."""
    # The names of the fields become names in the file, whose bytes must not change.
    a.centre = op.Add(a.pixels, t.half_f)  # [pixels]
    a.inside = op.Sub(a.centre, low)  # [B, S, pixels]
    a.grown = op.Mul(a.inside, t.P_f)  # [B, S, pixels]
    a.u = op.Div(a.grown, size)  # [B, S, pixels]


def _weights(op: Operators, t: Tensors, a: Tensors, axis: ir.Value, cell: ir.Value, bilinear: bool) -> None:
    """Weight of every cell at every pixel, [B, S, pixels, P] for y and [B, S, P, pixels] for x.

    Args:
        axis: where the cells come in.
        cell: the numbers of the cells, along that axis.
    """
    a.at = op.Sub(a.u, t.half_f) if bilinear else op.Floor(a.u)  # [B, S, pixels]
    a.at4 = op.Unsqueeze(a.at, axis)  # [B, S, pixels, 1] or [B, S, 1, pixels]
    if bilinear:
        a.off = op.Sub(a.at4, cell)  # as the weights, as all below
        a.away = op.Abs(a.off)
        a.near = op.Sub(t.one_f, a.away)
        a.weight = op.Relu(a.near)
    else:
        a.hit = op.Equal(a.at4, cell)
        a.weight = op.Cast(a.hit, to=FLOAT)


def _range_maxima(op: Operators, t: Tensors, columns: Sequence[Tensors], levels: int) -> None:
    """Samples of a band, [B, S, H, w], by rule rect.

    Cell j covers pixel x if floor(edge j) <= x < ceil(edge j + 1): edge j < x + 1 and x < edge j + 1. The
    covering cells are a range [first, past), whose maximum two entries of a table of maxima over 1, 2, 4, ...
    cells span. The last row of a table is 0, for pixels that no cell covers.
    """
    spans = [float(2**k) for k in range(levels + 1)]
    t.spans = op.Constant(value_floats=spans)
    t.doubled = op.Constant(value_floats=spans[1:])
    t.v0 = op.Constant(value_ints=[0])
    t.one_f = op.Constant(value_float=1.0)
    t.P_next = op.Add(t.P, t.one)
    t.P_nextv = op.Add(t.Pv, t.v1)
    t.P_last = op.Sub(t.P, t.one)
    t.edge_i = op.Range(t.zero, t.P_next, t.one)  # [P + 1]
    t.edge_f = op.Cast(t.edge_i, to=FLOAT)  # [P + 1]
    t.levels = op.Constant(value_int=levels)
    t.table_cells = op.Mul(t.levels, t.P)
    t.table_cells_f = op.Cast(t.table_cells, to=FLOAT)
    t.table_rows = op.Add(t.table_cells, t.one)
    t.BSv = op.Mul(t.Bv, t.Sv)
    t.BS = op.Squeeze(t.BSv)
    t.slot_i = op.Range(t.zero, t.BS, t.one)  # [B * S]
    t.slot_begin = op.Mul(t.slot_i, t.table_rows)  # [B * S]
    t.slot_shape = op.Concat(t.Bv, t.Sv, t.v1, axis=0)
    t.table_begin = op.Reshape(t.slot_begin, t.slot_shape)  # [B, S, 1]
    t.mask_columns = op.Transpose(t.cells, perm=[0, 1, 3, 2])  # [B, S, P of x, P of y]
    y = t.under("y")
    _range_taps(op, t, y, t.y0, t.h)
    for i, x in enumerate(columns):
        _band(op, t, x, i)
        _range_taps(op, t, x, t.x0, t.w)
        x.lines = _range_read(op, t, x.under("across"), t.mask_columns, x, levels)  # [B, S, w, P]
        x.turned = op.Transpose(x.lines, perm=[0, 1, 3, 2])  # [B, S, P, w]
        x.sample = _range_read(op, t, x.under("down"), x.turned, y, levels)  # [B, S, H, w]


def _range_taps(op: Operators, t: Tensors, a: Tensors, low: ir.Value, size: ir.Value) -> None:
    """index0, index1: the two table rows that span the cells of a pixel, [B, S, pixels]."""
    a.steps = op.Mul(t.edge_f, size)  # [B, S, P + 1]
    a.parts = op.Div(a.steps, t.P_f)  # [B, S, P + 1]
    a.edges = op.Add(low, a.parts)  # [B, S, P + 1]
    a.lower = op.Slice(a.edges, t.v0, t.Pv, t.v2)  # [B, S, P]
    a.upper = op.Slice(a.edges, t.v1, t.P_nextv, t.v2)  # [B, S, P]
    a.lower4 = op.Unsqueeze(a.lower, t.v3)  # [B, S, P, 1]
    a.upper4 = op.Unsqueeze(a.upper, t.v3)  # [B, S, P, 1]
    a.pixels_next = op.Add(a.pixels, t.one_f)  # [pixels]
    a.over = op.LessOrEqual(a.upper4, a.pixels)  # [B, S, P, pixels]
    a.begun = op.Less(a.lower4, a.pixels_next)  # [B, S, P, pixels]
    a.over_f = op.Cast(a.over, to=FLOAT)  # [B, S, P, pixels]
    a.begun_f = op.Cast(a.begun, to=FLOAT)  # [B, S, P, pixels]
    a.first = op.ReduceSum(a.over_f, t.v2, keepdims=0)  # [B, S, pixels], as all below without a shape
    a.past = op.ReduceSum(a.begun_f, t.v2, keepdims=0)
    a.length = op.Sub(a.past, a.first)
    a.length4 = op.Unsqueeze(a.length, t.v3)  # [B, S, pixels, 1]
    a.fits = op.GreaterOrEqual(a.length4, t.doubled)  # [B, S, pixels, levels]
    a.fits_f = op.Cast(a.fits, to=FLOAT)  # [B, S, pixels, levels]
    a.level = op.ReduceSum(a.fits_f, t.v3, keepdims=0)
    a.level_i = op.Cast(a.level, to=INT64)
    a.span = op.Gather(t.spans, a.level_i, axis=0)
    a.level_row = op.Mul(a.level, t.P_f)
    a.row0 = op.Add(a.level_row, a.first)
    a.past_row = op.Add(a.level_row, a.past)
    a.row1 = op.Sub(a.past_row, a.span)
    a.covered = op.Less(a.first, a.past)
    a.tap0 = op.Where(a.covered, a.row0, t.table_cells_f)
    a.tap1 = op.Where(a.covered, a.row1, t.table_cells_f)
    a.tap0_i = op.Cast(a.tap0, to=INT64)
    a.tap1_i = op.Cast(a.tap1, to=INT64)
    a.index0 = op.Add(a.tap0_i, t.table_begin)
    a.index1 = op.Add(a.tap1_i, t.table_begin)


def _range_read(op: Operators, t: Tensors, r: Tensors, values: ir.Value, a: Tensors, levels: int) -> ir.Value:
    """values [B, S, P, width] -> [B, S, pixels, width], the range maxima at the pixels of axis a."""
    r.level0 = op.Identity(values)  # [B, S, P, width], as every level
    for k in range(1, levels):
        below = r[f"level{k - 1}"]
        ahead = r[f"ahead{k}"] = op.Constant(value_int=2 ** (k - 1))
        beyond = r[f"beyond{k}"] = op.Add(t.j, ahead)  # [P]
        other = r[f"other{k}"] = op.Min(beyond, t.P_last)  # [P]
        moved = r[f"moved{k}"] = op.Gather(below, other, axis=2)  # [B, S, P, width]
        r[f"level{k}"] = op.Max(below, moved)
    r.width = op.Shape(values, start=3, end=4)
    r.zero_shape = op.Concat(t.Bv, t.Sv, t.v1, r.width, axis=0)
    r.zero = op.Expand(t.zero_f, r.zero_shape)  # [B, S, 1, width]
    r.table4 = op.Concat(*(r[f"level{k}"] for k in range(levels)), r.zero, axis=2)  # [B, S, rows, width]
    r.table_shape = op.Concat(t.rest, r.width, axis=0)
    r.table = op.Reshape(r.table4, r.table_shape)  # [B * S * rows, width]
    r.read0 = op.Gather(r.table, a.index0, axis=0)  # [B, S, pixels, width]
    r.read1 = op.Gather(r.table, a.index1, axis=0)  # [B, S, pixels, width]
    maxima: ir.Value = op.Max(r.read0, r.read1)
    return maxima


def _class_maxima(op: Operators, t: Tensors, x: Tensors) -> None:
    """Score, then block maxima, then class maxima."""
    x.scored = op.Mul(x.sample, t.slot_score)  # [B, S, H, w]
    x.slots = op.Reshape(x.scored, t.blocks_shape)  # [B, K, D, H, w]
    x.blocks = op.ReduceMax(x.slots, t.v2, keepdims=0)  # [B, K, H, w]
    x.every = op.Unsqueeze(x.blocks, t.v1)  # [B, 1, K, H, w]
    x.own = op.Min(x.every, t.ceiling)  # [B, C, K, H, w]
    x.canvas = op.ReduceMax(x.own, t.v2, keepdims=0)  # [B, C, H, w]


def _result(op: Operators, t: Tensors, columns: Sequence[Tensors], dtype: int, limit: float) -> None:
    t.limit = op.Constant(value_float=limit)
    t.joined = op.Concat(*(x.canvas for x in columns), axis=3)  # [B, C, H, bands * w]
    t.x_first = op.Constant(value_ints=[0])
    t.x_end = op.Reshape(t.W, t.v1)
    t.whole = op.Slice(t.joined, t.x_first, t.x_end, t.v3)  # [B, C, H, W]
    t.saturated = op.Clip(t.whole, t.zero_f, t.limit)  # [B, C, H, W]
    t.canvas = op.Cast(t.saturated, to=dtype)  # [B, C, H, W]
