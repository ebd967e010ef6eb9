# SPDX-License-Identifier: Apache-2.0
"""Targets of the mask head lie where the projection draws them, and cost what torchvision's loss costs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torchvision.models.detection import roi_heads

from imp_trt.models import detector
from imp_trt.models.network import ImpNetwork
from imp_trt.ops import instance_mask_projection
from imp_trt.train.batches import draw_batch
from tests.train.boxes import CLASSES, CONFIG, RECIPE, Boxes


@pytest.mark.parametrize("radius", [6, 12, 40])
def test_a_projected_target_lies_on_its_instance(radius):
    y, x = np.mgrid[:128, :128] + 0.5
    disc = torch.from_numpy(np.hypot(y - 60.3, 0.7 * (x - 66.8)) <= radius)
    ys, xs = torch.where(disc)
    box = torch.tensor([[xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]], dtype=torch.float32)
    target = detector.mask_targets(disc[None].to(torch.uint8), box, torch.zeros(1, dtype=torch.int64), 28)
    drawn = instance_mask_projection(
        box[None], torch.ones(1, 1), torch.zeros(1, 1, dtype=torch.int64), target[None], 1, (128, 128), 1.0
    )[0, 0]
    found = drawn >= 0.5
    assert (found & disc).sum() / (found | disc).sum() > 0.98
    for axis, grid in ((0, x[0]), (1, y[:, 0])):
        centers = [
            float((m.sum(axis) * torch.from_numpy(grid)).sum() / m.sum()) for m in (drawn, disc.float())
        ]
        assert abs(centers[0] - centers[1]) < 0.05


def test_many_masks_have_the_targets_that_each_has_alone():
    rng = np.random.default_rng(0)
    masks = torch.from_numpy(rng.integers(0, 2, (detector.MASKS_AT_ONCE * 2 + 3, 24, 40)).astype(np.uint8))
    corners = torch.from_numpy(rng.uniform(0, 20, (50, 2)).astype(np.float32))
    boxes = torch.cat([corners, corners + 7.5], dim=1)
    matched = torch.from_numpy(rng.integers(0, len(masks), 50))
    together = detector.mask_targets(masks, boxes, matched, 14)
    zero = torch.zeros(1, dtype=torch.int64)
    for row in range(50):
        alone = detector.mask_targets(masks[matched[row], None], boxes[row, None], zero, 14)
        assert torch.equal(together[row], alone[0])
    assert detector.mask_targets(masks[:0], boxes[:0], matched[:0], 14).shape == (0, 14, 14)


def test_with_torchvision_s_targets_the_losses_are_torchvision_s(monkeypatch):
    torch.manual_seed(0)
    network = ImpNetwork(CONFIG).train().detector
    batch = draw_batch(Boxes(), CLASSES, RECIPE, (0, 2, 0))
    features = {
        name: torch.randn(2, 64, 64 // s, 64 // s)
        for name, s in zip(("p2", "p3", "p4", "p5", "p6"), (4, 8, 16, 32, 64), strict=True)
    }
    monkeypatch.setattr(detector, "mask_targets", roi_heads.project_masks_on_boxes)
    torch.manual_seed(1)
    ours, proposals = network.losses(features, (64, 64), batch.instances)
    torch.manual_seed(1)
    proposals, _ = network.rpn(*detector._rpn_inputs(features, (64, 64)), batch.instances)
    _, theirs = network.roi(features, proposals, [(64, 64)] * 2, batch.instances)
    assert set(theirs) == {"loss_classifier", "loss_box_reg", "loss_mask"}
    for name, value in theirs.items():
        assert torch.equal(ours[name], value), name
