# SPDX-License-Identifier: Apache-2.0
"""Cells that are read and pixels that are written, computed before any mask is sampled (PyTorch).

This is the coordinate arithmetic of the contract, in float32 and in the order of all implementations.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from imp_trt.errors import InvalidInput
from imp_trt.ops.mask_projection.options import SAMPLING_RULES


class Axis(NamedTuple):
    """The mask cells that the kept instances read along one axis of the canvas.

    R is the number of pairs (instance, covered pixel), ordered by instance. Every pair reads two taps: the
    two cells around the pixel center with their weights (bilinear), one cell with weight 1 (nearest), or two
    entries of the table of range maxima (rect, whose weights are empty).
    """

    first: Tensor  # [K] int64, first covered pixel of the canvas
    pixels: Tensor  # [K] int64, number of covered pixels
    offset: Tensor  # [K] int64, first pair of the instance
    instance: Tensor  # [R] int64
    tap0: Tensor  # [R] int64
    tap1: Tensor  # [R] int64
    weight0: Tensor  # [R] compute dtype
    weight1: Tensor  # [R] compute dtype


class Plan(NamedTuple):
    """The K instances that can cover pixels of the canvas, in the order (batch, n)."""

    instance: Tensor  # [K] int64 into the flattened [B * N]
    scores: Tensor  # [K] compute dtype, finite
    planes: Tensor  # [K] int64, batch * num_classes + label
    cells: Tensor  # [K, P, P] compute dtype, finite
    rows: Axis
    columns: Axis
    sampling: str


def make_plan(
    boxes: Tensor,
    scores: Tensor,
    labels: Tensor,
    masks: Tensor,
    num_classes: int,
    canvas: tuple[int, int],
    spatial_scale: float,
    sampling: str,
) -> Plan:
    """Drops instances that contribute nothing and plans the others; arguments as the operator's."""
    if sampling not in SAMPLING_RULES:
        raise InvalidInput("sampling", expected=" or ".join(SAMPLING_RULES), got=repr(sampling))
    count, cells = boxes.shape[1], masks.shape[-1]
    dtype = torch.float64 if masks.dtype == torch.float64 else torch.float32
    scale = torch.tensor(spatial_scale, dtype=torch.float32, device=boxes.device)
    corners = boxes.reshape(-1, 4).to(torch.float32) * scale
    scores, labels = scores.reshape(-1).to(dtype), labels.reshape(-1).to(torch.int64)
    low, size = corners[:, :2], corners[:, 2:] - corners[:, :2]
    finite = corners.isfinite().all(1) & size.isfinite().all(1) & scores.isfinite()
    keep = (finite & (size > 0).all(1) & (labels >= 0) & (labels < num_classes)).nonzero()[:, 0]

    low, size = low[keep], size[keep]
    top, height = _reach(low[:, 1], size[:, 1], canvas[0], cells, sampling)
    left, width = _reach(low[:, 0], size[:, 0], canvas[1], cells, sampling)
    seen = ((height > 0) & (width > 0)).nonzero()[:, 0]
    keep, low, size = keep[seen], low[seen], size[seen]
    rows = _axis(low[:, 1], size[:, 1], top[seen], height[seen], cells, sampling, dtype)
    columns = _axis(low[:, 0], size[:, 0], left[seen], width[seen], cells, sampling, dtype)
    planes = keep // max(count, 1) * num_classes + labels[keep]
    kept = _finite_cells(masks.reshape(-1, cells, cells)[keep], dtype)
    return Plan(keep, scores[keep], planes, kept, rows, columns, sampling)


def _finite_cells(masks: Tensor, dtype: torch.dtype) -> Tensor:
    """Masks in the dtype of the computation, non-finite cells as 0."""
    cells = torch.where(masks.isfinite(), masks, 0).to(dtype)
    # Keeps a blend of the largest finite cells finite for any rounding: inf * 0 would be NaN.
    bound = torch.finfo(dtype).max * (1 - 2.0**-20)
    return cells.clamp(-bound, bound)


def _mask_coordinate(pixels: Tensor, low: Tensor, size: Tensor, cells: int) -> Tensor:
    """u of the contract, in its order of float32 operations."""
    return (pixels + 0.5 - low) * cells / size


def _edges(low: Tensor, size: Tensor, cells: int) -> Tensor:
    """Edges [..., P + 1] of the mask cells on the canvas (rect)."""
    j = torch.arange(cells + 1, device=low.device, dtype=torch.float32)
    return low[..., None] + j * size[..., None] / cells


def _reach(low: Tensor, size: Tensor, extent: int, cells: int, sampling: str) -> tuple[Tensor, Tensor]:
    """First pixel and number of pixels [K] that each box covers along an axis of `extent` pixels.

    The membership test itself is evaluated at every pixel: separate culling arithmetic could differ from it.
    """
    pixels = torch.arange(extent, device=low.device, dtype=torch.float32)
    if sampling == "rect":
        edges = _edges(low, size, cells)
        inside = (edges[:, :1] < pixels + 1) & (pixels < edges[:, -1:])
    else:
        u = _mask_coordinate(pixels, low[:, None], size[:, None], cells)
        inside = (u >= 0) & (u < cells) if sampling == "nearest" else (u - 0.5 > -1) & (u - 0.5 < cells)
    return inside.to(torch.uint8).argmax(1), inside.sum(1)


def _axis(
    low: Tensor,
    size: Tensor,
    first: Tensor,
    count: Tensor,
    cells: int,
    sampling: str,
    dtype: torch.dtype,
) -> Axis:
    instance, pixel = expand_ranges(first, count)
    pixels, low, size = pixel.to(torch.float32), low[instance], size[instance]
    if sampling == "rect":
        tap0, tap1 = _range_taps(pixels, _edges(low, size, cells))
        weight0 = weight1 = torch.zeros(0, dtype=dtype, device=low.device)
    else:
        u = _mask_coordinate(pixels, low, size, cells)
        position = u.floor() if sampling == "nearest" else u - 0.5
        floor = position.floor()
        cell, fraction = floor.to(torch.int64), (position - floor).to(dtype)
        tap0, tap1 = cell.clamp(0, cells - 1), (cell + 1).clamp(0, cells - 1)
        weight0 = torch.where(cell >= 0, 1 - fraction, 0)
        weight1 = torch.where(cell + 1 < cells, fraction, 0)
    return Axis(first, count, count.cumsum(0) - count, instance, tap0, tap1, weight0, weight1)


def expand_ranges(first: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
    """Lists first[i], first[i] + 1, ... (count[i] of them) for every i: (i, element), each [sum(count)]."""
    owner = torch.repeat_interleave(count)
    start = first - (count.cumsum(0) - count)
    return owner, torch.arange(len(owner), device=count.device) + start[owner]


def _range_taps(pixels: Tensor, edges: Tensor) -> tuple[Tensor, Tensor]:
    """Entries of `range_table` whose maximum spans the cells that cover a pixel; edges [R, P + 1].

    Cell j covers pixel x if floor(edge j) <= x < ceil(edge j + 1), which for an integer x is
    edge j < x + 1 and x < edge j + 1. The edges ascend, so the covering cells are a range.
    """
    cells = edges.shape[1] - 1
    first = (edges[:, 1:] <= pixels[:, None]).sum(1)
    last = (edges[:, :-1] < pixels[:, None] + 1).sum(1) - 1
    powers = 2 ** torch.arange(1, cells.bit_length(), device=edges.device)
    level = ((last - first + 1)[:, None] >= powers).sum(1)
    return level * cells + first, level * cells + last + 1 - 2**level


def range_table(values: Tensor) -> Tensor:
    """Maxima over 1, 2, 4, ... neighbors along the last axis, level by level: [..., L * P]."""
    cells = values.shape[-1]
    levels, step = [values], 1
    while 2 * step <= cells:
        ahead = torch.cat([values[..., step:], values[..., -1:].expand(*values.shape[:-1], step)], -1)
        values = torch.maximum(values, ahead)
        levels.append(values)
        step *= 2
    return torch.cat(levels, -1)
