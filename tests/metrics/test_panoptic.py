# SPDX-License-Identifier: Apache-2.0
"""Panoptic quality, against cases by hand and a search over all pairs of segments."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from imp_trt.metrics.panoptic import PanopticMetric, PanopticScores
from tests.support.pictures import CAT, CLASSES, DOG, FLOOR, WALL, answer, area, labeled

SIZE = (20, 40)
LEFT, RIGHT = area(SIZE, 0, 0, 10, 10), area(SIZE, 0, 20, 10, 30)


def truth(void: Any = None, crowd: bool = False) -> Any:
    semantic = np.full(SIZE, WALL, np.uint8)
    semantic[LEFT | RIGHT] = DOG
    if void is not None:
        semantic[void] = 255
    numbers = np.where(LEFT, 1, 0) + np.where(RIGHT, 0 if crowd else 2, 0)
    numbers[semantic == 255] = 0
    return labeled(semantic, numbers.astype(np.int32))


def scored(sample: Any, result: Any, **fusion: Any) -> PanopticScores:
    measure = PanopticMetric(CLASSES, **fusion)
    measure.add(sample, result)
    return measure.scores()


def counts(scores: PanopticScores, index: int) -> tuple[int, int, int]:
    return int(scores.matched[index]), int(scores.spurious[index]), int(scores.missed[index])


def test_a_perfect_answer_scores_one():
    sample = truth()
    scores = scored(sample, answer(sample.semantic, [LEFT, RIGHT], [DOG, DOG], [0.9, 0.8]))
    assert scores.all == scores.things == scores.stuff == (1, 1, 1)
    assert np.isnan(scores.of(CAT).pq)


def test_quality_by_hand():
    sample = truth()
    smaller = area(SIZE, 0, 0, 8, 10)  # IoU 0.8 with the left dog
    astray = area(SIZE, 12, 30, 18, 40)  # a dog where there is none; the right one is missed
    scores = scored(sample, answer(sample.semantic, [smaller, astray], [DOG, DOG], [0.9, 0.8]))
    assert counts(scores, DOG) == (1, 1, 1)
    assert scores.of(DOG) == pytest.approx((0.8 / 2, 0.8, 1 / 2))
    # The class map says dog on what the smaller mask leaves: void, not wall.
    wall = (800 - 200 - 60) / (800 - 200)
    assert scores.of(WALL) == pytest.approx((wall, wall, 1))
    assert scores.all.pq == pytest.approx((0.4 + wall) / 2)
    assert (scores.things.pq, scores.stuff.pq) == pytest.approx((0.4, wall))


def test_an_overlap_of_one_half_is_no_match():
    sample = truth()
    half = area(SIZE, 0, 0, 5, 10)
    assert counts(scored(sample, answer(sample.semantic, [half], [DOG], [0.9])), DOG) == (0, 1, 2)
    more = half | area(SIZE, 5, 0, 6, 1)
    assert counts(scored(sample, answer(sample.semantic, [more], [DOG], [0.9])), DOG) == (1, 0, 1)


def test_segments_of_another_class_do_not_match():
    sample = truth()
    scores = scored(sample, answer(sample.semantic, [LEFT, RIGHT], [CAT, DOG], [0.9, 0.8]))
    assert counts(scores, DOG) == (1, 0, 1)
    assert counts(scores, CAT) == (0, 1, 0)
    assert scores.of(CAT) == (0, 0, 0)


def test_void_is_left_out_of_the_union():
    void = area(SIZE, 10, 0, 20, 40)
    larger = area(SIZE, 0, 0, 20, 10)  # the dog and as much void below it
    sample = truth(void)
    scores = scored(sample, answer(sample.semantic, [larger, RIGHT], [DOG, DOG], [0.9, 0.8]))
    assert scores.of(DOG) == (1, 1, 1)


@pytest.mark.parametrize(("rows", "spurious"), [(11, 0), (10, 1)])
def test_a_segment_mostly_on_void_is_no_error(rows, spurious):
    void = area(SIZE, 20 - rows, 30, 20, 40)
    astray = area(SIZE, 0, 30, 20, 40)
    sample = truth(void)
    scores = scored(sample, answer(sample.semantic, [LEFT, RIGHT, astray], [DOG] * 3, [0.9, 0.8, 0.7]))
    assert counts(scores, DOG) == (2, spurious, 0)


def test_a_crowd_is_neither_missed_nor_matched_and_excuses_its_class_alone():
    sample = truth(crowd=True)
    nothing = scored(sample, answer(sample.semantic, [LEFT], [DOG], [0.9]))
    assert counts(nothing, DOG) == (1, 0, 0)
    dogs = scored(sample, answer(sample.semantic, [LEFT, RIGHT], [DOG, DOG], [0.9, 0.8]))
    assert counts(dogs, DOG) == (1, 0, 0)
    cats = scored(sample, answer(sample.semantic, [LEFT, RIGHT], [DOG, CAT], [0.9, 0.8]))
    assert counts(cats, CAT) == (0, 1, 0)


def test_counts_add_up_over_images():
    sample = truth()
    measure = PanopticMetric(CLASSES)
    measure.add(sample, answer(sample.semantic, [LEFT, RIGHT], [DOG, DOG], [0.9, 0.8]))
    measure.add(sample, answer(sample.semantic))
    scores = measure.scores()
    assert counts(scores, DOG) == (2, 0, 2)
    assert scores.of(DOG).pq == pytest.approx(2 / 3)


def test_arguments_reach_the_fusion():
    sample = truth()
    found = answer(sample.semantic, [LEFT, RIGHT], [DOG, DOG], [0.9, 0.3])
    assert counts(scored(sample, found), DOG) == (1, 0, 1)
    assert counts(scored(sample, found, min_score=0.3), DOG) == (2, 0, 0)


@pytest.mark.parametrize("seed", range(4))
def test_equal_to_a_search_over_all_pairs(seed):
    rng = np.random.default_rng(seed)
    size = (24, 30)

    def rectangle() -> Any:
        top, left = int(rng.integers(0, 18)), int(rng.integers(0, 24))
        return area(size, top, left, top + int(rng.integers(3, 12)), left + int(rng.integers(3, 12)))

    semantic = np.full(size, WALL, np.uint8)
    semantic[:, 15:] = FLOOR
    numbers = np.zeros(size, np.int32)
    masks, labels = [], []
    for number in range(1, 9):
        mask, label = rectangle(), int(rng.choice([CAT, DOG]))
        semantic[mask], numbers[mask] = label, number
        masks.append(np.roll(mask, int(rng.integers(0, 2)), axis=1) if number % 4 else rectangle())
        labels.append(label)
    numbers[numbers == 5] = 0
    void = rectangle()
    semantic[void], numbers[void] = 255, 0
    predicted = np.where(rng.random(size) < 0.1, FLOOR, np.where(semantic == 255, WALL, semantic))
    result = answer(predicted.astype(np.uint8), masks, labels, np.linspace(0.95, 0.55, 8).tolist())

    fused = result.panoptic()
    regions = [(semantic == c, c, False) for c in CLASSES.stuff]
    regions += [((numbers == k) & (semantic == c), c, False) for k in range(1, 9) for c in (CAT, DOG)]
    regions += [((numbers == 0) & (semantic == c), c, True) for c in CLASSES.things]
    regions = [r for r in regions if r[0].any()]
    iou, tally = np.zeros(4), np.zeros((3, 4), int)
    hit = set()
    for segment in fused.segments:
        mask = fused.ids == segment.id
        partner = None
        excused = mask & (semantic == 255)
        for index, (region, label, crowd) in enumerate(regions):
            if label != segment.label:
                continue
            if crowd:
                excused = excused | (mask & region)
                continue
            overlap = (mask & region).sum() / ((mask & (semantic != 255)) | region).sum()
            if overlap > 0.5:
                partner = index
                iou[label] += overlap
        if partner is not None:
            hit.add(partner)
            tally[0, segment.label] += 1
        elif excused.sum() / mask.sum() <= 0.5:
            tally[1, segment.label] += 1
    for index, (_, label, crowd) in enumerate(regions):
        tally[2, label] += not crowd and index not in hit
    scores = scored(labeled(semantic, numbers), result)
    np.testing.assert_array_equal([scores.matched, scores.spurious, scores.missed], tally)
    np.testing.assert_allclose(scores.iou, iou)
    assert tally[0].sum() > 2


def test_scores_come_back_from_json_as_they_were():
    sample = truth()
    data = scored(sample, answer(sample.semantic, [LEFT], [DOG], [0.9])).to_dict()
    assert data["per_class"]["cat"]["pq"] is None
    assert PanopticScores.from_dict(json.loads(json.dumps(data)), CLASSES).to_dict() == data
