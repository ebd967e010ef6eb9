# SPDX-License-Identifier: Apache-2.0
"""Regions that are valid and mean something else: boxes in place of outlines, and holes."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from imp_trt.train.datasets import open_dataset
from imp_trt.train.datasets.region_checks import MIN_OBJECTS, fills_hole, report_boxes
from imp_trt.train.datasets.regions import Region
from tests.train.datasets.small_files import write_photo

Points = Sequence[tuple[float, float]]
SQUARE = [(0, 0), (1, 0), (1, 1), (0, 1)]
_SIZE = (100, 100)


def _at(points: Points, x: float, y: float, scale: float, angle: float = 0) -> NDArray[np.float64]:
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return (np.array(points, np.float64) @ turn.T * scale + (x, y)).ravel()


@pytest.mark.parametrize("angle", [0, 0.3])
@pytest.mark.parametrize(
    ("points", "told"),
    [
        (SQUARE, True),
        ([*SQUARE, SQUARE[0]], True),  # closed
        ([(0, 0), (3, 0), (3, 1), (0, 1.01)], True),  # rounded
        ([(0, 0), (1, 0), (1, 1), (0.2, 1)], False),
        ([(0, 0), (1, 0), (0, 1)], False),
        ([(0, 0), (0.5, 0), (1, 0), (1, 1), (0, 1)], False),
    ],
)
def test_boxes_as_polygons(
    points: Points, told: bool, angle: float, caplog: pytest.LogCaptureFixture
) -> None:
    shapes = [[_at(points, 5 * i, 40, 10, angle)] for i in range(MIN_OBJECTS)]
    report_boxes("x.json", shapes)
    assert (f"x.json: all {MIN_OBJECTS} objects are rectangles" in caplog.text) == told
    caplog.clear()
    report_boxes("x.json", shapes[1:])  # too few
    report_boxes("x.json", [*shapes, [_at(SQUARE[:3], 0, 0, 9)]])
    report_boxes("x.json", [*shapes, []])  # RLE
    report_boxes("x.json", [*shapes, shapes[0] * 2])
    assert not caplog.records


def test_rotated_boxes_of_yolo(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """YOLO's rotated boxes have the form of polygons: a class and four corners."""
    pytest.importorskip("pycocotools", reason="needs pycocotools")
    write_photo(tmp_path / "images/train/a.png")
    (tmp_path / "labels/train").mkdir(parents=True)
    corners = [_at(SQUARE, 0.1 + 0.05 * i, 0.4, 0.2, 0.2 * i) / (1, 2, 1, 2, 1, 2, 1, 2) for i in range(12)]
    lines = ["0 " + " ".join(f"{v:.6f}" for v in polygon) for polygon in corners]
    (tmp_path / "labels/train/a.txt").write_text("\n".join(lines))
    (tmp_path / "data.yaml").write_text("names: [cat]\ntrain: images/train\n")
    with caplog.at_level(logging.WARNING, "imp_trt"):
        open_dataset(str(tmp_path), "train")
    assert "all 12 objects are rectangles" in caplog.text


BAY = [(0, 0), (3, 0), (3, 1), (1, 1), (1, 2), (3, 2), (3, 3), (0, 3)]  # open at the right


@pytest.mark.parametrize("area", [None, 0, "x", 100.0])
@pytest.mark.parametrize(
    ("parts", "hole"),
    [
        ([_at(SQUARE, 10, 10, 40), _at(SQUARE, 20, 20, 10)], True),
        ([_at(SQUARE, 20, 20, 10), _at(SQUARE, 10, 10, 40)], True),
        ([_at(SQUARE, 10, 10, 20), _at(SQUARE, 50, 10, 20)], False),
        ([_at(BAY, 10, 10, 20), _at(SQUARE, 35, 35, 10)], False),  # in the bay
        ([_at(BAY, 10, 10, 20), _at(SQUARE, 15, 35, 10)], True),
        ([_at(SQUARE, 10, 10, 40)], False),
        ([_at(SQUARE, 10, 10, 40)] * 2, False),
    ],
)
def test_polygons_within_polygons(parts: list[NDArray[np.float64]], hole: bool, area: object) -> None:
    assert fills_hole(Region(_SIZE, tuple(parts)), area) == hole
    areas = [
        abs(np.dot(p[::2], np.roll(p[1::2], -1)) - np.dot(p[1::2], np.roll(p[::2], -1))) / 2 for p in parts
    ]
    assert not fills_hole(Region(_SIZE, tuple(parts)), float(sum(areas)))  # parts of their own
