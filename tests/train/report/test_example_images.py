# SPDX-License-Identifier: Apache-2.0
"""Which images are shown, and what their panels hold."""

from __future__ import annotations

import base64

import cv2
import numpy as np

from imp_trt.results.image_grid import BAR, GAP
from imp_trt.train.report.example_images import (
    PANEL_WIDTH,
    ImageScores,
    data_url,
    image_row,
    telling,
    write_sheet,
)
from tests.support.pictures import CAT, CLASSES, FLOOR, answer, labeled
from tests.train.report.conftest import ROOMS, half_blind, perfect


class Wide:
    """One image, wider than a panel."""

    name, terms, classes = "wide", None, CLASSES

    def __len__(self):
        return 1

    def __getitem__(self, index):
        return labeled(np.full((100, 1000), 1, np.uint8))


def test_largest_gain_first_then_largest_loss():
    before, after = [0.5, 0.5, 0.5, 0.5, 0.5], [0.5, 0.9, 0.1, 0.7, 0.4]
    assert telling([before, after], 3) == [1, 3, 2]
    assert telling([before, after], 5) == [1, 3, 0, 2, 4]
    assert telling([before, after], 99) == [1, 3, 0, 4, 2]
    assert telling([after], 2) == [1, 2]
    assert telling([before, after], 0) == []


def test_an_image_without_a_score_is_no_gain():
    assert telling([[float("nan"), 0.1], [0.5, 0.2]], 1) == [1]
    assert telling([[float("nan"), 0.9, 0.3]], 2) == [1, 2]
    assert telling([[float("nan"), 0.9, 0.3]], 3) == [1, 2, 0]


def test_each_image_is_scored_by_its_things():
    each = ImageScores(half_blind, ROOMS)
    for index in range(len(ROOMS)):
        each.predict(ROOMS[index].image)
        each.image_done(index + 1)
    assert each.scores == [1.0, 1.0, 0.0, 0.0]


def test_panels_show_image_truth_and_answers():
    row = image_row(ROOMS, 3, [("plain", half_blind), ("imp", perfect)], [0.0, 1.0])
    assert [name for name, _ in row.panels] == ["image", "ground truth", "plain", "imp"]
    assert row.caption == "image 4: mean IoU of its things, %: plain 0.0, imp 100.0"
    image, truth, plain, imp = (panel.astype(int) for _, panel in row.panels)
    assert (image == 120).all()
    cat = ROOMS[3].semantic == CAT
    assert (truth == imp).all()
    assert (truth != plain)[cat].any()
    assert (truth == plain)[~cat].all()
    # Without a label: the darkened image in every panel.
    assert all(abs(panel[1, 1] - 0.35 * 120).max() <= 1 for panel in (truth, plain, imp))


def test_another_panel_shows_the_instances_alone():
    cat = ROOMS[3].semantic == CAT
    nothing_but_floor = np.full(cat.shape, FLOOR, np.uint8)

    def detects(score):
        return lambda frame: answer(nothing_but_floor, [cat], [CAT], [score])

    for score, visible in ((0.31, True), (0.29, False)):
        row = image_row(ROOMS, 3, [("imp", detects(score))], [0.0], instances=True)
        assert [name for name, _ in row.panels] == ["image", "ground truth", "imp", "instances alone"]
        truth, alone = row.panels[1][1].astype(int), row.panels[3][1].astype(int)
        assert ((alone == truth)[cat].all()) == visible
        assert abs(alone[~cat] - 0.35 * 120).max() <= 1  # no instance: the darkened image


def test_large_images_are_made_smaller():
    panel = image_row(Wide(), 0, [], []).panels[0][1]
    assert panel.shape == (round(100 * PANEL_WIDTH / 1000), PANEL_WIDTH, 3)


def test_a_panel_in_a_page_is_the_image():
    panel = image_row(ROOMS, 3, [], []).panels[0][1]
    head, data = data_url(panel).split(",", 1)
    assert head == "data:image/jpeg;base64"
    seen = cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), cv2.IMREAD_COLOR)
    assert abs(seen.astype(int) - panel).max() <= 2


def test_a_sheet_has_a_line_of_panels_for_each_row(tmp_path):
    rows = [image_row(ROOMS, index, [("imp", perfect)], [1.0]) for index in (3, 0)]
    path = write_sheet(tmp_path / "sheet.png", rows, ROOMS.classes)
    seen = cv2.imread(str(path))
    height, width = rows[0].panels[0][1].shape[:2]
    assert seen.shape[1] == 3 * width + 2 * GAP
    second = BAR + height + GAP
    for column, (_, panel) in enumerate(rows[1].panels):
        left = column * (width + GAP)
        assert (seen[second : second + height, left : left + width] == panel).all()


def test_rows_of_other_sizes_are_as_wide_as_the_narrowest(tmp_path):
    rows = [image_row(Wide(), 0, [], []), image_row(ROOMS, 0, [], [])]
    seen = cv2.imread(str(write_sheet(tmp_path / "sheet.png", rows, CLASSES)))
    assert seen.shape[1] == 2 * ROOMS[0].size[1] + GAP


def test_captions_name_the_file():
    class Named(type(ROOMS)):
        def image_name(self, index):
            return f"images/{index}.png"

    row = image_row(Named(), 3, [("imp", perfect)], [1.0])
    assert row.caption.startswith("images/3.png: mean IoU")
