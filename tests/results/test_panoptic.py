# SPDX-License-Identifier: Apache-2.0
"""Fusing a class map and instances to segments that do not overlap."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from imp_trt.errors import InvalidInput
from imp_trt.results.panoptic import Panoptic, fuse_panoptic
from tests.support.pictures import CAT, DOG, FLOOR, WALL, answer, area

SIZE = (20, 30)
BACK, FRONT = area(SIZE, 0, 0, 10, 10), area(SIZE, 0, 6, 10, 16)


def semantic() -> Any:
    values = np.full(SIZE, WALL, np.uint8)
    values[15:] = FLOOR
    return values


def check(fused: Panoptic) -> None:
    """What holds for every panoptic map."""
    assert fused.ids.dtype == np.int32
    assert [s.id for s in fused.segments] == list(range(1, len(fused.segments) + 1))
    areas = np.bincount(fused.ids.ravel(), minlength=len(fused.segments) + 1)[1:]
    assert [s.area for s in fused.segments] == areas.tolist()
    assert all(areas)


def test_the_higher_score_takes_the_pixels_that_two_instances_claim():
    fused = answer(semantic(), [FRONT, BACK], [DOG, CAT], [0.9, 0.8]).panoptic()
    check(fused)
    np.testing.assert_array_equal(fused.ids == 1, FRONT)
    np.testing.assert_array_equal(fused.ids == 2, BACK & ~FRONT)
    assert [(s.label, s.is_thing) for s in fused.segments] == [
        (DOG, True),
        (CAT, True),
        (WALL, False),
        (FLOOR, False),
    ]
    assert [s.score for s in fused.segments] == pytest.approx([0.9, 0.8, 1, 1])
    np.testing.assert_array_equal(fused.ids == 3, (semantic() == WALL) & ~FRONT & ~BACK)


def test_the_order_of_the_instances_does_not_matter_their_scores_do():
    one = answer(semantic(), [FRONT, BACK], [DOG, CAT], [0.8, 0.9]).panoptic()
    check(one)
    np.testing.assert_array_equal(one.ids == 1, BACK)
    assert one.segments[0].label == CAT


@pytest.mark.parametrize(("covered", "kept"), [(5, True), (6, False)])
def test_an_instance_covered_more_than_half_is_dropped(covered, kept):
    over = area(SIZE, 0, 0, 10, covered)
    fused = answer(semantic(), [over, BACK], [DOG, DOG], [0.9, 0.8]).panoptic()
    check(fused)
    assert sum(s.is_thing for s in fused.segments) == 1 + kept
    # What the dropped one would have taken goes to the class map again.
    assert (fused.ids[BACK & ~over] == 2).all()
    assert fused.segments[1].is_thing == kept
    all_kept = answer(semantic(), [over, BACK], [DOG, DOG], [0.9, 0.8]).panoptic(max_covered=1)
    assert sum(s.is_thing for s in all_kept.segments) == 2


def test_the_same_object_twice_is_one_segment_even_without_a_limit():
    fused = answer(semantic(), [BACK, BACK], [DOG, CAT], [0.9, 0.8]).panoptic(max_covered=1)
    check(fused)
    assert [s.label for s in fused.segments if s.is_thing] == [DOG]


def test_a_thing_of_the_class_map_without_an_instance_is_void():
    values = semantic()
    values[FRONT] = DOG
    values[0, 29] = 255
    fused = answer(values, [BACK], [DOG], [0.9]).panoptic()
    check(fused)
    void = (FRONT & ~BACK) | (values == 255)
    np.testing.assert_array_equal(fused.ids == 0, void)


def test_weak_instances_and_small_stuff_are_left_out():
    found = answer(semantic(), [FRONT, BACK], [DOG, CAT], [0.5, 0.49])
    fused = found.panoptic(min_stuff_area=151)
    check(fused)
    assert [s.label for s in fused.segments] == [DOG, WALL]
    np.testing.assert_array_equal(fused.ids == 0, semantic() == FLOOR)  # 150 pixels
    assert len(found.panoptic(min_stuff_area=150).segments) == 3
    assert len(found.panoptic(min_score=0.4).segments) == 4


def test_the_empty_mask_of_an_instance_makes_no_segment():
    fused = answer(semantic(), [area(SIZE, 0, 0, 0, 0)], [DOG], [0.9]).panoptic()
    check(fused)
    assert [s.label for s in fused.segments] == [WALL, FLOOR]


def test_the_result_fuses_itself_with_the_same_rule_and_stays_as_it_was():
    result = answer(semantic(), [FRONT, BACK], [DOG, CAT], [0.9, 0.3])
    before = result.semantic.copy()
    one, other = (
        result.panoptic(0.2, 0.1, 151),
        fuse_panoptic(
            result.semantic,
            result.instances,
            result.classes,
            min_score=0.2,
            max_covered=0.1,
            min_stuff_area=151,
        ),
    )
    np.testing.assert_array_equal(one.ids, other.ids)
    assert one.segments == other.segments
    assert [s.label for s in one.segments] == [DOG, WALL]
    np.testing.assert_array_equal(result.semantic, before)
    assert repr(one) == "Panoptic(30x20, 1 things, 1 stuff)"


@pytest.mark.parametrize(
    "wrong", [{"min_score": 1.5}, {"max_covered": -0.1}, {"min_stuff_area": -1}, {"min_score": float("nan")}]
)
def test_values_out_of_range_are_rejected(wrong):
    with pytest.raises(InvalidInput, match=next(iter(wrong))):
        answer(semantic()).panoptic(**wrong)


def test_numpy_is_all_it_needs():
    code = """
import sys, numpy as np
from imp_trt.classes import ClassTable
from imp_trt.results.result import Instances, SegmentationResult
f, z = np.float32, np.zeros
found = Instances(np.array([[0, 0, 4, 4]], f), z(1, np.int32), np.ones(1, f), np.ones((1, 2, 2), f), (8, 8))
table = ClassTable(("a", "b"), (0,), ((0, 0, 0), (1, 1, 1)))
assert len(SegmentationResult(np.ones((8, 8), np.uint8), found, table).panoptic().segments) == 2
heavy = {"torch", "cv2", "scipy", "onnxruntime", "tensorrt"} & set(sys.modules)
assert not heavy, heavy
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
