# SPDX-License-Identifier: Apache-2.0
"""Intervals of differences, against confusion matrices of the drawn images."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from imp_trt.errors import InvalidInput
from imp_trt.metrics import ConfusionMatrix, SemanticMetric, SemanticScores, bootstrap_differences
from tests.support.pictures import CLASSES, WALL, answer, labeled

K = len(CLASSES)


def maps(error: float, images: int = 8, seed: int = 0) -> list[tuple[np.ndarray, np.ndarray]]:
    """Ground truth and predictions of which a fraction is wrong, the same pixels for every fraction."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, K, (images, 12, 16)).astype(np.uint8)
    other = rng.integers(0, K, truth.shape).astype(np.uint8)
    wrong = rng.random(truth.shape) < error
    return list(zip(truth, np.where(wrong, other, truth).astype(np.uint8), strict=True))


def scores(pairs: list[tuple[np.ndarray, np.ndarray]]) -> SemanticScores:
    metric = SemanticMetric(CLASSES)
    for truth, predicted in pairs:
        metric.add(labeled(truth), answer(predicted))
    return metric.scores()


def test_each_draw_is_the_score_of_its_images() -> None:
    ours, theirs = maps(0.2), maps(0.3)
    found = bootstrap_differences(scores(ours), scores(theirs), resamples=40, confidence=0.8, seed=3)
    differences = []
    for times in np.random.default_rng(3).multinomial(8, np.full(8, 1 / 8), 40):
        matrices = [ConfusionMatrix(K), ConfusionMatrix(K)]
        for matrix, pairs in zip(matrices, (ours, theirs), strict=True):
            for pair, count in zip(pairs, times, strict=True):
                for _ in range(count):
                    matrix.add(*pair)
        model, baseline = (m.scores(CLASSES) for m in matrices)
        differences.append(model.thing_iou - baseline.thing_iou)
    low, high = np.percentile(differences, (10, 90))
    assert found["thing_iou"].low == pytest.approx(low, abs=1e-12)
    assert found["thing_iou"].high == pytest.approx(high, abs=1e-12)
    assert found["thing_iou"].value == scores(ours).thing_iou - scores(theirs).thing_iou


def test_scores_from_counts_of_images_are_those_of_the_images() -> None:
    expected = scores(maps(0.2))
    assert expected.image_counts is not None
    found = SemanticScores.from_image_counts(expected.image_counts, CLASSES)
    assert replace(expected, confusion=None).to_dict() == found.to_dict()
    assert bootstrap_differences(found, expected)["mean_iou"].high == 0


@pytest.mark.parametrize(
    "counts",
    [
        np.zeros((2, 3, K)),
        np.zeros((3, K), np.int64),
        np.zeros((2, 3, K + 1), np.int64),
        np.full((2, 3, K), -1),
        np.tile(np.array([[4], [5], [6]]), (2, 1, K)),
    ],
)
def test_other_counts_are_rejected(counts: np.ndarray) -> None:
    with pytest.raises(InvalidInput, match="image counts"):
        SemanticScores.from_image_counts(counts, CLASSES)


def test_equal_models_differ_by_nothing_and_a_better_one_is_seen() -> None:
    same = bootstrap_differences(scores(maps(0.2)), scores(maps(0.2)))
    assert {(i.value, i.low, i.high) for i in same.values()} == {(0.0, 0.0, 0.0)}
    better = bootstrap_differences(scores(maps(0.1)), scores(maps(0.3)))["mean_iou"]
    assert 0 < better.low < better.value < better.high
    assert bootstrap_differences(scores(maps(0.1)), scores(maps(0.3)))["mean_iou"] == better, "repeatable"


def test_classes_that_do_not_occur() -> None:
    wall = np.full((4, 4), WALL, np.uint8)
    found = bootstrap_differences(scores([(wall, wall)] * 3), scores([(wall, wall)] * 3))
    assert math.isnan(found["thing_iou"].value)
    assert json.loads(json.dumps(found["thing_iou"].to_dict())) == {"value": None, "low": None, "high": None}
    assert found["mean_iou"].to_dict() == {"value": 0.0, "low": 0.0, "high": 0.0}


def test_scores_that_cannot_be_paired() -> None:
    ours = scores(maps(0.2))
    for other in (
        scores(maps(0.2, seed=1)),
        scores(maps(0.2, images=4)),
        SemanticScores.from_dict(ours.to_dict(), CLASSES),
    ):
        with pytest.raises(InvalidInput, match="scores"):
            bootstrap_differences(ours, other)
    with pytest.raises(InvalidInput, match="images"):
        bootstrap_differences(scores([]), scores([]))
    metric = SemanticMetric(replace(CLASSES, names=tuple(f"{n}2" for n in CLASSES.names)))
    for truth, predicted in maps(0.2):
        metric.add(labeled(truth), answer(predicted))
    with pytest.raises(InvalidInput, match="same images"):
        bootstrap_differences(ours, metric.scores())
