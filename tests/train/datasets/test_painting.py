# SPDX-License-Identifier: Apache-2.0
"""Label maps from regions, against painting whole masks one over the other."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from imp_trt.classes import ClassTable, default_palette
from imp_trt.train.datasets.painting import paint
from imp_trt.train.datasets.regions import Region

CLASSES = ClassTable(("background", "road", "car"), (2,), default_palette(3))
Objects = list[tuple[int, bool, Region]]


def rectangles(seed: int, count: int, size: tuple[int, int], largest: int) -> Objects:
    """Random ones as run lengths, some empty, some crowds."""
    rng = np.random.default_rng(seed)
    objects: Objects = []
    for _ in range(count):
        mask = np.zeros(size, np.uint8)
        (top, left), (height, width) = (rng.integers(0, side) for side in (size, (largest, largest)))
        mask[top : top + height, left : left + width] = 1
        flat = mask.flatten("F")
        runs = np.diff(np.r_[0, np.flatnonzero(np.diff(np.r_[0, flat])), flat.size])
        objects.append((int(rng.integers(1, 3)), rng.random() < 0.2, Region(size, runs=runs)))
    return objects


@pytest.mark.parametrize("seed", range(6))
def test_masks_one_over_the_other(seed: int) -> None:
    objects = rectangles(seed, 12, (20, 31), 16)
    sample = paint(np.zeros((20, 31, 3), np.uint8), objects, CLASSES, 0)
    order = sorted(range(12), key=lambda k: (not objects[k][1], -int(objects[k][2].mask().sum())))
    semantic, owner = np.zeros((20, 31), np.uint8), np.full((20, 31), -1)
    for k in order:
        mask = objects[k][2].mask()
        semantic[mask], owner[mask] = objects[k][0], k
    assert np.array_equal(sample.semantic, semantic)
    crowd = np.isin(owner, [k for k, (label, group, _) in enumerate(objects) if label == 2 and group])
    assert np.array_equal(np.zeros_like(crowd) if sample.crowd is None else sample.crowd > 0, crowd)
    things = np.isin(owner, [k for k, (label, group, _) in enumerate(objects) if label == 2 and not group])
    assert np.array_equal(sample.instances > 0, things)
    numbers = {int(owner[sample.instances == k][0]) for k in range(1, sample.instances.max() + 1)}
    assert numbers == set(owner[things].tolist())


def test_many_small_objects_of_a_large_image_take_little_memory() -> None:
    size = (600, 800)
    objects = rectangles(0, 60, size, 40)
    image = np.zeros((*size, 3), np.uint8)
    tracemalloc.start()
    try:
        paint(image, objects, CLASSES, 0)
        assert tracemalloc.get_traced_memory()[1] < 25 * size[0] * size[1]
    finally:
        tracemalloc.stop()
