# SPDX-License-Identifier: Apache-2.0
"""The detector in training: boxes keep their precision whatever the layers compute in."""

from __future__ import annotations

import pytest
import torch

from imp_trt.models.detector import Detector
from imp_trt.models.presets import COMPACT_DETECTOR


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_boxes_stay_float32_under_autocast(dtype):
    # bfloat16 has eight bits: 319 becomes 320 there, and a box one pixel high loses its height.
    torch.manual_seed(0)
    size = (320, 224)
    detector = Detector(16, 2, COMPACT_DETECTOR).train()
    features = {
        name: torch.randn(1, 16, -(-size[0] // stride), size[1] // stride)
        for name, stride in zip(("p2", "p3", "p4", "p5", "p6"), (4, 8, 16, 32, 64), strict=True)
    }
    masks = torch.zeros(1, *size, dtype=torch.uint8)
    masks[0, 319, 187:209] = 1
    target = {
        "boxes": torch.tensor([[187.0, 319.0, 209.0, 320.0]]),
        "labels": torch.tensor([1]),
        "masks": masks,
    }
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
        losses, proposals = detector.losses(features, size, [target])
    assert proposals[0].dtype == torch.float32
    assert all(bool(torch.isfinite(value)) for value in losses.values()), losses
