# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imp_trt.data.dataset import Sample
from imp_trt.data.instance_maps import connected_instances, instance_table, renumbered
from imp_trt.errors import InvalidInput


def _flooded(semantic: np.ndarray, things: list[int], min_area: int, connectivity: int) -> np.ndarray:
    """Plain flood fill, class by class and pixel by pixel."""
    steps = [(0, 1), (1, 0), (0, -1), (-1, 0)]
    if connectivity == 8:
        steps += [(1, 1), (1, -1), (-1, 1), (-1, -1)]
    height, width = semantic.shape
    result, seen, number = np.zeros((height, width), np.int32), np.zeros((height, width), bool), 0
    for thing in sorted(things):
        for start in np.argwhere(semantic == thing).tolist():
            if seen[tuple(start)]:
                continue
            stack, component = [tuple(start)], []
            seen[tuple(start)] = True
            while stack:
                y, x = stack.pop()
                component.append((y, x))
                for dy, dx in steps:
                    ny, nx = y + dy, x + dx
                    inside = 0 <= ny < height and 0 <= nx < width
                    if inside and not seen[ny, nx] and semantic[ny, nx] == thing:
                        seen[ny, nx] = True
                        stack.append((ny, nx))
            if len(component) >= min_area:
                number += 1
                result[tuple(np.array(component).T)] = number
    return result


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    height=st.integers(1, 14),
    width=st.integers(1, 14),
    min_area=st.integers(0, 6),
    connectivity=st.sampled_from([4, 8]),
)
def test_components_equal_a_flood_fill(seed, height, width, min_area, connectivity) -> None:
    semantic = np.random.default_rng(seed).choice([0, 1, 2, 255], (height, width), p=[0.3, 0.4, 0.2, 0.1])
    semantic = semantic.astype(np.uint8)
    found = connected_instances(semantic, [2, 1], min_area, connectivity)
    assert found.dtype == np.int32
    assert np.array_equal(found, _flooded(semantic, [1, 2], min_area, connectivity))


def test_small_components_keep_their_class_but_get_no_number() -> None:
    semantic = np.zeros((12, 12), np.uint8)
    semantic[1:9, 1:8] = 3  # 56 pixels
    semantic[10:12, 0:12] = 3  # 24 pixels
    found = connected_instances(semantic, [3])
    assert found.max() == 1
    assert (found == 1).sum() == 56


@pytest.mark.parametrize(
    ("semantic", "connectivity"),
    [(np.zeros((3, 3, 1), np.uint8), 8), (np.zeros((3, 3), np.int32), 8), (np.zeros((3, 3), np.uint8), 6)],
)
def test_wrong_maps_are_rejected(semantic, connectivity) -> None:
    with pytest.raises(InvalidInput, match="expected"):
        connected_instances(semantic, [1], connectivity=connectivity)


def test_table_has_tight_exclusive_boxes_and_classes() -> None:
    semantic = np.zeros((10, 20), np.uint8)
    instances = np.zeros((10, 20), np.int32)
    semantic[2:5, 3:9], instances[2:5, 3:9] = 4, 2
    semantic[9, 19], instances[9, 19] = 5, 1
    semantic[0, 0], instances[0, 0] = 4, 2  # a second part of instance 2
    boxes, labels, ids = instance_table(Sample(np.zeros((10, 20, 3), np.uint8), semantic, instances))
    assert boxes.dtype == np.float32
    assert boxes.tolist() == [[19, 9, 20, 10], [0, 0, 9, 5]]
    assert labels.tolist() == [5, 4]
    assert ids.tolist() == [1, 2]


def test_table_of_nothing_is_empty() -> None:
    empty = Sample(np.zeros((3, 4, 3), np.uint8), np.zeros((3, 4), np.uint8), np.zeros((3, 4), np.int32))
    boxes, labels, ids = instance_table(empty)
    assert boxes.shape == (0, 4)
    assert labels.shape == ids.shape == (0,)


def test_renumbering_closes_gaps_and_drops_small_ones() -> None:
    instances = np.array([[0, 5, 5, 2], [9, 9, 9, 2]], np.int32)
    assert renumbered(instances).tolist() == [[0, 2, 2, 1], [3, 3, 3, 1]]
    assert renumbered(instances, min_area=3).tolist() == [[0, 0, 0, 0], [1, 1, 1, 0]]
    assert instances.max() == 9
    assert renumbered(np.zeros((2, 2), np.int32)).max() == 0
