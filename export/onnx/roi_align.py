"""ONNX form of ``imp_trt::multilevel_roi_align``: a node and a function of standard operators.

The body reads only the level each box belongs to. All levels are laid out as one table with a row of
C channels per cell, so that a sample is a row number; every output cell is then a product of
2 * ratio * ratio weights with as many gathered rows, once for the upper and once for the lower row
of the bilinear samples (both at once would double the largest temporary, neither is faster).
"""

from __future__ import annotations

from typing import Any

import torch
from onnx import FunctionProto, ModelProto

import imp_trt.ops.roi_align.torch  # noqa: F401  # registers the torch operator
from imp_trt.export.onnx.function_text import DOMAIN, PLUGIN_ATTRIBUTES, custom_op, parse_function

NAME = "ImpMultilevelRoiAlign"
ATTRIBUTES = ("output_size", "sampling_ratio", "canonical_level", "canonical_size")
INPUTS = ("p2", "p3", "p4", "p5", "boxes")

# M = batch * boxes, S = output_size, R = sampling_ratio, C = channels.
_CONSTANTS = """
  zero = Constant <value_int = 0> ()
  one = Constant <value_int = 1> ()
  v0 = Constant <value_ints = [0]> ()
  v1 = Constant <value_ints = [1]> ()
  v2 = Constant <value_ints = [2]> ()
  rest = Constant <value_ints = [-1]> ()
  column = Constant <value_ints = [-1, 1]> ()
  zero_f = Constant <value_float = 0.0> ()
  half_f = Constant <value_float = 0.5> ()
  one_f = Constant <value_float = 1.0> ()
  two_f = Constant <value_float = 2.0> ()
  minus_one_f = Constant <value_float = -1.0> ()
  S = Constant <value_int : int = @output_size> ()
  R = Constant <value_int : int = @sampling_ratio> ()
  level0 = Constant <value_int : int = @canonical_level> ()
  size0 = Constant <value_int : int = @canonical_size> ()
  Sv = Reshape (S, v1)
  Rv = Reshape (R, v1)
  R2v = Mul (Rv, v2)
  Sf = Cast <to = 1> (S)
  Rf = Cast <to = 1> (R)
  Bv = Shape <start = 0, end = 1> (boxes)
  Nv = Shape <start = 1, end = 2> (boxes)
  Cv = Shape <start = 1, end = 2> (p2)
"""

# Level k (p3, p4, p5) is reached when side / size0 >= 2^(k - level0 - 1e-6), which is torchvision's
# floor(level0 + log2(side / size0) + 1e-6) without the logarithm of 0. A NaN compares false: p2.
_LEVELS = """
  quads = Constant <value_ints = [-1, 4]> ()
  ones4 = Constant <value_ints = [1, 1, 1, 1]> ()
  flat = Reshape (boxes, quads)
  x0, y0, x1, y1 = Split <axis = 1> (flat, ones4)
  width = Sub (x1, x0)
  height = Sub (y1, y0)
  area = Mul (width, height)
  side = Sqrt (area)
  level0_f = Cast <to = 1> (level0)
  size0_f = Cast <to = 1> (size0)
  relative = Div (side, size0_f)
  upper_levels = Constant <value_floats = [2.999999, 3.999999, 4.999999]> ()
  exponents = Sub (upper_levels, level0_f)
  bounds = Pow (two_f, exponents)
  reached = GreaterOrEqual (relative, bounds)
  reached_i = Cast <to = 7> (reached)
  level = ReduceSum <keepdims = 1> (reached_i, v1)
"""

# Per box [M, 1]: size, scale and first table row of its level, its image's part of the table included.
_LEVEL_TABLES = """
  h2 = Shape <start = 2, end = 3> (p2)
  h3 = Shape <start = 2, end = 3> (p3)
  h4 = Shape <start = 2, end = 3> (p4)
  h5 = Shape <start = 2, end = 3> (p5)
  w2 = Shape <start = 3, end = 4> (p2)
  w3 = Shape <start = 3, end = 4> (p3)
  w4 = Shape <start = 3, end = 4> (p4)
  w5 = Shape <start = 3, end = 4> (p5)
  n2 = Mul (h2, w2)
  n3 = Mul (h3, w3)
  n4 = Mul (h4, w4)
  n5 = Mul (h5, w5)
  begin4 = Add (n2, n3)
  begin5 = Add (begin4, n4)
  cells = Add (begin5, n5)
  heights = Concat <axis = 0> (h2, h3, h4, h5)
  widths = Concat <axis = 0> (w2, w3, w4, w5)
  begins = Concat <axis = 0> (v0, n2, begin4, begin5)
  scales = Constant <value_floats = [0.25, 0.125, 0.0625, 0.03125]> ()
  H = Gather <axis = 0> (heights, level)
  W = Gather <axis = 0> (widths, level)
  begin = Gather <axis = 0> (begins, level)
  scale = Gather <axis = 0> (scales, level)
  B = Squeeze (Bv)
  images = Range (zero, B, one)
  image_begins = Mul (images, cells)
  image_column = Reshape (image_begins, column)
  BN = Concat <axis = 0> (Bv, Nv)
  image_grid = Expand (image_column, BN)
  image_begin = Reshape (image_grid, column)
  first_row = Add (begin, image_begin)
  no_change = Constant <value_ints = [0, 0, -1]> ()
  f2 = Reshape (p2, no_change)
  f3 = Reshape (p3, no_change)
  f4 = Reshape (p4, no_change)
  f5 = Reshape (p5, no_change)
  planes = Concat <axis = 2> (f2, f3, f4, f5)
  rows = Transpose <perm = [0, 2, 1]> (planes)
  table_shape = Concat <axis = 0> (rest, Cv)
  table = Reshape (rows, table_shape)
"""

# Sample t of an axis is sub-sample t % R of cell t / R.
_SAMPLES = """
  SR = Mul (S, R)
  t = Range (zero, SR, one)
  cell = Div (t, R)
  cell_first = Mul (cell, R)
  sub = Sub (t, cell_first)
  cell_f = Cast <to = 1> (cell)
  sub_f = Cast <to = 1> (sub)
  sub_mid = Add (sub_f, half_f)
"""

# One axis: [M, S*R] sample positions, then low and high tap with weights, as torchvision's
# bilinear_interpolate: nothing outside [-1, size], clamped to the border cells inside it.
# The comparisons come first, so that a NaN or infinite position is replaced before it becomes an index.
_AXIS = """
  {a}_begin = Mul ({a}0, scale)
  {a}_end = Mul ({a}1, scale)
  {a}_extent = Sub ({a}_end, {a}_begin)
  {a}_length = Max ({a}_extent, one_f)
  {a}_bin = Div ({a}_length, Sf)
  {a}_cell = Mul (cell_f, {a}_bin)
  {a}_sub_r = Mul (sub_mid, {a}_bin)
  {a}_sub = Div ({a}_sub_r, Rf)
  {a}_base = Add ({a}_begin, {a}_cell)
  {a}_at = Add ({a}_base, {a}_sub)
  {a}_size = Cast <to = 1> ({size})
  {a}_after = GreaterOrEqual ({a}_at, minus_one_f)
  {a}_before = LessOrEqual ({a}_at, {a}_size)
  {a}_inside = And ({a}_after, {a}_before)
  {a}_finite = Where ({a}_inside, {a}_at, zero_f)
  {a}_last = Sub ({a}_size, one_f)
  {a}_floor0 = Max ({a}_finite, zero_f)
  {a}_pos = Min ({a}_floor0, {a}_last)
  {a}_low = Floor ({a}_pos)
  {a}_next = Add ({a}_low, one_f)
  {a}_high = Min ({a}_next, {a}_last)
  {a}_high_w = Sub ({a}_pos, {a}_low)
  {a}_low_w = Sub (one_f, {a}_high_w)
  {a}_high_in = Where ({a}_inside, {a}_high_w, zero_f)
  {a}_low_in = Where ({a}_inside, {a}_low_w, zero_f)
  {a}_high_mean = Div ({a}_high_in, Rf)
  {a}_low_mean = Div ({a}_low_in, Rf)
  {a}_low_i = Cast <to = 7> ({a}_low)
  {a}_high_i = Cast <to = 7> ({a}_high)
"""

# Columns: low and high tap of the R samples of a cell side by side, [M, 1, S, 1, 2R].
_COLUMNS = """
  x_shape = Concat <axis = 0> (rest, v1, Sv, v1, R2v)
  x_low_u = Unsqueeze (x_low_i, rest)
  x_high_u = Unsqueeze (x_high_i, rest)
  x_pair = Concat <axis = 2> (x_low_u, x_high_u)
  x_index = Reshape (x_pair, x_shape)
  x_low_wu = Unsqueeze (x_low_mean, rest)
  x_high_wu = Unsqueeze (x_high_mean, rest)
  x_pair_w = Concat <axis = 2> (x_low_wu, x_high_wu)
  x_weight = Reshape (x_pair_w, x_shape)
  y_shape = Concat <axis = 0> (rest, Sv, v1, Rv, v1)
  T = Mul (Rv, R2v)
  taps_shape = Concat <axis = 0> (rest, T)
  weights_shape = Concat <axis = 0> (rest, v1, T)
"""

# One of the two rows of taps: [M*S*S, 1, 2*R*R] weights times [M*S*S, 2*R*R, C] gathered rows.
_ROW = """
  {r}_line = Mul (y_{r}_i, W)
  {r}_row = Add ({r}_line, first_row)
  {r}_row5 = Reshape ({r}_row, y_shape)
  {r}_weight5 = Reshape (y_{r}_mean, y_shape)
  {r}_index5 = Add ({r}_row5, x_index)
  {r}_both = Mul ({r}_weight5, x_weight)
  {r}_index = Reshape ({r}_index5, taps_shape)
  {r}_weights32 = Reshape ({r}_both, weights_shape)
  {r}_weights = CastLike ({r}_weights32, p2)
  {r}_taps = Gather <axis = 0> (table, {r}_index)
  {r}_sum = MatMul ({r}_weights, {r}_taps)
"""

_RESULT = """
  sum = Add (low_sum, high_sum)
  grid_shape = Concat <axis = 0> (rest, Sv, Sv, Cv)
  grid = Reshape (sum, grid_shape)
  pooled = Transpose <perm = [0, 3, 1, 2]> (grid)
"""


def function_proto() -> FunctionProto:
    """The function ``imp_trt.ImpMultilevelRoiAlign``: inputs, attributes and result as the torch operator's.

    One body serves every call: sizes come from attribute references and from the shapes of the inputs.
    """
    body = "".join(
        (
            _CONSTANTS,
            _LEVELS,
            _LEVEL_TABLES,
            _SAMPLES,
            _AXIS.format(a="x", size="W"),
            _AXIS.format(a="y", size="H"),
            _COLUMNS,
            _ROW.format(r="low"),
            _ROW.format(r="high"),
            _RESULT,
        )
    )
    return parse_function(NAME, ATTRIBUTES, INPUTS, ("pooled",), body)


def function_for_model(model: ModelProto) -> FunctionProto | None:
    """The function that the ``ImpMultilevelRoiAlign`` nodes of a model's graph call; None without nodes."""
    calls = any(node.op_type == NAME and node.domain == DOMAIN for node in model.graph.node)
    return function_proto() if calls else None


def translation_table() -> dict[Any, Any]:
    """Entry for ``torch.onnx.export(custom_translation_table=...)``: the operator becomes one node."""
    node = custom_op(NAME, INPUTS, dict.fromkeys(ATTRIBUTES, "INT"), "pooled", like="p2")

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
    ) -> Any:
        sizes = (output_size, sampling_ratio, canonical_level, canonical_size)
        attributes = dict(zip(ATTRIBUTES, sizes, strict=True))
        return node(p2, p3, p4, p5, boxes, **attributes, **PLUGIN_ATTRIBUTES)

    return {torch.ops.imp_trt.multilevel_roi_align.default: translate}
