# SPDX-License-Identifier: Apache-2.0
"""Instances: connected components of the thing classes, and the boxes and labels of an instance map.

The IMP paper (Fu, Berg and Berg, ICCV 2019) derives the instances of its clothing dataset the same way.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray

from imp_trt.errors import InvalidInput

if TYPE_CHECKING:
    from imp_trt.data.dataset import Sample


def connected_instances(
    semantic: NDArray[np.uint8],
    things: Sequence[int],
    min_area: int = 50,
    connectivity: int = 8,
) -> NDArray[np.int32]:
    """Number the connected components of the thing classes.

    Args:
        semantic: [H, W] uint8 class indices.
        things: classes whose components become instances.
        min_area: components with fewer pixels are not instances.
        connectivity: 4 or 8.

    Returns:
        [H, W] int32, 0 = no instance; numbers 1, 2, ... are ordered by class, then by the
        component's first pixel in row-major order.

    Raises:
        InvalidInput: the map is not a uint8 [H, W] array, or the connectivity is not 4 or 8.
    """
    if semantic.ndim != 2 or semantic.dtype != np.uint8:
        raise InvalidInput("class map", expected="uint8 [H, W]", got=f"{semantic.dtype} {semantic.shape}")
    if connectivity not in (4, 8):
        raise InvalidInput("connectivity", expected="4 or 8", got=connectivity)
    instances = np.zeros(semantic.shape, np.int32)
    number = 0
    for thing in sorted(set(things)):
        mask = semantic == thing
        if not mask.any():
            continue
        count, components, stats, _ = cv2.connectedComponentsWithStats(
            mask.view(np.uint8), connectivity=connectivity
        )
        # OpenCV's labels may depend on its number of threads; the first pixel does not.
        kept: list[tuple[int, int, int]] = []
        for component in range(1, count):
            left, top, width, _, area = (int(v) for v in stats[component])
            if area >= min_area:
                first = int(np.argmax(components[top, left : left + width] == component))
                kept.append((top, left + first, component))
        table = np.zeros(count, np.int32)
        for _, _, component in sorted(kept):
            number += 1
            table[component] = number
        instances += table[components]
    return instances


def instance_table(
    sample: Sample,
) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.int32]]:
    """Tight boxes and classes of a sample's instances.

    Returns:
        boxes: [K, 4] float32 xyxy in continuous pixel coordinates: pixel x covers [x, x + 1), so
            x1 and y1 are one past the last column and row.
        labels: [K] int64 semantic class.
        ids: [K] int32 instance numbers, ascending.
    """
    ys, xs = np.nonzero(sample.instances)
    numbers = sample.instances[ys, xs]
    if numbers.size == 0:
        return np.zeros((0, 4), np.float32), np.zeros(0, np.int64), np.zeros(0, np.int32)
    order = np.argsort(numbers, kind="stable")
    numbers, ys, xs = numbers[order], ys[order], xs[order]
    starts = np.flatnonzero(np.r_[True, numbers[1:] != numbers[:-1]])
    boxes = np.stack(
        [
            np.minimum.reduceat(xs, starts),
            np.minimum.reduceat(ys, starts),
            np.maximum.reduceat(xs, starts) + 1,
            np.maximum.reduceat(ys, starts) + 1,
        ],
        axis=1,
    ).astype(np.float32)
    labels = sample.semantic[ys[starts], xs[starts]].astype(np.int64)
    return boxes, labels, numbers[starts].astype(np.int32)


def renumbered(instances: NDArray[np.int32], min_area: int = 1) -> NDArray[np.int32]:
    """Renumber an instance map to 1, 2, ... without gaps, in the same order.

    Args:
        instances: [H, W] int32, 0 = no instance.
        min_area: instances with fewer pixels are removed (set to 0).
    """
    areas = np.bincount(instances.ravel())
    kept = areas >= max(min_area, 1)
    kept[0] = False
    table = np.where(kept, np.cumsum(kept), 0).astype(np.int32)
    result: NDArray[np.int32] = table[instances]
    return result
