# SPDX-License-Identifier: Apache-2.0
"""Small networks whose random weights find things."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from imp_trt.classes import ClassTable
from imp_trt.models.config import ModelConfig
from imp_trt.models.network import ImpNetwork
from imp_trt.models.presets import COMPACT_DETECTOR, system

CLASSES = ClassTable(
    ("sky", "road", "car", "person"), (2, 3), ((0, 0, 255), (90, 90, 90), (255, 0, 0), (0, 255, 0))
)


@pytest.fixture(scope="session")
def classes() -> ClassTable:
    return CLASSES


@pytest.fixture(scope="session")
def config() -> ModelConfig:
    detector = replace(COMPACT_DETECTOR, pre_nms_per_level=40, proposals=30, candidates=40, detections=12)
    return system("panoptic-fpn-imp", CLASSES, (64, 96), detector_config=detector)


@pytest.fixture(scope="session")
def network(config: ModelConfig) -> ImpNetwork:
    """Random, but confident enough to detect: the head's logits are scaled up."""
    torch.manual_seed(3)
    network = ImpNetwork(config).eval()
    assert network.detector is not None
    with torch.no_grad():
        network.detector.roi.box_predictor.cls_score.weight.mul_(40)
    return network


@pytest.fixture(scope="session")
def frames() -> torch.Tensor:
    generator = torch.Generator().manual_seed(5)
    return torch.randint(0, 256, (2, 64, 96, 3), dtype=torch.uint8, generator=generator)
