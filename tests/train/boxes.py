# SPDX-License-Identifier: Apache-2.0
"""A dataset that trains in seconds: bright squares and dim bars on a gray ground."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from imp_trt.classes import ClassTable
from imp_trt.data.dataset import Sample
from imp_trt.models.presets import COMPACT_DETECTOR, system
from imp_trt.train.config import Stage
from imp_trt.train.recipes import RECIPES

CLASSES = ClassTable(("ground", "box", "bar"), (1, 2), ((0, 0, 0), (255, 0, 0), (0, 255, 0)))


class Boxes:
    """Six images of 80x96; the second thing may cover the first."""

    name, terms, classes = "boxes", None, CLASSES

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> Sample:
        rng = np.random.default_rng(index)
        image = rng.integers(90, 110, (80, 96, 3)).astype(np.uint8)
        semantic, instances = np.zeros((80, 96), np.uint8), np.zeros((80, 96), np.int32)
        for number, (thing, h, w, value) in enumerate([(1, 24, 24, 250), (2, 12, 40, 20)], start=1):
            y, x = rng.integers(0, 80 - h), rng.integers(0, 96 - w)
            area = np.s_[y : y + h, x : x + w]
            image[area], semantic[area], instances[area] = value, thing, number
        return Sample(image, semantic, instances)


RECIPE = replace(
    RECIPES["smoke"],
    stage_one=Stage(6, 1e-3, 5e-4, warmup=2),
    stage_two=Stage(4, 1e-3, 1e-5, warmup=1),
    crop=(64, 64),
)
SMALL_DETECTOR = replace(COMPACT_DETECTOR, pre_nms_per_level=30, proposals=20, detections=8, roi_batch=16)
CONFIG = system("panoptic-fpn-imp", CLASSES, (64, 96), detector_config=SMALL_DETECTOR)
