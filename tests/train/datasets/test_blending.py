# SPDX-License-Identifier: Apache-2.0
"""Label maps that were resized with interpolation are told from those that were not."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from imp_trt.train.datasets import open_dataset

NAMES = [f"c{k}" for k in range(10)]


def _street() -> NDArray[np.uint8]:
    """Large areas, discs, and poles of one and two pixels that stand on the boundary of two classes."""
    label = np.full((240, 320), 9, np.uint8)
    label[100:] = 2
    label[160:, 100:] = 5
    for x, size, value in ((40, 30, 7), (150, 22, 1), (250, 40, 4)):
        cv2.circle(label, (x, 120), size, value, -1)
    label[:, 100] = 3
    label[30:, 200:202] = 6
    label[50:90, ::40] = 255
    return label


def _open(root: Path, labels: list[NDArray[np.uint8]]) -> None:
    for folder in ("images", "labels"):
        (root / folder).mkdir()
    for k, label in enumerate(labels):
        assert cv2.imwrite(str(root / f"labels/{k}.png"), label)
        assert cv2.imwrite(str(root / f"images/{k}.png"), np.zeros((*label.shape, 3), np.uint8))
    (root / "train.txt").write_text("".join(f"images/{k}.png labels/{k}.png\n" for k in range(len(labels))))
    (root / "dataset.json").write_text(json.dumps({"classes": NAMES, "things": ["c7"], "ignore_index": 255}))
    open_dataset(str(root), "train")


@pytest.mark.parametrize(
    ("how", "size"),
    [
        *((how, (224, 168)) for how in (cv2.INTER_LINEAR, cv2.INTER_AREA, cv2.INTER_CUBIC)),
        # OpenCV enlarges by area as by nearest neighbor.
        *((how, (512, 384)) for how in (cv2.INTER_LINEAR, cv2.INTER_CUBIC)),
        (cv2.INTER_AREA, (160, 120)),
    ],
)
def test_blended_values_are_reported(
    how: int, size: tuple[int, int], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    label = np.where(_street() == 255, 9, _street()).astype(np.uint8)
    resized = np.minimum(np.asarray(cv2.resize(label, size, interpolation=how)), 9).astype(np.uint8)
    _open(tmp_path, [label, resized, resized, resized])
    assert "as after a resize with interpolation" in caplog.text
    assert "with nearest neighbor" in caplog.text


@pytest.mark.parametrize("size", [(320, 240), (160, 120), (224, 168), (512, 384)])
def test_sharp_maps_are_not(size: tuple[int, int], tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    _open(tmp_path, [np.asarray(cv2.resize(_street(), size, interpolation=cv2.INTER_NEAREST), np.uint8)] * 2)
    assert "interpolation" not in caplog.text


@pytest.mark.parametrize("size", [(1, 1), (2, 1), (1, 2), (3, 3)])
def test_maps_of_a_few_pixels(size: tuple[int, int], tmp_path: Path) -> None:
    _open(tmp_path, [np.full(size, 2, np.uint8)])
