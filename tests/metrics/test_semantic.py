# SPDX-License-Identifier: Apache-2.0
"""Scores from the global confusion matrix, against counts by hand."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from imp_trt.classes import ClassTable
from imp_trt.errors import InvalidInput
from imp_trt.metrics.semantic import ConfusionMatrix, SemanticMetric, SemanticScores
from tests.support.pictures import CLASSES as PETS
from tests.support.pictures import DOG, FLOOR, WALL, answer, labeled

CLASSES = ClassTable(("a", "b", "c", "never"), (1,), ((0, 0, 0),) * 4)


def test_hand_counted_scores():
    truth = np.array([[0, 0, 0, 1], [1, 2, 2, 255]], np.uint8)
    found = np.array([[0, 0, 1, 1], [0, 2, 2, 1]], np.uint8)
    matrix = ConfusionMatrix(4)
    matrix.add(truth, found)
    scores = matrix.scores(CLASSES)
    np.testing.assert_allclose(scores.iou, [2 / 4, 1 / 3, 1.0, np.nan])
    np.testing.assert_allclose(scores.accuracy, [2 / 3, 1 / 2, 1.0, np.nan])
    assert scores.mean_iou == pytest.approx((1 / 2 + 1 / 3 + 1) / 3)
    assert scores.mean_accuracy == pytest.approx((2 / 3 + 1 / 2 + 1) / 3)
    assert scores.thing_iou == pytest.approx(1 / 3)
    assert scores.stuff_iou == pytest.approx(3 / 4)
    assert scores.pixel_accuracy == pytest.approx(5 / 7)
    assert scores.to_dict()["iou"]["never"] is None


def test_the_matrix_is_global_not_a_mean_of_images():
    matrix = ConfusionMatrix(4)
    matrix.add(np.zeros((1, 1), np.uint8), np.zeros((1, 1), np.uint8))
    matrix.add(np.zeros((1, 9), np.uint8), np.ones((1, 9), np.uint8))
    assert matrix.scores(CLASSES).iou[0] == pytest.approx(0.1)


def test_a_pixel_predicted_as_no_class_is_missed_and_nothing_else():
    measure = SemanticMetric(PETS)
    measure.add(
        labeled(np.array([[WALL, WALL, WALL, 255]], np.uint8)),
        answer(np.array([[WALL, 255, DOG, 255]], np.uint8)),
    )
    scores = measure.scores()
    assert scores.iou[WALL] == pytest.approx(1 / 3)
    assert scores.accuracy[WALL] == pytest.approx(1 / 3)
    assert scores.iou[DOG] == 0
    assert math.isnan(scores.iou[FLOOR])
    assert scores.pixel_accuracy == pytest.approx(1 / 3)


def test_a_class_that_is_only_predicted_scores_zero_and_has_no_accuracy():
    matrix = ConfusionMatrix(4)
    matrix.add(np.zeros((1, 4), np.uint8), np.array([[0, 0, 0, 2]], np.uint8))
    scores = matrix.scores(CLASSES)
    assert scores.iou[2] == 0
    assert math.isnan(scores.accuracy[2])
    assert scores.mean_iou == pytest.approx(3 / 8)
    assert scores.mean_accuracy == pytest.approx(3 / 4)


def test_nothing_counted_gives_no_figure():
    scores = ConfusionMatrix(4).scores(CLASSES)
    assert scores.to_dict() == {
        **dict.fromkeys(("mean_iou", "thing_iou", "stuff_iou", "mean_accuracy", "pixel_accuracy")),
        "iou": dict.fromkeys(CLASSES.names),
        "accuracy": dict.fromkeys(CLASSES.names),
    }


def test_scores_come_back_from_json_as_they_were():
    rng = np.random.default_rng(3)
    matrix = ConfusionMatrix(4)
    matrix.add(rng.integers(0, 3, (9, 9), np.uint8), rng.integers(0, 3, (9, 9), np.uint8))
    data = matrix.scores(CLASSES).to_dict()
    again = SemanticScores.from_dict(json.loads(json.dumps(data)), CLASSES)
    assert again.to_dict() == data


@pytest.mark.parametrize(
    ("truth", "found"),
    [
        (np.zeros((2, 2), np.uint8), np.zeros((2, 3), np.uint8)),
        (np.full((2, 2), 4, np.uint8), np.zeros((2, 2), np.uint8)),
        (np.zeros((2, 2), np.uint8), np.full((2, 2), 200, np.uint8)),
    ],
)
def test_maps_that_do_not_fit_are_rejected(truth, found):
    matrix = ConfusionMatrix(4)
    with pytest.raises(InvalidInput, match="class map"):
        matrix.add(truth, found)
    assert not matrix.counts.any()


def test_with_all_255_classes_every_cell_is_its_own():
    names = tuple(f"c{i}" for i in range(255))
    matrix = ConfusionMatrix(255)
    values = np.arange(256, dtype=np.uint8)[None]
    matrix.add(values, values)
    scores = matrix.scores(ClassTable(names, (), ((0, 0, 0),) * 255))
    assert (scores.iou == 1).all()
    assert matrix.counts.sum() == 255


def test_the_confusion_matrix_goes_through_json():
    measure = SemanticMetric(PETS)
    measure.add(
        labeled(np.array([[WALL, WALL, FLOOR, 255]], np.uint8)),
        answer(np.array([[WALL, 255, DOG, DOG]], np.uint8)),
    )
    scores = measure.scores()
    assert scores.confusion is not None
    assert scores.confusion.sum() == 3
    assert scores.confusion[WALL, WALL] == scores.confusion[WALL, -1] == scores.confusion[FLOOR, DOG] == 1
    data = json.loads(json.dumps(scores.to_dict()))
    again = SemanticScores.from_dict(data, PETS)
    assert np.array_equal(again.confusion, scores.confusion)
    del data["confusion"]  # as written by version 0.1
    assert SemanticScores.from_dict(data, PETS).confusion is None
    data["confusion"] = [[1, 2], [3, 4]]
    with pytest.raises(ValueError, match="confusion"):
        SemanticScores.from_dict(data, PETS)
