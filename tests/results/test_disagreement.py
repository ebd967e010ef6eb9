# SPDX-License-Identifier: Apache-2.0
"""Where class map and instances contradict each other."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from numpy.typing import NDArray

from imp_trt.classes import ClassTable
from imp_trt.results.result import Instances, SegmentationResult
from tests.bench import bench_disagreement
from tests.bench.bench_disagreement import tally

CLASSES = ClassTable(("road", "car", "sky", "person"), (1, 3), ((9, 0, 0), (0, 9, 0), (0, 0, 9), (9, 9, 0)))
ROAD, CAR, SKY, PERSON = range(4)


def result(
    semantic: NDArray[np.uint8],
    boxes: list[list[float]] | None = None,
    labels: list[int] | None = None,
    scores: list[float] | None = None,
    cell: float = 1.0,
    sampling: str = "nearest",
) -> SegmentationResult:
    count = len(boxes or [])
    instances = Instances(
        np.array(boxes or [], np.float32).reshape(count, 4),
        np.array(labels or [], np.int32),
        np.array(scores or [], np.float32),
        np.full((count, 4, 4), cell, np.float32),
        (semantic.shape[0], semantic.shape[1]),
        sampling,
    )
    return SegmentationResult(semantic, instances, CLASSES)


def halves(left: int, right: int) -> NDArray[np.uint8]:
    """[4, 8] uint8."""
    return np.repeat(np.array([[left] * 4 + [right] * 4], np.uint8), 4, axis=0)


def test_agreement_is_what_the_score_leaves() -> None:
    found = result(halves(ROAD, CAR), [[4, 0, 8, 4]], [CAR], [0.9]).disagreement
    assert found.dtype == np.float32
    assert not found[:, :4].any()
    assert found[:, 4:] == pytest.approx(0.1)


def test_an_object_where_the_map_says_stuff() -> None:
    found = result(halves(ROAD, SKY), [[0, 0, 4, 4]], [CAR], [0.8], cell=0.75).disagreement
    assert found[:, :4] == pytest.approx(0.6)
    assert not found[:, 4:].any()


def test_a_thing_in_the_map_without_an_object() -> None:
    found = result(halves(CAR, ROAD)).disagreement
    assert (found[:, :4] == 1).all()
    assert not found[:, 4:].any()


def test_another_object_is_no_support() -> None:
    found = result(halves(CAR, ROAD), [[0, 0, 4, 4]], [PERSON], [0.9]).disagreement
    assert (found[:, :4] == 1).all()


def test_two_objects_on_one_place_support_the_class_of_either() -> None:
    boxes = [[0, 0, 4, 4], [0, 0, 4, 4], [0, 0, 4, 4]]
    for said, left in ((CAR, 0.4), (PERSON, 0.1), (ROAD, 0.9)):
        found = result(halves(said, SKY), boxes, [PERSON, CAR, CAR], [0.9, 0.6, 0.3]).disagreement
        assert found[:, :4] == pytest.approx(left)


def test_silence_on_what_has_no_class_and_from_what_is_no_thing() -> None:
    assert not result(halves(255, ROAD), [[0, 0, 4, 4]], [CAR], [0.9]).disagreement.any()
    assert not result(halves(ROAD, ROAD), [[0, 0, 4, 4]], [SKY], [0.9]).disagreement.any()
    assert not result(halves(ROAD, ROAD), [[0, 0, 4, 4]], [CAR], [np.nan]).disagreement.any()
    assert (result(halves(CAR, ROAD), [[9, 9, 9, 9]], [CAR], [0.9]).disagreement[:, :4] == 1).all()


def test_the_smallest_images_and_networks_without_things() -> None:
    one = np.array([[CAR]], np.uint8)
    assert result(one).disagreement.tolist() == [[1]]
    assert result(one, [[0, 0, 1, 1]], [CAR], [0.75]).disagreement.tolist() == [[0.25]]
    stuff = ClassTable(("a", "b"), (), ((0, 0, 0), (1, 1, 1)))
    without = SegmentationResult(
        np.eye(5, dtype=np.uint8), result(np.eye(5, dtype=np.uint8)).instances, stuff
    )
    assert not without.disagreement.any()


@pytest.mark.parametrize("sampling", ["bilinear", "nearest", "rect"])
def test_it_is_what_the_operator_says(sampling: str) -> None:
    rng = np.random.default_rng(3)
    semantic = rng.choice(np.array([ROAD, CAR, SKY, PERSON, 255], np.uint8), (48, 64))
    corners = rng.uniform(-10, 50, (20, 2))
    instances = Instances(
        np.concatenate([corners, corners + rng.uniform(3, 40, (20, 2))], 1).astype(np.float32),
        rng.integers(0, 4, 20).astype(np.int32),
        np.sort(rng.random(20).astype(np.float32))[::-1].copy(),
        rng.random((20, 7, 7), np.float32),
        (48, 64),
        sampling,
    )
    found = SegmentationResult(semantic, instances, CLASSES)
    canvas = found.canvas(scale=1.0)
    wanted = np.where(np.isin(semantic, CLASSES.stuff), canvas.max(axis=0), 0)
    for plane, thing in enumerate(CLASSES.things):
        wanted[semantic == thing] = 1 - canvas[plane][semantic == thing]
    assert np.array_equal(found.disagreement, wanted)
    assert 0 < found.disagreement.mean() < 1


def test_computed_once_and_left_behind_by_copies() -> None:
    found = result(halves(CAR, ROAD), [[0, 0, 4, 4]], [CAR], [0.9])
    before = found.semantic.copy(), found.instances.masks.copy()
    assert found.disagreement is found.disagreement
    with pytest.raises(ValueError, match="read-only"):
        found.disagreement[0, 0] = 0
    assert np.array_equal(found.semantic, before[0])
    assert np.array_equal(found.instances.masks, before[1])
    copied = pickle.loads(pickle.dumps(found))  # noqa: S301
    assert "disagreement" not in copied.__dict__
    assert np.array_equal(copied.disagreement, found.disagreement)


def test_separation_of_right_and_wrong_in_the_benchmark() -> None:
    rng = np.random.default_rng(0)
    values = rng.random((30, 40), np.float32)
    everywhere = np.ones_like(values, np.bool_)
    assert bench_disagreement.separation(tally(values, values > 0.5, everywhere)) == 1
    assert bench_disagreement.separation(tally(values, values < 0.5, everywhere)) == 0
    chance = tally(values, rng.random(values.shape) < 0.3, everywhere)
    assert chance.sum() == values.size
    assert bench_disagreement.separation(chance) == pytest.approx(0.5, abs=0.06)
    assert tally(values, values > 0.5, values < 0.5)[:, 1].sum() == 0
