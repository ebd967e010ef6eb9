"""Scores from the global confusion matrix, against counts by hand."""

from __future__ import annotations

import numpy as np
import pytest

from imp_trt.classes import ClassTable
from imp_trt.errors import InvalidInput
from imp_trt.train.evaluate import ConfusionMatrix, evaluate

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
    assert scores.thing_iou == pytest.approx(1 / 3)
    assert scores.stuff_iou == pytest.approx(3 / 4)
    assert scores.pixel_accuracy == pytest.approx(5 / 7)
    assert scores.to_dict()["iou"]["never"] is None


def test_the_matrix_is_global_not_a_mean_of_images():
    matrix = ConfusionMatrix(4)
    matrix.add(np.zeros((1, 1), np.uint8), np.zeros((1, 1), np.uint8))
    matrix.add(np.zeros((1, 9), np.uint8), np.ones((1, 9), np.uint8))
    assert matrix.scores(CLASSES).iou[0] == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("truth", "found"),
    [
        (np.zeros((2, 2), np.uint8), np.zeros((2, 3), np.uint8)),
        (np.full((2, 2), 4, np.uint8), np.zeros((2, 2), np.uint8)),
        (np.zeros((2, 2), np.uint8), np.full((2, 2), 200, np.uint8)),
    ],
)
def test_maps_that_do_not_fit_are_refused(truth, found):
    with pytest.raises(InvalidInput, match="class map"):
        ConfusionMatrix(4).add(truth, found)


def test_a_perfect_predictor_scores_one():
    from imp_trt.scenes import StreetScenes

    scenes = StreetScenes(seed=5, size=(64, 128), length=3)
    answers = {scenes[i].image.tobytes(): scenes[i].semantic for i in range(3)}
    seen: list[int] = []
    scores = evaluate(lambda frame: answers[frame.tobytes()] % 255, scenes, limit=2, on_image=seen.append)
    assert scores.mean_iou == 1.0
    assert seen == [1, 2]
