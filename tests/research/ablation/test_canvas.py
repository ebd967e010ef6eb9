# SPDX-License-Identifier: Apache-2.0
"""Recall and precision of the canvas."""

from __future__ import annotations

import numpy as np
import pytest

from research.ablation.canvas import CanvasMetric
from tests.support.pictures import CAT, CLASSES, DOG, FLOOR, answer, area, labeled

SIZE = (64, 64)


def picture():
    semantic = np.full(SIZE, FLOOR, np.uint8)
    semantic[area(SIZE, 0, 0, 32, 32)] = CAT
    return labeled(semantic)


def measured(masks, labels, scores, sample=None):
    measure = CanvasMetric(CLASSES)
    sample = sample or picture()
    measure.add(sample, answer(sample.semantic, masks, labels, scores))
    return measure.scores()


def test_a_perfect_detector_covers_every_cell():
    scores = measured([area(SIZE, 0, 0, 32, 32)], [CAT], [0.9])
    assert (scores["recall"], scores["precision"]) == (1, 1)
    assert scores["per_class"]["dog"] == {"recall": None, "precision": None}


def test_half_a_mask_is_half_the_recall():
    scores = measured([area(SIZE, 0, 0, 32, 16)], [CAT], [0.9])
    assert scores["recall"] == pytest.approx(0.5)
    assert scores["precision"] == 1


def test_a_low_score_or_another_class_does_not_count():
    assert measured([area(SIZE, 0, 0, 32, 32)], [CAT], [0.4])["recall"] == 0
    scores = measured([area(SIZE, 0, 0, 32, 32)], [DOG], [0.9])
    assert (scores["recall"], scores["precision"]) == (0, 0)


def test_void_counts_neither_way():
    sample = picture()
    sample.semantic[area(SIZE, 0, 16, 32, 32)] = 255
    scores = measured([area(SIZE, 0, 0, 32, 32)], [CAT], [0.9], sample)
    assert (scores["recall"], scores["precision"]) == (1, 1)


def test_no_things_anywhere_is_no_number():
    sample = labeled(np.full((30, 45), FLOOR, np.uint8))
    assert measured([], [], [], sample)["recall"] is None
