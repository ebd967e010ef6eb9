# SPDX-License-Identifier: Apache-2.0
"""What drawing needs besides strokes: class maps with smooth edges, and one shade for each instance."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from imp_trt.classes import ClassTable
from imp_trt.data.native_calls import native_call

Bgr = tuple[int, int, int]

# Degrees of hue, and factors of saturation and value. The first is the color of the class itself. Steps of
# hue are small enough that a class keeps its color, and neighbors in the cycle differ in brightness as well.
_SHADES = ((0, 1.0, 1.0), (14, 0.75, 1.35), (-14, 1.0, 0.72), (8, 0.55, 1.15), (-8, 1.15, 0.88))
_MIN_VALUE = 0.5  # darker colors cannot be told apart


def shaded(
    boxes: NDArray[np.float32],
    labels: Sequence[int],
    classes: ClassTable,
    track_ids: NDArray[np.int32] | None = None,
) -> list[Bgr]:
    """A BGR color for each instance: shades of its class's color that differ between neighbors.

    A tracked instance keeps its shade. The others' follow the order of the boxes from left to right within
    a class, which changes less from frame to frame than the order of the scores.

    Args:
        boxes: [N, 4] float32, xyxy.
        labels: N class indices.
        classes: their colors.
        track_ids: [N] int32, -1 for an instance that is not tracked; None without tracking.
    """
    ranks: dict[int, int] = {}
    colors: list[Bgr] = [(0, 0, 0)] * len(labels)
    for i in np.argsort(boxes[:, 0] + boxes[:, 2], kind="stable").tolist():
        label = labels[i]
        rank = ranks[label] = ranks.get(label, -1) + 1
        if track_ids is not None and track_ids[i] >= 0:
            rank = int(track_ids[i])
        colors[i] = shade(classes.palette[label], rank)
    return colors


def shade(rgb: tuple[int, int, int], rank: int) -> Bgr:
    """The color of the instance with this rank in its class, as BGR; the shades repeat after five."""
    degrees, saturation_factor, value_factor = _SHADES[rank % len(_SHADES)]
    if rank == 0:
        return (rgb[2], rgb[1], rgb[0])
    hue, saturation, value = colorsys.rgb_to_hsv(*(v / 255 for v in rgb))
    value = max(value, _MIN_VALUE) * value_factor
    if value > 1:  # what is lost in brightness is gained in whiteness
        saturation, value = saturation / value, 1.0
    r, g, b = colorsys.hsv_to_rgb((hue + degrees / 360) % 1, min(1.0, saturation * saturation_factor), value)
    return (round(b * 255), round(g * 255), round(r * 255))


@native_call()
def smooth_map(semantic: NDArray[np.uint8], size: tuple[int, int] | None) -> NDArray[np.uint8]:
    """A class map whose edges are smooth lines where enlargement had made them stairs.

    Args:
        semantic: [h, w] uint8 class indices, enlarged by nearest-neighbor interpolation; not changed.
        size: (h, w) before that; None if the map was not enlarged.

    Returns:
        [h, w] uint8; semantic itself if the map was not enlarged.
    """
    h, w = semantic.shape
    if size is None or (size[0] >= h and size[1] >= w):
        return semantic
    height, width = min(size[0], h), min(size[1], w)
    small = np.asarray(cv2.resize(semantic, (width, height), interpolation=cv2.INTER_NEAREST_EXACT), np.uint8)
    smooth: NDArray[np.uint8] = semantic.copy()
    for label in np.flatnonzero(np.bincount(small.ravel())).tolist():
        x, y, columns, rows = cv2.boundingRect((small == label).view(np.uint8))
        # The part with this class, and one pixel around it, in both sizes.
        x0, y0, x1, y1 = max(x - 1, 0), max(y - 1, 0), min(x + columns + 1, width), min(y + rows + 1, height)
        left, top, right, bottom = (
            x0 * w // width,
            y0 * h // height,
            -(-x1 * w // width),
            -(-y1 * h // height),
        )
        plane = (small[y0:y1, x0:x1] == label).view(np.uint8) * np.uint8(255)
        blurred = cv2.GaussianBlur(plane, (3, 3), 0.6, borderType=cv2.BORDER_REPLICATE)
        enlarged = cv2.resize(blurred, (right - left, bottom - top), interpolation=cv2.INTER_LINEAR)
        # More than half: at most one class, so that the order does not matter. Where three meet, none may
        # have it: the nearest pixel's class stays.
        smooth[top:bottom, left:right][np.asarray(enlarged) > 127] = label
    return smooth
