# SPDX-License-Identifier: Apache-2.0
"""The confusion matrix as a table of percentages."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from imp_trt.metrics.semantic import ConfusionMatrix
from imp_trt.train.report.confusion import NO_CLASS, confusion_table
from tests.support.pictures import CAT, CLASSES, DOG, FLOOR, WALL


def scores(counts):
    matrix = ConfusionMatrix(len(CLASSES))
    for (true, predicted), count in counts.items():
        matrix.counts[true, predicted] = count
    return replace(matrix.scores(CLASSES), confusion=matrix.counts)


def test_percentages_of_each_true_class():
    table = confusion_table(scores({(WALL, WALL): 150, (WALL, CAT): 50, (CAT, WALL): 1, (CAT, CAT): 999}))
    names = [CLASSES.names[k] for k in sorted((WALL, CAT))]
    assert list(table.head) == names
    cells = {
        (row, column): cell for row, line in table.rows for column, cell in zip(names, line, strict=True)
    }
    wall, cat = CLASSES.names[WALL], CLASSES.names[CAT]
    assert {key: cell.text for key, cell in cells.items()} == {
        (wall, wall): "75",
        (wall, cat): "25",
        (cat, wall): "",
        (cat, cat): "100",
    }
    assert cells[cat, wall].fraction == pytest.approx(0.001)
    assert [key for key, cell in cells.items() if cell.correct] == [(name, name) for name, _ in table.rows]


def test_a_class_that_is_only_predicted_has_a_column_and_no_row():
    table = confusion_table(scores({(FLOOR, FLOOR): 3, (FLOOR, DOG): 1}))
    assert set(table.head) == {CLASSES.names[FLOOR], CLASSES.names[DOG]}
    assert [name for name, _ in table.rows] == [CLASSES.names[FLOOR]]


def test_pixels_without_a_class_have_a_column():
    table = confusion_table(scores({(FLOOR, FLOOR): 3, (FLOOR, len(CLASSES)): 1}))
    assert table.head[-1] == NO_CLASS
    assert [cell.text for cell in table.rows[0][1]] == ["75", "25"]


def test_nothing_to_show():
    assert confusion_table(replace(scores({}), confusion=None)) is None
    assert confusion_table(scores({})).rows == ()
    assert np.array_equal(confusion_table(scores({})).head, ())
