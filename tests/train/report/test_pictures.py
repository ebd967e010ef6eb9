"""Which pictures are shown, and what their panels hold."""

from __future__ import annotations

import base64

import cv2
import numpy as np

from imp_trt.train.report.pictures import PANEL_WIDTH, PictureScores, picture_row, telling
from tests.support.pictures import CAT, CLASSES, labelled
from tests.train.report.conftest import ROOMS, half_blind, perfect


def decoded(url):
    head, data = url.split(",", 1)
    assert head == "data:image/jpeg;base64"
    return cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), cv2.IMREAD_COLOR)


def test_greatest_gain_first_then_greatest_loss():
    before, after = [0.5, 0.5, 0.5, 0.5, 0.5], [0.5, 0.9, 0.1, 0.7, 0.4]
    assert telling([before, after], 3) == [1, 3, 2]
    assert telling([before, after], 5) == [1, 3, 0, 2, 4]
    assert telling([before, after], 99) == [1, 3, 0, 4, 2]
    assert telling([after], 2) == [1, 2]
    assert telling([before, after], 0) == []


def test_a_picture_without_a_score_is_no_gain():
    assert telling([[float("nan"), 0.1], [0.5, 0.2]], 1) == [1]


def test_each_picture_is_scored_by_its_things():
    each = PictureScores(half_blind, ROOMS)
    for index in range(len(ROOMS)):
        each.predict(ROOMS[index].image)
        each.picture_done(index + 1)
    assert each.scores == [1.0, 1.0, 0.0, 0.0]


def test_panels_show_image_truth_and_answers():
    row = picture_row(ROOMS, 3, [("plain", half_blind), ("imp", perfect)], [0.0, 1.0])
    assert [name for name, _ in row.panels] == ["image", "ground truth", "plain", "imp"]
    assert row.caption == "picture 4: mean IoU of its things, %: plain 0.0, imp 100.0"
    image, truth, plain, imp = (decoded(url).astype(int) for _, url in row.panels)
    assert abs(image - 120).max() <= 2
    cat = ROOMS[3].semantic == CAT
    assert abs(truth - imp).max() <= 2
    assert abs(truth - plain)[cat].mean() > abs(truth - plain)[~cat].mean()
    # Without a label: the darkened image in every panel.
    assert all(abs(panel[1, 1] - 0.35 * 120).max() <= 4 for panel in (truth, plain, imp))


def test_large_pictures_are_made_smaller():
    class Wide:
        name, terms, classes = "wide", None, CLASSES

        def __len__(self):
            return 1

        def __getitem__(self, index):
            return labelled(np.full((100, 1000), 1, np.uint8))

    url = picture_row(Wide(), 0, [], []).panels[0][1]
    assert decoded(url).shape == (round(100 * PANEL_WIDTH / 1000), PANEL_WIDTH, 3)
