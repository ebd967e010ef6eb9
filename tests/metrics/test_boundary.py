# SPDX-License-Identifier: Apache-2.0
"""Scores near the boundaries, against a search over all pairs of pixels."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from imp_trt.errors import InvalidInput
from imp_trt.metrics.boundary import (
    DISTANCES,
    OBJECT_DISTANCES,
    BoundaryMetric,
    BoundaryScores,
    object_distance,
)
from imp_trt.metrics.semantic import ConfusionMatrix, SemanticMetric
from tests.support.pictures import CAT, CLASSES, DOG, FLOOR, WALL, answer, labeled

LIMITS = (0, 1, 2, 5, 10)


def blobs(rng: np.random.Generator, size: tuple[int, int], void: bool) -> NDArray[np.uint8]:
    coarse = rng.integers(0, len(CLASSES), (size[0] // 4 + 1, size[1] // 4 + 1), np.uint8)
    if void:
        coarse[rng.random(coarse.shape) < 0.15] = 255
    whole = coarse.repeat(4, axis=0).repeat(4, axis=1)
    return np.ascontiguousarray(whole[: size[0], : size[1]])


def squared_distances(truth: NDArray[np.uint8]) -> NDArray[np.int64]:
    """To the nearest boundary pixel, by trying all of them."""
    height, width = truth.shape
    edge = []
    for y in range(height):
        for x in range(width):
            near = [(y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)]
            values = [int(truth[b, a]) for b, a in near if 0 <= b < height and 0 <= a < width]
            if truth[y, x] != 255 and any(v not in (truth[y, x], 255) for v in values):
                edge.append((y, x))
    ys, xs = np.mgrid[:height, :width]
    if not edge:
        return np.full(truth.shape, 1 << 40)
    return np.min([(ys - b) ** 2 + (xs - a) ** 2 for b, a in edge], axis=0)


@pytest.mark.parametrize("void", [False, True])
def test_bands_are_those_of_a_search_over_all_pixels(void):
    rng = np.random.default_rng(7)
    measure = BoundaryMetric(CLASSES, LIMITS)
    matrices = [ConfusionMatrix(len(CLASSES)) for _ in LIMITS]
    for size in ((37, 23), (16, 48), (30, 31)):
        truth, found = blobs(rng, size, void), blobs(rng, size, False)
        truth[:, :12] = truth[0, 0]  # something far from every boundary
        measure.add(labeled(truth), answer(found))
        squared = squared_distances(truth)
        for limit, matrix in zip(LIMITS, matrices, strict=True):
            matrix.add(np.where(squared <= limit**2, truth, 255).astype(np.uint8), found)
    scores = measure.scores()
    assert matrices[0].counts.sum() < matrices[2].counts.sum() < matrices[-1].counts.sum()
    for band, matrix in zip(scores.bands, matrices, strict=True):
        expected = matrix.scores(CLASSES)
        np.testing.assert_array_equal(band.iou, expected.iou)
        np.testing.assert_array_equal(band.accuracy, expected.accuracy)


@pytest.mark.parametrize("limit", DISTANCES)
def test_distances_are_exact_up_to_the_largest_band(limit):
    size = (420, 640)
    truth = np.full(size, WALL, np.uint8)
    truth[0, 0] = FLOOR
    edge = [(0, 0), (0, 1), (1, 0)]
    ys, xs = np.mgrid[: size[0], : size[1]]
    inside = np.any([(ys - b) ** 2 + (xs - a) ** 2 <= limit**2 for b, a in edge], axis=0)
    measure = BoundaryMetric(CLASSES, (limit,))
    measure.add(labeled(truth), answer(np.where(inside, truth, DOG).astype(np.uint8)))
    assert measure.scores().bands[0].pixel_accuracy == 1
    # The same with the inside wrong and the outside right: not one pixel of the outside may count.
    measure = BoundaryMetric(CLASSES, (limit,))
    measure.add(labeled(truth), answer(np.where(inside, DOG, truth).astype(np.uint8)))
    assert measure.scores().bands[0].pixel_accuracy == 0


def test_an_image_without_a_boundary_adds_nothing_to_the_bands():
    truth = np.full((20, 30), WALL, np.uint8)
    truth[5:9, 5:9] = 255  # void makes no boundary
    measure = BoundaryMetric(CLASSES)
    measure.add(labeled(truth), answer(truth))
    assert all(np.isnan(band.pixel_accuracy) for band in measure.scores().bands)


def test_a_band_that_holds_the_image_scores_what_the_class_map_scores():
    rng = np.random.default_rng(1)
    bands, whole = BoundaryMetric(CLASSES), SemanticMetric(CLASSES)
    for _ in range(3):
        picture = labeled(blobs(rng, (40, 60), True)), answer(blobs(rng, (40, 60), False))
        bands.add(*picture)
        whole.add(*picture)
    assert bands.scores().bands[-1].to_dict() == replace(whole.scores(), confusion=None).to_dict()


def outline(mask: NDArray[np.bool_], void: NDArray[np.bool_], width: int) -> NDArray[np.bool_]:
    """Pixels of a mask with something else, or the end of the image, in the square around them."""
    solid = np.pad(mask | void, width)
    windows = np.lib.stride_tricks.sliding_window_view(solid, (2 * width + 1, 2 * width + 1))
    return mask & ~void & ~windows.all(axis=(2, 3))


@pytest.mark.parametrize("void", [False, True])
def test_boundary_iou_is_that_of_a_search_over_windows(void):
    rng = np.random.default_rng(11)
    measure = BoundaryMetric(CLASSES)
    inter, union = np.zeros(len(CLASSES)), np.zeros(len(CLASSES))
    for size in ((60, 80), (96, 128)):  # diagonals of 100 and 160: bands 2 and 3 pixels wide
        truth = blobs(rng, size, void).repeat(3, 0).repeat(3, 1)[: size[0], : size[1]].copy()
        found = np.roll(truth, 1, axis=1)
        found[found == 255] = WALL
        measure.add(labeled(truth), answer(found))
        unknown = truth == 255
        for index in range(len(CLASSES)):
            a, b = (outline(m == index, unknown, size[0] // 30) for m in (truth, found))
            inter[index] += np.count_nonzero(a & b)
            union[index] += np.count_nonzero(a | b)
    scores = measure.scores()
    np.testing.assert_array_equal(scores.iou, inter / union)
    assert 0.1 < scores.mean_iou < 0.9
    assert scores.thing_iou == pytest.approx(scores.iou[[CAT, DOG]].mean())
    assert scores.stuff_iou == pytest.approx(scores.iou[[WALL, FLOOR]].mean())


def test_boundary_iou_of_a_shifted_square_by_hand():
    truth = np.full((30, 40), WALL, np.uint8)  # diagonal 50: bands 1 pixel wide
    found = truth.copy()
    truth[10:20, 10:20] = CAT
    found[10:20, 11:21] = CAT
    measure = BoundaryMetric(CLASSES)
    measure.add(labeled(truth), answer(found))
    # Rings of 36 pixels; shifted by one column, they share the 9 + 9 pixels of top and bottom.
    assert measure.scores().iou[CAT] == pytest.approx(18 / (36 + 36 - 18))
    assert np.isnan(measure.scores().iou[DOG])


def test_scores_come_back_from_json_as_they_were():
    rng = np.random.default_rng(5)
    measure = BoundaryMetric(CLASSES)
    measure.add(labeled(blobs(rng, (40, 60), True)), answer(blobs(rng, (40, 60), False)))
    data = measure.scores().to_dict()
    assert data["distances"] == [10, 25, 50, 100, 200, 400]
    assert len(data["bands"]) == 6
    assert BoundaryScores.from_dict(json.loads(json.dumps(data)), CLASSES).to_dict() == data


def test_results_of_earlier_versions_have_no_bands_of_objects():
    measure = BoundaryMetric(CLASSES)
    measure.add(labeled(np.full((4, 4), WALL, np.uint8)), answer(np.full((4, 4), WALL, np.uint8)))
    data = json.loads(json.dumps(measure.scores().to_dict()))
    del data["object_distances"], data["object_bands"]
    assert BoundaryScores.from_dict(data, CLASSES).object_bands == ()


def test_distances_to_objects_are_those_of_a_search_over_all_pixels():
    instances = np.zeros((26, 40), np.int32)
    instances[3:11, 4:12] = 7  # size 8
    instances[10:26, 14:39] = 3  # size 20, at the lower border
    instances[0, 39] = 9  # one pixel
    instances[12:14, 20:22] = 0  # a hole
    ys, xs = np.mgrid[:26, :40]
    expected = np.full(instances.shape, np.inf)
    for ident in (3, 7, 9):
        mask = instances == ident
        for y, x in np.ndindex(instances.shape):
            other = mask != mask[y, x]
            distance = np.sqrt(((ys - y) ** 2 + (xs - x) ** 2)[other].min()) - 0.5
            expected[y, x] = min(expected[y, x], distance / np.sqrt(mask.sum()))
    expected[expected > OBJECT_DISTANCES[-1]] = np.inf
    np.testing.assert_allclose(object_distance(instances), expected, rtol=1e-5)


def test_bands_of_objects_hold_the_errors_at_their_rims():
    truth = np.full((60, 60), WALL, np.uint8)
    truth[20:40, 20:40] = CAT
    objects = (truth == CAT).astype(np.int32)
    found = truth.copy()
    found[:, 39] = WALL  # the cat's last column is missed: 0.5 px inside, of 20
    measure = BoundaryMetric(CLASSES)
    measure.add(labeled(truth, objects), answer(found))
    scores = measure.scores()
    assert scores.object_distances == (0.02, 0.05, 0.1, 0.2, 0.5)
    # Within 0.02 (0.4 px) lies nothing; within 0.05 the rim of 76 pixels, of which 20 are missed.
    assert np.isnan(scores.object_bands[0].iou[CAT])
    assert scores.object_bands[1].iou[CAT] == pytest.approx(56 / 76)
    assert scores.object_bands[-1].iou[CAT] == pytest.approx(380 / 400)


def test_an_object_that_fills_the_image_has_no_boundary():
    assert np.isinf(object_distance(np.ones((5, 6), np.int32))).all()


@pytest.mark.parametrize("distances", [(), (5, 5), (10, 5), (-1, 3)])
def test_distances_that_do_not_ascend_are_rejected(distances):
    with pytest.raises(InvalidInput, match="ascending"):
        BoundaryMetric(CLASSES, distances)


def test_an_image_that_does_not_fit_is_rejected():
    measure = BoundaryMetric(CLASSES)
    with pytest.raises(InvalidInput, match="class map"):
        measure.add(labeled(np.zeros((4, 4), np.uint8)), answer(np.zeros((4, 5), np.uint8)))
    with pytest.raises(InvalidInput, match="class map"):
        measure.add(labeled(np.full((4, 4), 9, np.uint8)), answer(np.zeros((4, 4), np.uint8)))
