# SPDX-License-Identifier: Apache-2.0
"""Two models' scores on a small drawn set, and the set itself."""

from __future__ import annotations

import numpy as np
import pytest

from imp_trt.train.evaluation import METRICS, evaluate
from imp_trt.train.report.tables import Scored
from tests.support.pictures import CAT, CLASSES, FLOOR, WALL, answer, labeled


class Rooms:
    """Images of a wall above a floor with a cat before it; the first labels are void in one corner."""

    name, terms, classes = "rooms/val", "for cats only", CLASSES

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int):
        semantic = np.full((48, 64), WALL, np.uint8)
        semantic[30:] = FLOOR
        left = 4 + 10 * index
        semantic[20:40, left : left + 16] = CAT
        instances = (semantic == CAT).astype(np.int32)
        semantic[:4, :4] = 255
        sample = labeled(semantic, instances)
        # The predictors below recognize the image by its frame.
        sample.image[...] = 40 * index
        return sample


ROOMS = Rooms()


def perfect(frame):
    sample = ROOMS[int(frame[0, 0, 0]) // 40]
    semantic = np.where(sample.semantic == 255, WALL, sample.semantic).astype(np.uint8)
    mask = sample.instances == 1
    return answer(semantic, [mask], [CAT], [0.9], timing={"total": 5.0, "infer": 4.0})


def half_blind(frame):
    """Finds no cat in the last two images."""
    index = int(frame[0, 0, 0]) // 40
    if index < 2:
        return perfect(frame)
    semantic = np.full((48, 64), WALL, np.uint8)
    semantic[30:] = FLOOR
    return answer(semantic, timing={"total": 3.0, "infer": 2.0})


@pytest.fixture(scope="session")
def scored():
    return [
        Scored("plain", "plain.safetensors", evaluate(half_blind, ROOMS, METRICS)),
        Scored("imp", "imp.safetensors", evaluate(perfect, ROOMS, METRICS)),
    ]
