# SPDX-License-Identifier: Apache-2.0
"""Instance mask projection and mask pasting in NumPy, for machines without PyTorch.

Computes the crop of the canvas that each instance covers, with the arithmetic and the order of operations of
the PyTorch implementation: the two are bit-identical.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from imp_trt.errors import InvalidInput
from imp_trt.ops.mask_projection.options import Sampling, check_options

__all__ = ["MaskCrop", "instance_mask_projection_numpy", "mask_crops", "paste_masks"]

_Float = NDArray[np.floating]
_Index = NDArray[np.intp]


_Dtype = np.dtype[np.floating]


class MaskCrop(NamedTuple):
    """The part of a canvas that one instance covers.

    `canvas[crop.rows, crop.columns]` is the region of `values` [h, w]; `instance` counts from 0.
    """

    instance: int
    rows: slice
    columns: slice
    values: _Float


class _Taps(NamedTuple):
    """The mask cells that one instance reads along one axis, for the pixels [start, stop)."""

    start: int
    stop: int
    first: _Index  # [stop - start] cells; for rect the first and
    second: _Index  # one past the last of a range
    weight0: _Float  # [stop - start], empty for rect
    weight1: _Float


def instance_mask_projection_numpy(
    boxes: ArrayLike,
    scores: ArrayLike,
    labels: ArrayLike,
    masks: ArrayLike,
    num_classes: int,
    canvas_size: tuple[int, int],
    spatial_scale: float = 1.0,
    sampling: Sampling = "bilinear",
) -> _Float:
    """Projects instance masks onto one plane per class: the maximum of score * mask at each pixel.

    Args:
        boxes: [B, N, 4] floating point, used as float32; xyxy in image pixels, pixel x covers [x, x + 1).
        scores: [B, N] floating point.
        labels: [B, N] integer; an instance whose label is outside [0, num_classes) contributes nothing.
        masks: [B, N, P, P] float16, float32 or float64 probabilities, P >= 1.
        num_classes: C, the planes of the canvas, >= 1.
        canvas_size: (H, W), each 1 to 65536.
        spatial_scale: canvas pixels per image pixel.
        sampling: how masks are sampled.

    Returns:
        canvas [B, C, H, W], dtype of masks, finite and >= 0.

    Raises:
        InvalidInput: a shape, dtype or option is invalid.
    """
    size = check_options(num_classes, canvas_size, spatial_scale, sampling)
    masks, boxes, scores, labels = _check_arrays(masks, boxes=boxes, scores=scores, labels=labels)
    dtype = _compute_dtype(masks)
    canvas = np.zeros((len(masks), num_classes, *size), dtype)
    with np.errstate(over="ignore", invalid="ignore"):
        scores = scores.astype(dtype)
        for image in range(len(masks)):
            kept = np.isfinite(scores[image]) & (labels[image] >= 0) & (labels[image] < num_classes)
            where = np.flatnonzero(kept)
            crops = _crops(masks[image][where], boxes[image][where], size, spatial_scale, sampling)
            for crop in crops:
                n = where[crop.instance]
                region = canvas[image, int(labels[image, n]), crop.rows, crop.columns]
                np.maximum(region, np.multiply(crop.values, scores[image, n], out=crop.values), out=region)
        np.minimum(canvas, np.finfo(masks.dtype).max, out=canvas)
    result: _Float = canvas.astype(masks.dtype, copy=False)
    return result


def mask_crops(
    masks: ArrayLike,
    boxes: ArrayLike,
    size: tuple[int, int],
    sampling: Sampling = "bilinear",
    spatial_scale: float = 1.0,
) -> Iterator[MaskCrop]:
    """Samples every mask on the part of an image that it covers, one after the other.

    Args:
        masks: [N, P, P] floating point.
        boxes: [N, 4] floating point xyxy in image pixels.
        size: (H, W) of the image.
        sampling: how masks are sampled.
        spatial_scale: canvas pixels per image pixel.

    Yields:
        a crop for each instance that covers a pixel, in order; float32 values (float64 for float64 masks).

    Raises:
        InvalidInput: a shape, dtype or option is invalid.
    """
    size = check_options(1, size, spatial_scale, sampling)
    masks, boxes = _check_arrays(masks, batched=False, boxes=boxes)
    return _crops(masks, boxes, size, spatial_scale, sampling)


def paste_masks(
    masks: ArrayLike, boxes: ArrayLike, size: tuple[int, int], sampling: Sampling = "bilinear"
) -> NDArray[np.float32]:
    """Pastes every mask into its own image.

    Args:
        masks: [N, P, P] floating point probabilities.
        boxes: [N, 4] floating point xyxy in image pixels.
        size: (H, W) of the image.
        sampling: how masks are sampled.

    Returns:
        [N, H, W] float32, 0 outside the boxes and for boxes that are empty or not finite.

    Raises:
        InvalidInput: a shape, dtype or option is invalid.
    """
    crops = mask_crops(masks, boxes, size, sampling)
    pasted = np.zeros((len(np.asarray(masks)), *size), np.float32)
    limit = np.finfo(np.float32).max
    for crop in crops:
        pasted[crop.instance, crop.rows, crop.columns] = np.clip(crop.values, -limit, limit)
    return pasted


def _crops(
    masks: _Float, boxes: _Float, size: tuple[int, int], spatial_scale: float, sampling: Sampling
) -> Iterator[MaskCrop]:
    dtype, cells = _compute_dtype(masks), masks.shape[-1]
    # Keeps a blend of the largest finite cells finite for any rounding: inf * 0 would be NaN.
    bound = np.finfo(dtype).max * dtype.type(1 - 2.0**-20)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        corners = boxes.astype(np.float32) * np.float32(spatial_scale)
        extent = corners[:, 2:] - corners[:, :2]
        valid = np.isfinite(corners).all(1) & np.isfinite(extent).all(1) & (extent > 0).all(1)
        where = np.flatnonzero(valid)
        low, extent = corners[where, :2], extent[where]
        rows = _axis(low[:, 1], extent[:, 1], size[0], cells, sampling, dtype)
        columns = _axis(low[:, 0], extent[:, 0], size[1], cells, sampling, dtype)
    for n, row, column in zip(where.tolist(), rows, columns, strict=True):
        if row.start < row.stop and column.start < column.stop:
            finite = np.where(np.isfinite(masks[n]), masks[n], 0).astype(dtype)
            lines = _sample(np.ascontiguousarray(np.clip(finite, -bound, bound).T), column, sampling)
            values = _sample(np.ascontiguousarray(lines.T), row, sampling)
            yield MaskCrop(n, slice(row.start, row.stop), slice(column.start, column.stop), values)


def _sample(lines: _Float, taps: _Taps, sampling: Sampling) -> _Float:
    """Samples lines [P, M] at the taps: [pixels, M]."""
    if sampling == "rect":
        # reduceat takes the maximum from each index up to the next; every other result is the gap between
        # two ranges. The line after the end is never part of a range.
        padded = np.concatenate([lines, lines[-1:]])
        ranges = np.stack([taps.first, taps.second], 1).ravel()
        maxima: _Float = np.maximum.reduceat(padded, ranges, axis=0)[::2]
        return maxima
    # In place: a new array per operation costs more than the arithmetic.
    blend: _Float = lines.take(taps.first, axis=0)
    blend *= taps.weight0[:, None]
    other = lines.take(taps.second, axis=0)
    other *= taps.weight1[:, None]
    blend += other
    return blend


def _axis(
    low: _Float, size: _Float, extent: int, cells: int, sampling: Sampling, dtype: _Dtype
) -> Iterator[_Taps]:
    """The taps of every box [low, low + size), float32 [K], along an axis of `extent` pixels."""
    pixels = np.arange(extent, dtype=np.float32)
    if sampling == "rect":
        yield from (_range_taps(pixels, edges) for edges in _edges(low, size, cells))
        return
    u = (pixels + np.float32(0.5) - low[:, None]) * np.float32(cells) / size[:, None]
    position = np.floor(u) if sampling == "nearest" else u - np.float32(0.5)
    inside = (position > -1) & (position < cells)
    start, count = inside.argmax(1), inside.sum(1)
    for k, (begin, end) in enumerate(zip(start.tolist(), (start + count).tolist(), strict=True)):
        near = position[k, begin:end]
        floor = np.floor(near)
        cell, fraction = floor.astype(np.intp), (near - floor).astype(dtype)
        weight0 = np.where(cell >= 0, 1 - fraction, dtype.type(0))
        weight1 = np.where(cell + 1 < cells, fraction, dtype.type(0))
        first, second = np.clip(cell, 0, cells - 1), np.clip(cell + 1, 0, cells - 1)
        yield _Taps(begin, end, first, second, weight0, weight1)


def _edges(low: _Float, size: _Float, cells: int) -> _Float:
    """Edges [K, P + 1] of the mask cells on the canvas, ascending (rect)."""
    j = np.arange(cells + 1, dtype=np.float32)
    edges: _Float = low[:, None] + j * size[:, None] / np.float32(cells)
    return edges


def _range_taps(pixels: _Float, edges: _Float) -> _Taps:
    """The range of cells that cover each pixel: floor(edge j) <= x < ceil(edge j + 1)."""
    first = np.searchsorted(edges[1:], pixels, side="right")
    past = np.searchsorted(edges[:-1], pixels + 1, side="left")
    covered = np.flatnonzero(first < past)
    start, stop = (int(covered[0]), int(covered[-1]) + 1) if len(covered) else (0, 0)
    none = np.zeros(0, edges.dtype)
    return _Taps(start, stop, first[start:stop], past[start:stop], none, none)


def _compute_dtype(masks: _Float) -> _Dtype:
    return np.dtype(np.float64 if masks.dtype == np.float64 else np.float32)


def _check_arrays(masks: ArrayLike, batched: bool = True, **others: ArrayLike) -> list[NDArray[Any]]:
    """All arguments as arrays, masks first, after checking their shapes and dtypes."""
    masks = np.asarray(masks)
    lead = masks.shape[:-2]
    if masks.ndim != 3 + batched or masks.shape[-1] != masks.shape[-2] or masks.shape[-1] < 1:
        expected = f"shape [{'B, ' if batched else ''}N, P, P] with P >= 1"
        raise InvalidInput("masks", expected=expected, got=list(masks.shape))
    arrays = {"masks": masks, **{name: np.asarray(value) for name, value in others.items()}}
    for name, array in arrays.items():
        shape = {"boxes": (*lead, 4), "masks": masks.shape}.get(name, lead)
        if array.shape != shape:
            raise InvalidInput(
                name, expected=f"shape {list(shape)} to match the masks", got=list(array.shape)
            )
        kinds, words = ("iu", "an integer dtype") if name == "labels" else ("f", "floating point")
        if array.dtype.kind not in kinds:
            raise InvalidInput(name, expected=words, got=array.dtype)
    return list(arrays.values())
