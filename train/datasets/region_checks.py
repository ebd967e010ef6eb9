# SPDX-License-Identifier: Apache-2.0
"""Looks at regions that are valid and may mean something else: boxes as polygons, and filled holes."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from imp_trt.train.datasets.regions import Region

MIN_OBJECTS = 10
"""With fewer objects than this, rectangles may be a coincidence."""

_TOLERANCE = 0.02
"""How far a rectangle may be off, as a fraction of its extent: tools round."""

_log = logging.getLogger(__name__)


def report_boxes(where: str, objects: Iterable[Sequence[NDArray[np.float64]]]) -> None:
    """Warn if all objects are rectangles, upright or rotated: an export of boxes, which has no outlines.

    Args:
        where: name of the file, for messages.
        objects: polygons of each object: x0, y0, x1, y1, ...; none for RLE.
    """
    count = 0
    for polygons in objects:
        if len(polygons) != 1 or not _is_rectangle(polygons[0]):
            return
        count += 1
    if count >= MIN_OBJECTS:
        text = "%s: all %d objects are rectangles; if they are boxes exported as polygons, masks become boxes"
        _log.warning(text, where, count)


def _is_rectangle(polygon: NDArray[np.float64]) -> bool:
    """Whether it is a parallelogram, which a rectangle is in fractions of width and height."""
    points = polygon.reshape(-1, 2)
    if len(points) == 5 and np.array_equal(points[0], points[4]):
        points = points[:4]
    if len(points) != 4:
        return False
    off = np.abs(points[0] - points[1] + points[2] - points[3]).max()
    return bool(off <= _TOLERANCE * np.ptp(points, axis=0).max())


def fills_hole(region: Region, area: object) -> bool:
    """Whether a polygon of a region lies within another one, where it adds nothing: a hole was meant.

    Args:
        area: the annotation's; polygons are not compared where it is the sum of theirs. May be of any type.
    """
    polygons = [polygon.reshape(-1, 2) for polygon in region.polygons]
    if len(polygons) < 2:
        return False
    if type(area) in (int, float):
        total = sum(map(_area, polygons))
        if abs(total - area) <= _TOLERANCE * total:  # type: ignore[operator]  # a number
            return False
    boxes = [(points.min(axis=0), points.max(axis=0)) for points in polygons]
    return any(
        (low > outer_low).all() and (high < outer_high).all() and _contains(outer, inner)
        for outer, (outer_low, outer_high) in zip(polygons, boxes, strict=True)
        for inner, (low, high) in zip(polygons, boxes, strict=True)
    )


def _area(points: NDArray[np.float64]) -> float:
    x, y = points.T
    return abs(float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1)))) / 2


def _contains(outer: NDArray[np.float64], inner: NDArray[np.float64]) -> bool:
    """Whether all vertices [N, 2] of a polygon are inside another one [M, 2]."""
    x, y = inner[:, 0, None], inner[:, 1, None]  # [N, 1]
    (x0, y0), (x1, y1) = outer.T, np.roll(outer, -1, axis=0).T  # [M]
    crosses = (y0 > y) != (y1 > y)  # [N, M]
    rise = np.where(y1 == y0, 1.0, y1 - y0)
    left = x < (x1 - x0) * (y - y0) / rise + x0
    return bool(((crosses & left).sum(axis=1) % 2 == 1).all())
