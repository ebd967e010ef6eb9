"""Text of the ONNX function ``InstanceMaskProjection``, in sections; see mask_projection.py for the plan.

Letters: B batch, N instances, P cells a side, C classes, H x W canvas, S slots = K blocks, w columns of a
band. `limit` is the largest finite value of the result's type, `table` the levels of the range maxima.
"""

from __future__ import annotations

CONSTANTS = """
  zero = Constant <value_int = 0> ()
  one = Constant <value_int = 1> ()
  v1 = Constant <value_ints = [1]> ()
  v2 = Constant <value_ints = [2]> ()
  v3 = Constant <value_ints = [3]> ()
  v34 = Constant <value_ints = [3, 4]> ()
  rest = Constant <value_ints = [-1]> ()
  zero_f = Constant <value_float = 0.0> ()
  half_f = Constant <value_float = 0.5> ()
  minus_one_f = Constant <value_float = -1.0> ()
  largest = Constant <value_float = 3.4028234663852886e38> ()
  C = Constant <value_int : int = @num_classes> ()
  H = Constant <value_int : int = @canvas_h> ()
  W = Constant <value_int : int = @canvas_w> ()
  scale = Constant <value_float : float = @spatial_scale> ()
  Hv = Reshape (H, v1)
  Bv = Shape <start = 0, end = 1> (masks)
  Nv = Shape <start = 1, end = 2> (masks)
  Pv = Shape <start = 3, end = 4> (masks)
  N = Squeeze (Nv)
  P = Squeeze (Pv)
  P_f = Cast <to = 1> (P)
  block = Constant <value_int = {block}> ()
  block_v = Constant <value_ints = [{block}]> ()
  block_f = Constant <value_float = {block}.0> ()
  padding = Sub (block, one)
  class_padding = Mul (C, padding)
  most = Add (N, class_padding)
  most_up = Add (most, padding)
  some = Max (most_up, block)
  K = Div (some, block)
  S = Mul (K, block)
  Kv = Reshape (K, v1)
  Sv = Reshape (S, v1)
"""

# member [B, N, C]: the instance is valid and of the class. A comparison with NaN is false.
MEMBERS = """
  corners = Mul (boxes, scale)
  two_each = Constant <value_ints = [2, 2]> ()
  low, high = Split <axis = 2> (corners, two_each)
  size = Sub (high, low)
  score = Unsqueeze (scores, v2)
  values = Concat <axis = 2> (corners, size, score)
  magnitudes = Abs (values)
  finite = LessOrEqual (magnitudes, largest)
  positive = Greater (size, zero_f)
  finite_f = Cast <to = 1> (finite)
  positive_f = Cast <to = 1> (positive)
  tests = Concat <axis = 2> (finite_f, positive_f)
  passed = ReduceMin <keepdims = 1> (tests, v2)
  sound = Greater (passed, half_f)
  labels_i = Cast <to = 7> (labels)
  label = Unsqueeze (labels_i, v2)
  classes = Range (zero, C, one)
  of_class = Equal (label, classes)
  member = And (of_class, sound)
  member_f = Cast <to = 1> (member)
  valid_f = ReduceMax <keepdims = 1> (member_f, v2)
  valid = Greater (valid_f, half_f)
"""

# Sorting without a sort: an instance's slot is its class's first slot plus its rank in the class. Counts
# are small integers in float32, exact. source [B, S]: 1 + the instance in a slot, 0 for an empty slot.
# ceiling [B, C, K, 1, 1]: the largest float where the block is of the class, else 0.
SLOTS = """
  n = Range (zero, N, one)
  n_column = Unsqueeze (n, v1)
  earlier = Greater (n_column, n)
  earlier_f = Cast <to = 1> (earlier)
  rank = MatMul (earlier_f, member_f)
  members = ReduceSum <keepdims = 1> (member_f, v1)
  blocks_exact = Div (members, block_f)
  blocks = Ceil (blocks_exact)
  class_column = Unsqueeze (classes, v1)
  before = Less (class_column, classes)
  before_f = Cast <to = 1> (before)
  begin = MatMul (blocks, before_f)
  end = Add (begin, blocks)
  first_slot = Mul (begin, block_f)
  slot_of_class = Add (rank, first_slot)
  slot_or_0 = Where (member, slot_of_class, zero_f)
  slot_sum = ReduceSum <keepdims = 1> (slot_or_0, v2)
  slot = Where (valid, slot_sum, minus_one_f)
  s = Range (zero, S, one)
  s_f = Cast <to = 1> (s)
  here = Equal (slot, s_f)
  B = Squeeze (Bv)
  b = Range (zero, B, one)
  b_column = Unsqueeze (b, v1)
  b_begin = Mul (b_column, N)
  n_next = Add (n, one)
  ids = Add (b_begin, n_next)
  ids_f = Cast <to = 1> (ids)
  id = Unsqueeze (ids_f, v2)
  id_here = Where (here, id, zero_f)
  empty_shape = Concat <axis = 0> (Bv, v1, Sv)
  empty = Expand (zero_f, empty_shape)
  id_or_empty = Concat <axis = 1> (empty, id_here)
  source_f = ReduceMax <keepdims = 0> (id_or_empty, v1)
  source = Cast <to = 7> (source_f)
  k = Range (zero, K, one)
  k_f = Cast <to = 1> (k)
  k_column = Unsqueeze (k_f, v1)
  from_begin = GreaterOrEqual (k_column, begin)
  to_end = Less (k_column, end)
  block_is = And (from_begin, to_end)
  ceiling_kc = Where (block_is, largest, zero_f)
  ceiling_ck = Transpose <perm = [0, 2, 1]> (ceiling_kc)
  ceiling = Unsqueeze (ceiling_ck, v34)
"""

# Slot order: x0, y0, w, h [B, S, 1], slot_score [B, S, 1, 1], cells [B, S, P, P]. Row 0 of the tables is
# the empty slot: box (0, 0, 1, 1), score 0, mask 0. The bound keeps a blend of the largest cells finite.
GATHER = """
  row = Concat <axis = 2> (low, size, score)
  empty_row = Constant <value_floats = [0.0, 0.0, 1.0, 1.0, 0.0]> ()
  safe_row = Where (valid, row, empty_row)
  fives = Constant <value_ints = [-1, 5]> ()
  empty_row2 = Reshape (empty_row, fives)
  rows = Reshape (safe_row, fives)
  row_table = Concat <axis = 0> (empty_row2, rows)
  slot_rows = Gather <axis = 0> (row_table, source)
  one_each = Constant <value_ints = [1, 1, 1, 1, 1]> ()
  x0, y0, w, h, score_of_slot = Split <axis = 2> (slot_rows, one_each)
  slot_score = Unsqueeze (score_of_slot, v3)
  masks_f = Cast <to = 1> (masks)
  mask_magnitudes = Abs (masks_f)
  mask_finite = LessOrEqual (mask_magnitudes, largest)
  clean = Where (mask_finite, masks_f, zero_f)
  bound = Constant <value_float = 3.40281e38> ()
  minus_bound = Neg (bound)
  bounded = Clip (clean, minus_bound, bound)
  PPv = Mul (Pv, Pv)
  mask_shape = Concat <axis = 0> (rest, PPv)
  mask_rows = Reshape (bounded, mask_shape)
  empty_mask_shape = Concat <axis = 0> (v1, PPv)
  empty_mask = Expand (zero_f, empty_mask_shape)
  mask_table = Concat <axis = 0> (empty_mask, mask_rows)
  slot_masks = Gather <axis = 0> (mask_table, source)
  cells_shape = Concat <axis = 0> (Bv, Sv, Pv, Pv)
  cells = Reshape (slot_masks, cells_shape)
  j = Range (zero, P, one)
  y_all = Range (zero, H, one)
  y_pixels = Cast <to = 1> (y_all)
  bands = Constant <value_int = {bands}> ()
  bands_less = Sub (bands, one)
  W_up = Add (W, bands_less)
  band = Div (W_up, bands)
  W_all = Mul (band, bands)
  x_all = Range (zero, W_all, one)
  x_all_f = Cast <to = 1> (x_all)
  blocks_shape = Concat <axis = 0> (Bv, Kv, block_v, Hv, rest)
"""

# All bands are equally wide, so that none is ever empty; the columns past the canvas are cut off at the end.
BAND = """
  {a}_i = Constant <value_ints = [{i}]> ()
  {a}_next = Constant <value_ints = [{i_next}]> ()
  {a}_from = Mul (band, {a}_i)
  {a}_to = Mul (band, {a}_next)
  {a}_pixels = Slice (x_all_f, {a}_from, {a}_to)
"""

# The mask coordinate of the contract, u = (x + 0.5 - x0) * P / w, [B, S, pixels].
COORDINATE = """
  {a}_centre = Add ({a}_pixels, half_f)
  {a}_inside = Sub ({a}_centre, {low})
  {a}_grown = Mul ({a}_inside, P_f)
  {a}_u = Div ({a}_grown, {size})
"""

WEIGHT_CONSTANTS = {
    "bilinear": """
  one_f = Constant <value_float = 1.0> ()
  j_f = Cast <to = 1> (j)
  j_column = Unsqueeze (j_f, v1)
""",
    "nearest": """
  j_f = Cast <to = 1> (j)
  j_column = Unsqueeze (j_f, v1)
""",
}

# Weight of every cell at every pixel, [B, S, pixels, P] for y and [B, S, P, pixels] for x.
WEIGHTS = {
    "bilinear": """
  {a}_at = Sub ({a}_u, half_f)
  {a}_at4 = Unsqueeze ({a}_at, {axis})
  {a}_off = Sub ({a}_at4, {cell})
  {a}_away = Abs ({a}_off)
  {a}_near = Sub (one_f, {a}_away)
  {a}_weight = Relu ({a}_near)
""",
    "nearest": """
  {a}_at = Floor ({a}_u)
  {a}_at4 = Unsqueeze ({a}_at, {axis})
  {a}_hit = Equal ({a}_at4, {cell})
  {a}_weight = Cast <to = 1> ({a}_hit)
""",
}

BLEND = """
  {a}_lines = MatMul (cells, {a}_weight)
  {a}_sample = MatMul (y_weight, {a}_lines)
"""

# Rule rect. Cell j covers pixel x if floor(edge j) <= x < ceil(edge j + 1): edge j < x + 1 and x < edge
# j + 1. The covering cells are a range [first, past), whose maximum two entries of a table of maxima over
# 1, 2, 4, ... cells span. The last row of a table is 0, for pixels that no cell covers.
RANGES = """
  spans = Constant <value_floats = [{spans}]> ()
  doubled = Constant <value_floats = [{doubled}]> ()
  v0 = Constant <value_ints = [0]> ()
  one_f = Constant <value_float = 1.0> ()
  P_next = Add (P, one)
  P_nextv = Add (Pv, v1)
  P_last = Sub (P, one)
  edge_i = Range (zero, P_next, one)
  edge_f = Cast <to = 1> (edge_i)
  levels = Constant <value_int = {levels}> ()
  table_cells = Mul (levels, P)
  table_cells_f = Cast <to = 1> (table_cells)
  table_rows = Add (table_cells, one)
  BSv = Mul (Bv, Sv)
  BS = Squeeze (BSv)
  slot_i = Range (zero, BS, one)
  slot_begin = Mul (slot_i, table_rows)
  slot_shape = Concat <axis = 0> (Bv, Sv, v1)
  table_begin = Reshape (slot_begin, slot_shape)
  mask_columns = Transpose <perm = [0, 1, 3, 2]> (cells)
"""

RANGE_AXIS = """
  {a}_steps = Mul (edge_f, {size})
  {a}_parts = Div ({a}_steps, P_f)
  {a}_edges = Add ({low}, {a}_parts)
  {a}_lower = Slice ({a}_edges, v0, Pv, v2)
  {a}_upper = Slice ({a}_edges, v1, P_nextv, v2)
  {a}_lower4 = Unsqueeze ({a}_lower, v3)
  {a}_upper4 = Unsqueeze ({a}_upper, v3)
  {a}_pixels_next = Add ({a}_pixels, one_f)
  {a}_over = LessOrEqual ({a}_upper4, {a}_pixels)
  {a}_begun = Less ({a}_lower4, {a}_pixels_next)
  {a}_over_f = Cast <to = 1> ({a}_over)
  {a}_begun_f = Cast <to = 1> ({a}_begun)
  {a}_first = ReduceSum <keepdims = 0> ({a}_over_f, v2)
  {a}_past = ReduceSum <keepdims = 0> ({a}_begun_f, v2)
  {a}_length = Sub ({a}_past, {a}_first)
  {a}_length4 = Unsqueeze ({a}_length, v3)
  {a}_fits = GreaterOrEqual ({a}_length4, doubled)
  {a}_fits_f = Cast <to = 1> ({a}_fits)
  {a}_level = ReduceSum <keepdims = 0> ({a}_fits_f, v3)
  {a}_level_i = Cast <to = 7> ({a}_level)
  {a}_span = Gather <axis = 0> (spans, {a}_level_i)
  {a}_level_row = Mul ({a}_level, P_f)
  {a}_row0 = Add ({a}_level_row, {a}_first)
  {a}_past_row = Add ({a}_level_row, {a}_past)
  {a}_row1 = Sub ({a}_past_row, {a}_span)
  {a}_covered = Less ({a}_first, {a}_past)
  {a}_tap0 = Where ({a}_covered, {a}_row0, table_cells_f)
  {a}_tap1 = Where ({a}_covered, {a}_row1, table_cells_f)
  {a}_tap0_i = Cast <to = 7> ({a}_tap0)
  {a}_tap1_i = Cast <to = 7> ({a}_tap1)
  {a}_index0 = Add ({a}_tap0_i, table_begin)
  {a}_index1 = Add ({a}_tap1_i, table_begin)
"""

RANGE_LEVEL = """
  {t}_ahead{k} = Constant <value_int = {step}> ()
  {t}_beyond{k} = Add (j, {t}_ahead{k})
  {t}_other{k} = Min ({t}_beyond{k}, P_last)
  {t}_moved{k} = Gather <axis = 2> ({t}_level{k_less}, {t}_other{k})
  {t}_level{k} = Max ({t}_level{k_less}, {t}_moved{k})
"""

# {values} [B, S, P, width] -> {result} [B, S, pixels, width], the range maxima at the pixels of axis {a}.
RANGE_READ = """
  {t}_width = Shape <start = 3, end = 4> ({values})
  {t}_zero_shape = Concat <axis = 0> (Bv, Sv, v1, {t}_width)
  {t}_zero = Expand (zero_f, {t}_zero_shape)
  {t}_table4 = Concat <axis = 2> ({parts}, {t}_zero)
  {t}_table_shape = Concat <axis = 0> (rest, {t}_width)
  {t}_table = Reshape ({t}_table4, {t}_table_shape)
  {t}_read0 = Gather <axis = 0> ({t}_table, {a}_index0)
  {t}_read1 = Gather <axis = 0> ({t}_table, {a}_index1)
  {result} = Max ({t}_read0, {t}_read1)
"""

RANGE_TURN = """
  {a}_turned = Transpose <perm = [0, 1, 3, 2]> ({a}_lines)
"""

# Score, then block maxima, then class maxima: [B, C, H, w].
MAXIMA = """
  {a}_scored = Mul ({a}_sample, slot_score)
  {a}_slots = Reshape ({a}_scored, blocks_shape)
  {a}_blocks = ReduceMax <keepdims = 0> ({a}_slots, v2)
  {a}_every = Unsqueeze ({a}_blocks, v1)
  {a}_own = Min ({a}_every, ceiling)
  {a}_canvas = ReduceMax <keepdims = 0> ({a}_own, v2)
"""

RESULT = """
  limit = Constant <value_float = {limit}> ()
  joined = Concat <axis = 3> ({parts})
  x_first = Constant <value_ints = [0]> ()
  x_end = Reshape (W, v1)
  whole = Slice (joined, x_first, x_end, v3)
  saturated = Clip (whole, zero_f, limit)
  canvas = Cast <to = {dtype}> (saturated)
"""
