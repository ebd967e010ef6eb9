# SPDX-License-Identifier: Apache-2.0
"""The detector in training: boxes keep their precision whatever the layers compute in."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torchvision.ops import box_iou

from imp_trt.errors import InvalidInput
from imp_trt.models.checkpoint import load_model, save_checkpoint
from imp_trt.models.deploy import DeployModule
from imp_trt.models.detector import Detector, pairwise_iou
from imp_trt.models.presets import COMPACT_DETECTOR
from tests.support.networks import detecting_network, small_config, smooth_frames


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


@pytest.mark.parametrize("scales", [(1.0,), (1.0, 2.0)])
def test_each_level_has_an_anchor_of_every_scale_and_ratio(scales):
    config = replace(COMPACT_DETECTOR, anchor_scales=scales)
    detector = Detector(16, 2, config)
    generator, ratios = detector.rpn.anchor_generator, len(config.aspect_ratios)
    assert generator.num_anchors_per_location() == [ratios * len(scales)] * 5
    assert detector.rpn.head.cls_logits.out_channels == ratios * len(scales)
    generator.set_cell_anchors(torch.float32, torch.device("cpu"))
    for size, cells in zip(config.anchor_sizes, generator.cell_anchors, strict=True):
        sides = (cells[:, 2:] - cells[:, :2]).prod(dim=1).sqrt()
        expected = sorted(size * scale for scale in scales for _ in range(ratios))
        assert sorted(sides.tolist()) == pytest.approx(expected, rel=0.15)  # torchvision rounds to pixels


def test_the_static_detector_has_the_same_anchors_and_boxes(tmp_path):
    config = small_config()
    detector_config = replace(config.detector_config, anchor_scales=(1.0, 1.41))
    network = detecting_network(replace(config, detector_config=detector_config))
    path = save_checkpoint(tmp_path / "two.safetensors", network, {})
    loaded = load_model(path)[0]
    assert loaded.config.detector_config.anchor_scales == (1.0, 1.41)
    frames = smooth_frames(2)
    expected = loaded.forward_frames(frames)
    with torch.no_grad():
        found = DeployModule(loaded)(frames)
    assert expected["num_detections"].min() > 0
    assert torch.equal(found[5], expected["num_detections"])
    torch.testing.assert_close(found[1], expected["boxes"], atol=1e-2, rtol=1e-3)


@pytest.mark.parametrize("scales", [(), (0.0,), (1.0, -1.0)])
def test_anchor_scales_that_are_none_are_rejected(scales):
    with pytest.raises(InvalidInput, match="anchor_scales"):
        replace(COMPACT_DETECTOR, anchor_scales=scales)


def test_pairwise_iou_is_torchvisions_to_the_bit():
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(500, 4, generator=generator) * 100
    boxes = torch.cat([corners[:, :2], corners[:, :2] + corners[:, 2:] - 20], dim=1)  # some inverted
    for first in (boxes[:0], boxes[:1], boxes[:37], boxes.double()[:37]):
        second = boxes[37:].to(first)
        before = first.clone(), second.clone()
        torch.testing.assert_close(pairwise_iou(first, second), box_iou(first, second), rtol=0, atol=0)
        assert torch.equal(first, before[0])
        assert torch.equal(second, before[1])


def test_the_rpn_matches_anchors_with_pairwise_iou():
    assert Detector(16, 2, COMPACT_DETECTOR).rpn.box_similarity is pairwise_iou
