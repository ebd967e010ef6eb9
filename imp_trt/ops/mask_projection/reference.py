# SPDX-License-Identifier: Apache-2.0
"""Reference implementation of instance mask projection, in loops and float64.

Coordinates are computed in float32, in the same order of operations as in all implementations; sampled values
in float64.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from imp_trt.ops.mask_projection.options import Sampling

_F = np.float32


def instance_mask_projection_reference(
    boxes: NDArray[np.floating],
    scores: NDArray[np.floating],
    labels: NDArray[np.integer],
    masks: NDArray[np.floating],
    num_classes: int,
    canvas_size: tuple[int, int],
    spatial_scale: float = 1.0,
    sampling: Sampling = "bilinear",
) -> NDArray[np.float64]:
    """Projects instance masks onto one plane per class: the maximum of score * mask at each pixel.

    Args:
        boxes: [B, N, 4] float32 xyxy in image pixels, pixel x covers [x, x + 1).
        scores: [B, N] floating point.
        labels: [B, N] integer.
        masks: [B, N, P, P] floating point probabilities; their dtype determines the saturation.
        num_classes: C, the planes of the canvas.
        canvas_size: (H, W).
        spatial_scale: canvas pixels per image pixel, used as float32.
        sampling: how masks are sampled.

    Returns:
        canvas [B, C, H, W] float64, at most the largest finite value of the dtype of masks.
    """
    sample = {"bilinear": _bilinear, "nearest": _nearest, "rect": _rect}[sampling]
    height, width = canvas_size
    limit = float(np.finfo(masks.dtype).max)
    canvas = np.zeros((boxes.shape[0], num_classes, height, width), np.float64)
    for b in range(boxes.shape[0]):
        for n in range(boxes.shape[1]):
            box = _canvas_box(boxes[b, n], spatial_scale)
            score, label = float(scores[b, n]), int(labels[b, n])
            if box is None or not math.isfinite(score) or not 0 <= label < num_classes:
                continue
            mask = masks[b, n].astype(np.float64)
            mask = np.where(np.isfinite(mask), mask, 0.0)
            plane = canvas[b, label]
            for y in range(height):
                for x in range(width):
                    plane[y, x] = max(plane[y, x], score * sample(mask, box, x, y))
    return np.minimum(canvas, limit)


def _canvas_box(corners: NDArray[np.floating], scale: float) -> tuple[np.float32, ...] | None:
    """(x0, y0, w, h) in float32 canvas pixels, None if the instance contributes nothing."""
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        x0, y0, x1, y1 = (_F(_F(corner) * _F(scale)) for corner in corners)
        w, h = _F(x1 - x0), _F(y1 - y0)
    finite = all(math.isfinite(v) for v in (x0, y0, x1, y1, w, h))
    if not finite or x1 <= x0 or y1 <= y0:
        return None
    return x0, y0, w, h


def _coordinate(pixel: int, low: np.float32, size: np.float32, cells: int) -> float:
    """u = (x + 0.5 - x0) * P / w, every operation rounded to float32; may overflow to an infinity."""
    with np.errstate(over="ignore", under="ignore"):
        return float(_F(_F(_F(_F(pixel) + _F(0.5)) - low) * _F(cells)) / size)


def _bilinear(mask: NDArray[np.float64], box: tuple[np.float32, ...], x: int, y: int) -> float:
    """The blend of the four cells around the pixel center, zeros outside the mask."""
    x0, y0, w, h = box
    cells = mask.shape[0]
    u, v = _coordinate(x, x0, w, cells) - 0.5, _coordinate(y, y0, h, cells) - 0.5
    if not (-1 < u < cells and -1 < v < cells):
        return 0.0
    total = 0.0
    for i in (math.floor(v), math.floor(v) + 1):
        for j in (math.floor(u), math.floor(u) + 1):
            if 0 <= i < cells and 0 <= j < cells:
                total += (1 - abs(v - i)) * (1 - abs(u - j)) * mask[i, j]
    return total


def _nearest(mask: NDArray[np.float64], box: tuple[np.float32, ...], x: int, y: int) -> float:
    """The cell that contains the pixel center; the box is half-open."""
    x0, y0, w, h = box
    cells = mask.shape[0]
    u, v = _coordinate(x, x0, w, cells), _coordinate(y, y0, h, cells)
    if not (0 <= u < cells and 0 <= v < cells):
        return 0.0
    return float(mask[math.floor(v), math.floor(u)])


def _rect(mask: NDArray[np.float64], box: tuple[np.float32, ...], x: int, y: int) -> float:
    """The maximum of the cells whose pixel rectangle contains the pixel."""
    x0, y0, w, h = box
    cells = mask.shape[0]
    values = [
        float(mask[i, j])
        for i in range(cells)
        if _covers(i, y0, h, cells, y)
        for j in range(cells)
        if _covers(j, x0, w, cells, x)
    ]
    return max(values, default=0.0)


def _covers(j: int, low: np.float32, size: np.float32, cells: int, pixel: int) -> bool:
    """Whether floor(low + j * size / P) <= pixel < ceil(low + (j + 1) * size / P), edges in float32."""
    return _floor(_edge(j, low, size, cells)) <= pixel < _ceil(_edge(j + 1, low, size, cells))


def _edge(j: int, low: np.float32, size: np.float32, cells: int) -> float:
    with np.errstate(over="ignore", under="ignore"):
        return float(low + _F(_F(_F(j) * size) / _F(cells)))


def _floor(value: float) -> float:
    return math.floor(value) if math.isfinite(value) else value


def _ceil(value: float) -> float:
    return math.ceil(value) if math.isfinite(value) else value
