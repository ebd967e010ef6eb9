# SPDX-License-Identifier: Apache-2.0
"""Labeled images and answers made of whole masks, for what compares the two."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from imp_trt.classes import ClassTable
from imp_trt.data.dataset import Sample
from imp_trt.results.result import Instances, SegmentationResult

CLASSES = ClassTable(("cat", "wall", "dog", "floor"), (0, 2), ((9, 0, 0), (0, 9, 0), (0, 0, 9), (9, 9, 0)))
"""Two things, of which one has index 0, and two stuff classes."""
CAT, WALL, DOG, FLOOR = range(4)


def labeled(
    semantic: NDArray[np.uint8],  # [H, W]
    instances: NDArray[np.int32] | None = None,  # [H, W]
) -> Sample:
    numbers = np.zeros(semantic.shape, np.int32) if instances is None else instances
    return Sample(np.zeros((*semantic.shape, 3), np.uint8), semantic, numbers)


class Pets:
    """A few images of a cat and a dog, identified by their first pixel."""

    name, classes, terms, size = "pets", CLASSES, None, (48, 64)

    def __init__(self, count: int) -> None:
        self._count = count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Sample:
        semantic = np.full(self.size, WALL, np.uint8)
        semantic[30:] = FLOOR
        numbers = np.zeros(self.size, np.int32)
        for number, label in enumerate((CAT, DOG), 1):
            mask = area(self.size, 10, 25 * number - 15 + index, 40, 25 * number + index)
            semantic[mask], numbers[mask] = label, number
        sample = labeled(semantic, numbers)
        sample.image[0, 0] = index
        return sample


def answer(
    semantic: NDArray[np.uint8],  # [H, W]
    masks: Sequence[NDArray[np.bool_]] = (),  # each [H, W]
    labels: Sequence[int] = (),
    scores: Sequence[float] = (),
    classes: ClassTable = CLASSES,
    timing: Mapping[str, float] | None = None,
) -> SegmentationResult:
    """A result whose instances have exactly these masks: one cell of the mask grid for each pixel."""
    height, width = semantic.shape
    side, count = max(height, width), len(masks)
    grid = np.zeros((count, side, side), np.float32)
    boxes = np.zeros((count, 4), np.float32)
    for index, mask in enumerate(masks):
        grid[index, :height, :width] = mask
        if mask.any():
            rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
            boxes[index] = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
    instances = Instances(
        boxes,
        np.array(labels, np.int32),
        np.array(scores, np.float32),
        grid,
        (height, width),
        mask_boxes=np.tile(np.array([0, 0, side, side], np.float32), (count, 1)),
    )
    return SegmentationResult(semantic, instances, classes, timing or {})


def area(size: tuple[int, int], top: int, left: int, bottom: int, right: int) -> NDArray[np.bool_]:
    """[H, W] bool, one rectangle."""
    mask = np.zeros(size, np.bool_)
    mask[top:bottom, left:right] = True
    return mask
