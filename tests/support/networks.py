# SPDX-License-Identifier: Apache-2.0
"""Networks with random weights that find things, and frames that look like something."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

from imp_trt.classes import ClassTable
from imp_trt.models.config import ModelConfig
from imp_trt.models.network import ImpNetwork
from imp_trt.models.presets import COMPACT_DETECTOR, system

CLASSES = ClassTable(
    ("road", "sky", "car", "person"), (2, 3), ((128, 64, 128), (70, 130, 180), (0, 0, 142), (220, 20, 60))
)


def small_config(name: str = "panoptic-fpn-imp", backbone: str = "compact", **changes: object) -> ModelConfig:
    """One of the paper's systems at 64x96 with few boxes."""
    detector = replace(COMPACT_DETECTOR, pre_nms_per_level=60, proposals=40, candidates=50, detections=12)
    return system(name, CLASSES, (64, 96), backbone, **{"detector_config": detector, **changes})


def detecting_network(config: ModelConfig, seed: int = 3) -> ImpNetwork:
    """Random weights, scaled so that boxes are confident, differ in class, and suppress one another."""
    torch.manual_seed(seed)
    network = ImpNetwork(config).eval()
    generator = torch.Generator().manual_seed(seed)

    def redraw(layer: nn.Module, deviation: float) -> None:
        layer.weight.normal_(0, deviation, generator=generator)

    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d | FrozenBatchNorm2d):
                module.running_mean.normal_(0, 0.1, generator=generator)
                module.running_var.uniform_(0.8, 1.5, generator=generator)
        if network.detector is not None:
            redraw(network.detector.rpn.head.cls_logits, 0.05)
            redraw(network.detector.rpn.head.bbox_pred, 0.02)
            redraw(network.detector.roi.box_predictor.cls_score, 0.35)
            redraw(network.detector.roi.box_predictor.bbox_pred, 0.15)
            redraw(network.detector.roi.mask_predictor.mask_fcn_logits, 0.5)
    return network


def canvas_reading_network(config: ModelConfig, seed: int = 3) -> ImpNetwork:
    """As detecting_network, with class maps of things where their canvas is above 0.05, else of stuff."""
    network = detecting_network(replace(config, canvas_skip=True), seed)
    head = network.semantic
    things = list(config.classes.things)
    stuff = list(config.classes.stuff)
    with torch.no_grad():
        # Classes of stuff follow the sign of one feature.
        head.classify.weight[things] = 0
        head.classify.weight[stuff] -= head.classify.weight[stuff].mean(1, keepdim=True)
        head.classify.bias.zero_()
        head.classify.bias[things] = -50
        head.canvas_to_logits.weight.zero_()
        for channel, thing in enumerate(things):
            head.canvas_to_logits.weight[thing, channel] = 1000
    return network


def smooth_frames(count: int = 2, size: tuple[int, int] = (64, 96), seed: int = 5) -> Tensor:
    """[count, H, W, 3] uint8: blobs of color."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, size[0] // 12, size[1] // 12, generator=generator)
    fine = nn.functional.interpolate(coarse, size=size, mode="bicubic", align_corners=False)
    return (fine.clamp(0, 1) * 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()
