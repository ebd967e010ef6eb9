# SPDX-License-Identifier: Apache-2.0
"""A photo and a label map for datasets of a few files."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from imp_trt.data.dataset import Dataset

W, H = 128, 96
RING = [20, 10, 60, 10, 60, 50, 20, 50]
BOX = [20, 10, 40, 40]
Change = Callable[[dict[str, Any]], object]


def write_photo(path: Path) -> None:
    """A black photo; its folders are created."""
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), np.zeros((H, W, 3), np.uint8))


def two_classes() -> NDArray[np.uint8]:
    """Class 1 in a rectangle, class 2 in another."""
    mask = np.zeros((H, W), np.uint8)
    mask[10:50, 20:60], mask[60:90, 70:120] = 1, 2
    return mask


def write_coco(root: Path, change: Change) -> str:
    """Three photos and a COCO file of a cat and a dog, changed; what to open."""
    for name in ("a.png", "b.png", "sub/c.png"):
        write_photo(root / name)
    row = {"image_id": 1, "category_id": 1, "iscrowd": 0, "bbox": BOX, "segmentation": [RING]}
    data: dict[str, Any] = {
        "images": [
            {"id": k, "width": W, "height": H, "file_name": f} for k, f in ((1, "a.png"), (2, "b.png"))
        ],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
        "annotations": [{"id": 1, **row}, {"id": 2, **row, "image_id": 2, "category_id": 2}],
    }
    data = copy.deepcopy(data)
    change(data)
    (root / "train.json").write_text(json.dumps(data))
    return f"coco:{root}/train.json,{root}"


def boxes_of(data: Dataset) -> list[tuple[int, str, list[int]]]:
    """Image, class and box of each instance."""
    found = []
    for index in range(len(data)):
        sample = data[index]
        for number in range(1, int(sample.instances.max()) + 1):
            y, x = np.nonzero(sample.instances == number)
            box = [int(x.min()), int(y.min()), int(x.max()) + 1, int(y.max()) + 1]
            found.append((index, data.classes.names[sample.semantic[y[0], x[0]]], box))
    return found
